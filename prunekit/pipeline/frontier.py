"""Slim models of several speeds, from one iterative pruning: what each keeps is a plan that `prunekit apply` carries out."""

from __future__ import annotations

from pathlib import Path

from prunekit.errors import StatisticsError
from prunekit.pipeline.decide import forget_dense, iterative_pruner, merge_plans
from prunekit.pipeline.max_drop import Evaluator
from prunekit.pipeline.records import FRONTIER, Decided, Run
from prunekit.pipeline.targets import latency_goal
from prunekit.plan import Plan
from prunekit.pruning.costs import Params
from prunekit.report.model import FrontierPoint
from prunekit.runtime.timing import latency_of_files

#: Shares of the dense model's time.
SHARES = (0.7, 0.5, 0.35, 0.25, 0.18, 0.13)


def draw_frontier(run: Run, decided: Decided, folder: Path) -> tuple[tuple[FrontierPoint, ...], tuple[str, ...]]:
    """Prune iteratively, save the plan of each step, and score and time its file; return the points, the dense model first, and notes.

    Scores are those of the validation split, since a point is chosen by them.
    """
    full = latency_goal(run, decided.before, decided.neurons, 1)
    if decided.start is None and decided.neurons is None and decided.cut is not None and decided.cut.plan is not None:
        # Blocks were named: heads and FFN neurons of the others can still go.
        forget_dense(decided.reader)
    work = iterative_pruner(run.recipe, run.inputs, decided.reader) if decided.start is None else decided.start.fork()
    evaluator = Evaluator(run, decided.neurons)
    least, start = work.least(full.cost), work.start.params_layers
    files, scores = {"dense": evaluator.dense}, {"dense": (evaluator.drop(evaluator.dense).dense, 1.0)}
    notes: tuple[str, ...] = (
        () if run.recipe.effort is None else ("frontier: its points are not trained; --recover trains the model that ships alone",)
    )
    with run.stage("frontier", unit="models"):
        for done, share in enumerate(SHARES):
            if share <= least or not work.removable:
                break
            name = f"latency-{share * 100:.0f}"
            try:
                work.step([full.at(share)])
                shrunk = merge_plans(run.inputs, decided.before, work)
                file = evaluator.export(evaluator.read(shrunk.model, shrunk.plan), name)
                scores[name] = evaluator.drop(file).slim, Params().of(work.view) / start
            except StatisticsError as error:
                notes += (f"frontier: {name} and what is faster was left out: {error}",)
                break
            files[name] = file
            (folder / FRONTIER).mkdir(exist_ok=True)
            shared = {"vocabulary": decided.plan.vocabulary, "provenance": decided.plan.provenance}
            Plan.model_validate({**dict(shrunk.plan), **shared}).save(folder / FRONTIER / f"{name}.json")
            run.stage.step(done + 1, len(SHARES))
    if len(files) == 1:
        return (), notes
    with run.stage("latency"):
        (comparison,) = latency_of_files(
            files, run.inputs.encoded["test"], batch_sizes=(1,), threads=run.recipe.threads, seed=run.recipe.seed
        )
    points = []
    for name, (value, params) in scores.items():
        ratio = None if name == "dense" else comparison.ratio(name)
        speed = (1.0, 1.0, 1.0) if ratio is None else (ratio.value, ratio.low, ratio.high)
        points.append(FrontierPoint(name=name, value=value, params=params, speed=speed[0], low=speed[1], high=speed[2]))
    return tuple(points), notes
