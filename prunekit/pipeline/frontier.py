"""Slim models of several speeds, from one way down: what each keeps is a plan that `prunekit apply` carries out."""

from __future__ import annotations

from pathlib import Path

from prunekit.errors import StatisticsError
from prunekit.pipeline.decide import shrinker, whole
from prunekit.pipeline.max_drop import Judge
from prunekit.pipeline.records import Decided, Inputs
from prunekit.pipeline.targets import latency_goal
from prunekit.plan import Plan
from prunekit.pruning.costs import Params
from prunekit.recipe import Recipe
from prunekit.report.model import FrontierPoint
from prunekit.report.progress import Stages
from prunekit.runtime.timing import latency_of_files

#: Shares of the dense model's time.
SHARES = (0.7, 0.5, 0.35, 0.25, 0.18, 0.13)
FOLDER = "frontier"


def draw_frontier(
    recipe: Recipe, inputs: Inputs, decided: Decided, folder: Path, scratch: Path, stage: Stages
) -> tuple[tuple[FrontierPoint, ...], tuple[str, ...]]:
    """Go down step by step, keep each step's plan, and score and time its file; the dense model comes first.

    Scores are those of the validation split, since a point is chosen by them. Beside the points: what is to be said of them.
    """
    full = latency_goal(recipe, inputs, decided.before, decided.neurons, 1, stage)
    work = shrinker(recipe, inputs, decided.reader) if decided.start is None else decided.start.fork()
    judge = Judge(recipe, inputs, decided.neurons, scratch, stage)
    least, start = work.least(full.cost), work.start.params_layers
    files, scores = {"dense": judge.dense}, {"dense": (judge.drop(judge.dense).dense, 1.0)}
    notes: tuple[str, ...] = (
        () if recipe.effort is None else ("frontier: its points are not trained; --recover trains the model that ships alone",)
    )
    (folder / FOLDER).mkdir()
    with stage("frontier", unit="models"):
        for done, share in enumerate(SHARES):
            if share <= least:
                break
            name = f"latency-{share * 100:.0f}"
            try:
                work.step([full.at(share)])
                made = whole(inputs, decided.before, work)
                file = judge.export(judge.read(made.model, made.plan), name)
                scores[name] = judge.drop(file).slim, Params().of(work.view) / start
            except StatisticsError as error:
                notes += (f"frontier: {name} and what is faster was left out: {error}",)
                break
            files[name] = file
            kept = {"vocabulary": decided.plan.vocabulary, "provenance": decided.plan.provenance}
            Plan.model_validate({**dict(made.plan), **kept}).save(folder / FOLDER / f"{name}.json")
            stage.step(done + 1, len(SHARES))
    if len(files) == 1:
        return (), notes
    with stage("latency"):
        (found,) = latency_of_files(files, inputs.encoded["test"], batch_sizes=(1,), threads=recipe.threads, seed=recipe.seed)
    points = []
    for name, (value, params) in scores.items():
        ratio = None if name == "dense" else found.ratio(name)
        speed = (1.0, 1.0, 1.0) if ratio is None else (ratio.value, ratio.low, ratio.high)
        points.append(FrontierPoint(name=name, value=value, params=params, speed=speed[0], low=speed[1], high=speed[2]))
    return tuple(points), notes
