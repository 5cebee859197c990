"""Forecast of the time and the memory of a run, before it begins: the cost of each stage, times the speed of this machine.

Speed is measured on the model and the rows themselves, for about a second. The cost of a stage relative to a forward pass is estimated
from what it computes, with constants that were compared with the stages of three runs (MiniLM-L6 on the docstrings, SST-2 and TREC; on
two cores and on one). Memory was compared with the peaks of four: TREC with two kinds of label, 1,000 classes, and random models of
the shapes of BERT-base and BERT-large, while they still held more than now.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from prunekit.budget import ABSOLUTE, TIMES, Unit
from prunekit.pipeline.frontier import SHARES
from prunekit.pipeline.inputs import calibration_size
from prunekit.pipeline.neurons import CHOICE_ROWS, DRAWS, neuron_budget
from prunekit.pipeline.records import Inputs
from prunekit.pipeline.recovery import answer_memory, bounded, effort_of
from prunekit.pipeline.targets import structure_budgets
from prunekit.plan import Plan
from prunekit.probes.selection import ALPHAS, SEARCH_ROWS
from prunekit.pruning.shrink import steps_to
from prunekit.readout.baselines import numbered
from prunekit.recipe import Recipe
from prunekit.report.base import BASELINES
from prunekit.report.progress import Stages
from prunekit.report.time_left import Expected
from prunekit.stats.rows import LIMIT
from prunekit.stats.sensitivity import TOKENS as GRAPH_TOKENS

_PROBE_ROWS, _PROBE_SECONDS = 256, 1.0
#: Iterations of a loop in Python, and its seconds on the reference machine, for which the constants are meant.
_LOOP, _LOOP_SECONDS = 300_000, 0.011

# Forward passes of the dense model over the same tokens.
_READ = 1.1  # neurons of all layers, and their moments
_STEP = 8.0  # one step of pruning: sensitivity, choice and refit
_TRIM = 3.0  # a cheap step
_BASELINE = 2.5
_REFIT = 5.0
_TRAIN = 3.0  # of the slim model, and one of the dense model that teaches
_RUNTIME = 0.7  # a file in onnxruntime
#: Characters of a token of text that has not been tokenised yet.
_CHARACTERS = 4.5
# Floating-point operations of the choice of neurons, as a multiple of D^3.
_CHOICE = 6.0
# Passes over rows and classes in which the probes of a search are fitted, its oracle on all rows, and one classifier (33,000 and 205,000
# words of UD-EWT).
_SEARCH_PASSES, _ORACLE_PASSES, _FIT_PASSES = 220, 140, 220
# Seconds of Python's own work on the reference machine.
_EXPORT, _EXPORT_LAYER = 1.2, 0.25
_LOWER = 4.0
_LATENCY = 24.0  # seconds a batch size
_TABLE = 25.0
# Bytes of Python, its libraries and onnxruntime.
_LIBRARIES = 1.2e9
#: Vectors of the size of a solution that fitting one probe takes: the history of L-BFGS, and work.
_PROBE_VECTORS = 40
#: Copies of a slim model's weights while it is trained: itself, gradient, two moments, the start, what it was before, and two baselines.
_SLIM_COPIES = 8
#: Steps of training below which a warning is given.
_FEW_STEPS = 20


@dataclass(frozen=True)
class Speed:
    """The current speed of this machine.

    Attributes
    ----------
    token : float
        Seconds of a forward pass of the dense model, per token.
    python : float
        Time of Python's own work, as a multiple of that on the reference machine.
    """

    token: float
    python: float


@dataclass(frozen=True)
class Forecast:
    """The time and the memory that a run will take.

    Attributes
    ----------
    stages : tuple of Expected
    memory : float
        Peak, in bytes.
    notes : tuple of str
        On a time for training that is too short for this machine.
    """

    stages: tuple[Expected, ...]
    memory: float
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The total of all stages."""
        return sum(each.seconds for each in self.stages)


def measure_speed(inputs: Inputs) -> Speed:
    """Run the dense model on a few rows, for about a second."""
    encoded = inputs.encoded["train"].sample(_PROBE_ROWS, 0)
    batches = [{name: torch.from_numpy(array) for name, array in batch.inputs.items()} for batch in encoded.batches(2048)]
    order = np.random.default_rng(0).permutation(len(batches))
    tokens, begin = 0, 0.0
    with torch.inference_mode():
        inputs.loaded.model(**batches[int(order[0])])  # the first one is slower
        begin = time.perf_counter()
        for place in order:
            inputs.loaded.model(**batches[int(place)])
            tokens += int(batches[int(place)]["attention_mask"].sum())
            if time.perf_counter() - begin > _PROBE_SECONDS:
                break
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    total = 0
    for number in range(_LOOP):
        total += number & 7
    assert total
    return Speed(seconds / tokens, (time.perf_counter() - begin) / _LOOP_SECONDS)


def forecast(recipe: Recipe, inputs: Inputs, plan: Plan | None, speed: Speed, *, chooses: bool = False) -> Forecast:
    """Forecast `compress`, `apply` where there is a plan, or `plan` where that is all; stages are in the order in which they are entered.

    The check of the labels is complete by then.
    """
    costs = _Costs(recipe, inputs, plan, speed)
    stages = costs.chosen() if plan is None else costs.planned()
    notes = () if chooses else costs.short()
    return Forecast((*stages, *(() if chooses else costs.written())), costs.memory(trains=not chooses), notes)


def expect(recipe: Recipe, inputs: Inputs, plan: Plan | None, stage: Stages, *, chooses: bool = False) -> None:
    """Announce the stages to come to the progress, if it is shown."""
    if stage.shown:
        expected = forecast(recipe, inputs, plan, measure_speed(inputs), chooses=chooses)
        stage.expect(expected.stages)
        for note in (*inputs.notes, *expected.notes):
            stage.detail(note)


class _Costs:
    """The cost of each stage of one run, in seconds, and its memory, in bytes."""

    def __init__(self, recipe: Recipe, inputs: Inputs, plan: Plan | None, speed: Speed) -> None:
        self.recipe, self.inputs, self.plan, self.speed = recipe, inputs, plan, speed
        self.tokens = {name: int(split.lengths.sum()) for name, split in inputs.encoded.items()}
        self.rows = {name: len(split) for name, split in inputs.encoded.items()}
        self.trained = recipe.effort is not None
        self.calibration = calibration_size(inputs.encoded["train"], trained=self.trained)[1]
        self.reads = not inputs.own_head or any(budget.unit is Unit.NEURONS for budget in recipe.budgets)
        if plan is not None:
            self.reads = plan.readout is not None
        self.share = min((each.amount for each in structure_budgets(recipe) if each.unit not in ABSOLUTE), default=0.5)
        self.cuts = bool(structure_budgets(recipe)) or recipe.searches
        self.width = (inputs.view.num_layers + 1) * inputs.view.hidden_size
        effort = effort_of(recipe, plan) if plan is not None else (recipe.effort if self.cuts or recipe.layers or recipe.drop else None)
        self.effort = None if effort is None else bounded(effort, inputs)
        self.alike = recipe.baselines and self.effort is not None

    def _passes(self, tokens: float, cost: float = 1.0) -> float:
        return tokens * cost * self.speed.token

    def _read(self, share: float = 1.0, most: int | None = None, *, test: bool = False) -> list[Expected]:
        names = ("train", "validation", "test") if test else ("train", "validation")
        stages = []
        for name in names:
            part = 1.0 if most is None or name != "train" else min(1.0, most / self.rows["train"])
            stages.append(Expected(f"read {name}", self._passes(self.tokens[name] * part, _READ * share)))
        return stages

    def _computed(self, operations: float) -> float:
        """Return the time of floating-point operations: those of a forward pass for a token give the operations per second."""
        return operations * self.speed.token / (2.0 * sum(each.numel() for each in self.inputs.view.blocks.parameters()))

    def _choice(self) -> float:
        return self._computed(_CHOICE * self.width**3)

    def _search(self, most: int | None = None) -> float:
        """Return the time of the probes by which neurons are chosen."""
        places = self._read_places(most)
        return self._probes(_SEARCH_PASSES, min(SEARCH_ROWS, places)) + self._probes(_ORACLE_PASSES, places)

    def _fitted(self, most: int | None = None) -> float:
        """Return the time of one classifier on the neurons that a budget allows, or a plan names."""
        budget = neuron_budget(self.recipe)
        read = 1.0 if budget is None else budget.amount
        if self.plan is not None and self.plan.readout is not None:
            read = self.plan.readout.size / self.width
        return self._choice() * self.share + self._probes(_FIT_PASSES, self._read_places(most), read)

    def _read_places(self, most: int | None) -> float:
        """Return how many labels, words of a token task, `most` rows of train have, or all of them."""
        labels = len(self.inputs.encoded["train"].labels)
        return labels * (1.0 if most is None else min(1.0, most / self.rows["train"]))

    def _probes(self, passes: int, rows: float, share: float = 1.0) -> float:
        return self._computed(4.0 * passes * rows * self.width * share * self._columns())

    def _columns(self) -> int:
        """Return how many columns of weights a probe has: two classes have one."""
        task = self.inputs.data.task
        return 1 if task.outputs == 2 and not task.many else task.outputs

    def chosen(self) -> list[Expected]:
        """Return the stages that choose neurons, heads and FFN neurons, and cut baselines."""
        recipe, stages = self.recipe, list[Expected]()
        readable = self.inputs.data.labelled and self.inputs.data.task.kind.traits.readout
        if not self.reads and readable and neuron_budget(recipe) is not None:
            stages += [*self._read(most=CHOICE_ROWS), Expected("head or readout", self._choice() + self._search(CHOICE_ROWS))]
        if recipe.layers is not None or recipe.drop:
            stages.append(Expected("layers", self._passes(self.calibration, _REFIT)))
        if self.reads:
            stages += [*self._read(), Expected("select neurons", 2 * self._choice() + self._search()), *self._read(test=True)[2:]]
        for budget in structure_budgets(recipe):
            if budget.unit is Unit.P95:
                stages += [Expected("latency table, batch 1", _TABLE * self.speed.python), Expected("latency, dense", 8.0)]
            elif budget.unit is Unit.LATENCY:
                stages += [Expected(f"latency table, batch {batch}", _TABLE * self.speed.python) for batch in recipe.batches]
        before = steps_to(self.share) - 1
        if recipe.searches:
            stages.append(Expected("search", 8 * (self._passes(self.calibration, _STEP) + self._exports(1))))
        elif self.cuts:
            stages.append(Expected("shrink", self._passes(self.calibration, before * (_TRIM if self.trained else _STEP) + _STEP)))
        if self.cuts:
            for name, draw in self._baselines():
                if draw == 0 or name == "random":
                    stages.append(Expected(f"shrink, {numbered(name, draw)}", self._passes(self.calibration, _BASELINE)))
                    stages += self._fit() if self.reads else []
                if self.alike:
                    stages.append(self._recover(f"recover {numbered(name, draw)}"))
        return [*stages, *self._at_random()]

    @property
    def _draws(self) -> int:
        """How many structures of the same size are drawn at random beside one that was given."""
        recipe, plan = self.recipe, self.plan
        cut = plan is not None and (plan.layers is not None or bool(plan.heads or plan.ffn or plan.affine))
        given = (cut or recipe.layers is not None or bool(recipe.drop)) and recipe.freeze is None
        if not given or recipe.budgets or self.reads or self.inputs.view.spec.shared_blocks:
            return 0
        return DRAWS if recipe.baselines else 1

    def _at_random(self) -> list[Expected]:
        """Return the stages that make them."""
        stages = list[Expected]()
        for name in (numbered("random", draw) for draw in range(self._draws)):
            stages.append(Expected(f"solve, {name}", self._passes(self.calibration, _REFIT)))
            if self.alike:
                stages.append(self._recover(f"recover {name}"))
        return stages

    def _baselines(self) -> list[tuple[str, int]]:
        """Return the baselines that are cut as the slim model is, each with the number of its draw."""
        several = {name for name in BASELINES if self.recipe.baselines and (self.alike or name == "random")}
        return [(name, draw) for name in BASELINES for draw in range(DRAWS if name in several else 1)]

    def planned(self) -> list[Expected]:
        """Return the stages that carry out a given plan."""
        stages = list[Expected]()
        if self.reads:
            oracle = Expected("oracle", self._choice() + self._probes(_ORACLE_PASSES, self._read_places(None)))
            stages = [*self._read(), Expected("fit", self._fitted()), *self._read(), oracle, *self._read(test=True)[2:]]
        return [*stages, Expected("solve", self._passes(self.calibration, _REFIT)), *self._at_random()]

    def written(self) -> list[Expected]:
        """Return the stages that train, export and measure."""
        stages = []
        if self.reads and (self.cuts or self.plan is not None):
            stages += self._fit()
        if self.effort is not None:
            stages.append(self._recover("recover"))
        if self.alike and self.reads:
            stages.append(self._recover("recover dense", 1.0))
        files = 3 + self.alike + len(self._baselines()) if self.cuts else 2 + self._draws
        stages.append(Expected("export", self._exports(files)))
        if self.recipe.dtype != "fp32":
            stages.append(Expected(self.recipe.dtype, _LOWER * self.speed.python))
        stages.append(Expected("score", self._passes(self.tokens["test"] + self.tokens["validation"], _RUNTIME * (1 + files * self.share))))
        if self.inputs.retrieval is not None:
            retrieval = self.inputs.retrieval
            tokens = sum(min(len(text) / _CHARACTERS, self.inputs.max_length) for text in (*retrieval.queries, *retrieval.documents))
            stages.append(Expected("search the corpus", self._passes(tokens, _RUNTIME * (1 + 2 * self.share))))
        stages.append(Expected("latency", _LATENCY * 2, bounded=True))
        return [*stages, *(self._frontier() if self.recipe.frontier else ())]

    def _frontier(self) -> list[Expected]:
        """Return the stages that draw a frontier: a step, a file and its score for each point, and their times."""
        timed = any(budget.unit in TIMES for budget in structure_budgets(self.recipe))
        table = [] if timed else [Expected("latency table, batch 1", _TABLE * self.speed.python)]
        fit = sum(stage.seconds for stage in (*self._read(max(self.share, 0.2)), Expected("fit", self._fitted())))
        each = self._passes(self.calibration, _STEP) + self._exports(1) + self._passes(self.tokens["validation"], _RUNTIME)
        each += fit if self.reads else 0.0
        return [*table, Expected("frontier", len(SHARES) * each), Expected("latency", _LATENCY, bounded=True)]

    def _fit(self) -> list[Expected]:
        """Return the stages that fit the classifier on a slim model's neurons."""
        most = None if self.effort is None else CHOICE_ROWS
        return [*self._read(max(self.share, 0.2), most), Expected("fit", self._fitted(most))]

    def _recover(self, title: str, share: float | None = None) -> Expected:
        """Return the training of a model that has a share of the parameters; by default the slim one's."""
        assert self.effort is not None
        epoch = self._epoch(self.share if share is None else share)
        name = f"{title}, {self.effort} at most"
        if self.effort.unit == "epochs":
            return Expected(name, self.effort.amount * epoch)
        limit = math.inf if self.effort.passes is None else self.effort.passes * epoch
        return Expected(name, min(self.effort.amount, limit), bounded=True)

    def _epoch(self, share: float) -> float:
        """Return the time of a first pass of training over train of a model that has a share of the parameters."""
        return self._passes(self.tokens["train"], _TRAIN * share + (1.0 if self.inputs.own_head else 0.0))

    def short(self) -> tuple[str, ...]:
        """Return a note where the time for training holds few steps."""
        if self.effort is None or self.effort.unit == "epochs":
            return ()
        from prunekit.training.buckets import ROWS, TOKENS

        step = self._epoch(self.share) / max(self.tokens["train"] / TOKENS, self.rows["train"] / ROWS, 1.0)
        # A fifth is left for the judgements.
        steps = int(0.8 * self.effort.amount / step)
        if steps >= _FEW_STEPS:
            return ()
        minutes = math.ceil(_FEW_STEPS * step / 0.8 / 60)
        fit = f"about {steps} steps of training fit" if steps else "hardly a step of training fits"
        return (f"{fit} into {self.effort} at {step:.2g} s a step, and regain little: give --recover {minutes}min, or --recover none",)

    def _exports(self, files: int) -> float:
        return files * (_EXPORT + _EXPORT_LAYER * self.inputs.view.num_layers) * self.speed.python

    def memory(self, *, trains: bool) -> float:
        """Return the peak: what is held throughout, and the largest of probing, cutting and training."""
        view = self.inputs.view
        # The file of weights is mapped into memory.
        weights = 4.0 * sum(each.numel() for each in self.inputs.loaded.model.parameters())
        layers = 4.0 * sum(each.numel() for each in view.blocks.parameters())
        slim = weights - (1.0 - self.share) * layers if self.cuts else weights
        hidden, inner, blocks = view.hidden_size, view.source.ffn, view.num_layers
        # Activations of all layers for one token, in float32, with what the backward pass needs of them.
        token = 4.0 * blocks * (11 * hidden + 2 * inner)
        probing = cutting = training = 0.0
        if self.reads:
            probing = 32.0 * self.width**2 + len(ALPHAS) * _PROBE_VECTORS * 8.0 * self.width * self._columns()
            probing += min(LIMIT, 4.0 * self._read_places(None) * self.width)
        if self.cuts:
            moments = 8.0 * blocks * (inner**2 + 2 * hidden**2)
            cutting = 2.0 * weights + moments + GRAPH_TOKENS * token + 8.0 * self.calibration * hidden
        if self.effort is not None and trains:
            from prunekit.training.buckets import TOKENS as BATCH_TOKENS  # torch takes a second to import

            answers = min(answer_memory(self.inputs.loaded.model), 2.0 * self.tokens["train"] * blocks * hidden)
            batch = BATCH_TOKENS * token * (self.share if self.cuts else 1.0)
            training = _SLIM_COPIES * slim + batch + (answers if self.inputs.own_head else 0.0)
        return _LIBRARIES + 2.0 * weights + max(probing, cutting, training)
