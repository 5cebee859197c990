"""Which neurons the classifier reads, and what probes on other neurons answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunekit.arch.view import ModelView, Reader
from prunekit.budget import Budget, Unit
from prunekit.errors import ParameterError, StatisticsError
from prunekit.pipeline.drop import relative_drop
from prunekit.pipeline.inputs import collected
from prunekit.pipeline.predict import outputs_of_model
from prunekit.pipeline.records import Cut, Inputs, Neurons, Outputs, Probe
from prunekit.plan import Plan, ReadoutPlan, slim_layer
from prunekit.readout.baselines import baseline_neurons
from prunekit.readout.select import ReadoutChoice, fit_readout, select_readout
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.runtime.scores import judged
from prunekit.stats.collected import Collected
from prunekit.stats.record import Statistics

Ids = NDArray[np.int64]

#: Rows of train on which a readout is tried beside a model's own head, and on which the classifier of a model that is trained
#: afterwards is fitted.
CHOICE_ROWS = 4096
#: Of a baseline that is drawn at random, or trained, where baselines are asked for.
DRAWS = 3


def neuron_budget(recipe: Recipe) -> Budget | None:
    """What bounds the neurons that a readout reads: the least of the budgets that count them."""
    counted = [budget for budget in recipe.budgets if budget.unit in (Unit.MODEL, Unit.NEURONS)]
    return min(counted, key=lambda budget: budget.amount, default=None)


def reads_neurons(recipe: Recipe, inputs: Inputs, scratch: Path, stage: Stages) -> tuple[bool, tuple[str, ...]]:
    """Whether a readout takes the head's place, and how that was decided.

    A model without a head needs one, and a budget of neurons asks for one. Under a budget of the model, a fine-tuned model keeps
    its head unless a readout within the budget is better on validation with 95% confidence: what else goes is the same for both.
    """
    units = {budget.unit for budget in recipe.budgets}
    if not inputs.data.task.kind.traits.readout or isinstance(inputs.view.model, Reader):
        return False, ()
    if not inputs.own_head or Unit.NEURONS in units:
        return True, ()
    budget = neuron_budget(recipe)
    if budget is None:
        return False, ()
    sampled = replace(inputs, encoded={**inputs.encoded, "train": inputs.encoded["train"].sample(CHOICE_ROWS, recipe.seed)})
    train, validation = (collected(sampled, inputs.view, name, scratch, stage) for name in ("train", "validation"))
    with stage("head or readout"):
        choice = _select(recipe, inputs, inputs.view, budget, train, validation, stage)
        held, task = inputs.encoded["validation"], inputs.data.task
        head = outputs_of_model(inputs.view, held, task.outputs)
        readout = _answers(validation, choice.ids, (choice.coef, choice.intercept))
        starts = held.kept_starts
        drop = relative_drop(task, task.tuned(head, held.labels), task.tuned(readout, held.labels), held.labels, starts)
    train.rows.close()
    validation.rows.close()
    better = drop.upper < 0
    which = "the readout takes the head's place" if better else "the model keeps its head"
    return better, (f"on validation the head scores {drop.dense:.4f}, a readout of {choice.size} neurons {drop.slim:.4f}: {which}",)


def read_neurons(recipe: Recipe, inputs: Inputs, cut: Cut, scratch: Path, stage: Stages) -> Neurons:
    """Run the model once over the data and choose the neurons to read."""
    budget = neuron_budget(recipe)
    view, task = ModelView.of(cut.model), inputs.data.task.by_word
    train, validation = (collected(inputs, view, name, scratch, stage) for name in ("train", "validation"))
    width = (view.num_layers + 1) * view.hidden_size
    everything = np.arange(width)
    probes: dict[str, tuple[Ids, Probe]] = {}
    with stage("select neurons"):
        choice = None
        if budget is None:
            coef, intercept, value = fit_readout(train, validation, everything, task=task)
            ids, probe, oracle = everything, (coef, intercept), (coef, intercept)
        else:
            choice = _select(recipe, inputs, view, budget, train, validation, stage)
            ids, probe = choice.ids, (choice.coef, choice.intercept)
            oracle, value = (choice.oracle_coef, choice.oracle_intercept), choice.scores.oracle
            draws = DRAWS if recipe.baselines else 1
            for name, picked in baseline_neurons(choice, train, seed=recipe.seed, draws=draws).items():
                probes[name] = picked, fit_readout(train, validation, picked, task=task)[:2]
        others = {name: (_of_dense(cut, picked, view.hidden_size), fitted) for name, (picked, fitted) in probes.items()}
        if cut.plan is None:
            value = _on_every_word(inputs, validation, oracle, value)
            probes = {"oracle": (everything, oracle), **probes}
        probes = {name: (ids, _tuned(inputs, validation, ids, probe)) for name, (ids, probe) in probes.items()}
    train.rows.close()
    validation.rows.close()
    test = _on_test(inputs, view, probes, scratch, stage) if probes else {}
    if cut.plan is not None:
        oracle, value, answers = read_oracle(inputs, scratch, stage)
        test = {"oracle": answers, **test}
    return Neurons(_of_dense(cut, ids, view.hidden_size), probe, oracle, choice, test, value, others)


def stored_neurons(recipe: Recipe, inputs: Inputs, statistics: Statistics, scratch: Path, stage: Stages) -> Neurons:
    """The neurons to read, chosen on the rows and the moments that an analysis left behind: the model is not run."""
    budget = neuron_budget(recipe)
    if budget is None:
        raise ParameterError("statistics", "plan", "left out where no budget counts neurons (add --keep 10%)", "given")
    _check_stored(recipe, inputs, statistics)
    train, validation = statistics.split("train", scratch), statistics.split("validation", scratch)
    with stage("select neurons"):
        choice = _select(recipe, inputs, inputs.view, budget, train, validation, stage)
    train.rows.close()
    validation.rows.close()
    oracle = (choice.oracle_coef, choice.oracle_intercept)
    found = _by_layer(choice.ids, inputs.view.hidden_size)
    return Neurons(found, (choice.coef, choice.intercept), oracle, choice, {}, choice.scores.oracle)


def _check_stored(recipe: Recipe, inputs: Inputs, statistics: Statistics) -> None:
    """Raise StatisticsError if statistics are not of this model, these data and these options."""
    known = statistics.provenance
    if statistics.source != inputs.view.source or known.get("weights") != inputs.view.digest():
        raise StatisticsError(
            f"The statistics are of another model, {known.get('model')!r}: its weights are not those of {inputs.loaded.name!r}. "
            "Run prunekit analyze on this one."
        )
    data, then = inputs.data.provenance, known.get("data")
    then = then if isinstance(then, Mapping) else {}
    if then.get("sha256") != data["sha256"]:
        raise StatisticsError(
            f"The statistics are of other data, {then.get('source')!r}: its rows, labels or splits are not those of "
            f"{data['source']!r} (seed {recipe.seed}). Run prunekit analyze on these, with the same columns and seed."
        )
    asked = {"pooling": (statistics.pooling, inputs.pooling), "max_length": (known.get("max_length"), inputs.max_length)}
    for name, (then, now) in asked.items():
        if then != now:
            raise StatisticsError(f"The statistics are of other options: {name} was {then!r}, and is {now!r} here. Give the same.")
    outputs = inputs.data.task.outputs
    for part in (statistics.train, statistics.validation):
        ids = part is not None and part.labels.dtype.kind == "i"
        if statistics.outputs != outputs or (part is not None and ids and not ((part.labels >= 0) & (part.labels < outputs)).all()):
            raise StatisticsError(f"The statistics have labels outside the task's {outputs} outputs. Run prunekit analyze on these data.")
    if statistics.validation is None:
        raise StatisticsError(
            "The statistics hold no rows of validation, on which neurons are chosen. Run prunekit analyze with 'neurons' among --analyzers."
        )


def _select(
    recipe: Recipe, inputs: Inputs, view: ModelView, budget: Budget, train: Collected, validation: Collected, stage: Stages
) -> ReadoutChoice:
    return select_readout(
        train,
        validation,
        task=inputs.data.task.by_word,
        layers=view.num_layers,
        hidden=view.hidden_size,
        keep=min(train.rows.width, _allowed(budget, (inputs.view.num_layers + 1) * inputs.view.hidden_size)),
        method=recipe.method,
        layer_delta=recipe.layer_delta,
        neuron_delta=recipe.neuron_delta,
        threshold=recipe.threshold,
        seed=recipe.seed,
        progress=lambda part, done, total: stage.step(done, total, part),
    )


def given_neurons(inputs: Inputs, readout: ReadoutPlan, scratch: Path, stage: Stages) -> Neurons:
    """The neurons that a plan names, and a classifier on them; the oracle beside it."""
    train, validation = (collected(inputs, inputs.view, name, scratch, stage) for name in ("train", "validation"))
    ids = flat_ids(readout.neurons, inputs.view.hidden_size)
    with stage("fit"):
        coef, intercept, _ = fit_readout(train, validation, ids, task=inputs.data.task.by_word)
    train.rows.close()
    validation.rows.close()
    oracle, value, answers = read_oracle(inputs, scratch, stage)
    return Neurons(dict(readout.neurons), (coef, intercept), oracle, None, {"oracle": answers}, value)


def read_oracle(inputs: Inputs, scratch: Path, stage: Stages) -> tuple[Probe, float, Outputs]:
    """The probe on all neurons of the dense model, its validation score and its answers on test."""
    train, validation = (collected(inputs, inputs.view, name, scratch, stage) for name in ("train", "validation"))
    everything = np.arange(train.rows.width)
    with stage("oracle"):
        coef, intercept, value = fit_readout(train, validation, everything, task=inputs.data.task.by_word)
        value = _on_every_word(inputs, validation, (coef, intercept), value)
        told = _tuned(inputs, validation, everything, (coef, intercept))
    train.rows.close()
    validation.rows.close()
    answers = _on_test(inputs, inputs.view, {"oracle": (everything, told)}, scratch, stage)
    return (coef, intercept), value, answers["oracle"]


def _tuned(inputs: Inputs, validation: Collected, ids: Ids, probe: Probe) -> Probe:
    """A probe whose outputs are less the thresholds that validation chooses."""
    task = inputs.data.task
    if not task.many:
        return probe
    cut = task.thresholds(_answers(validation, ids, probe), validation.labels)
    assert cut is not None
    return probe[0], probe[1] - cut


def _on_every_word(inputs: Inputs, validation: Collected, oracle: Probe, value: float) -> float:
    """The oracle's score on the validation split as the files' are: by the task's metric, and on words without a token too."""
    task, held = inputs.data.task, inputs.encoded["validation"]
    return judged(task, held, _answers(validation, np.arange(validation.rows.width), oracle)) if task.per_token else value


def fit_slim(inputs: Inputs, model: ModelView, plan: Plan, scratch: Path, stage: Stages, *, most: int | None = None) -> Probe:
    """Fit the classifier anew on what the slim model's neurons say, of `most` rows of train where that is given."""
    rows = inputs.encoded["train"] if most is None else inputs.encoded["train"].sample(most, 0)
    sampled = replace(inputs, encoded={**inputs.encoded, "train": rows})
    train, validation = (collected(sampled, model, name, scratch, stage) for name in ("train", "validation"))
    with stage("fit"):
        coef, intercept, _ = fit_readout(train, validation, _slim_ids(plan, model.hidden_size), task=inputs.data.task.by_word)
    train.rows.close()
    validation.rows.close()
    return coef, intercept


def _slim_ids(plan: Plan, hidden: int) -> Ids:
    """Flat ids of a plan's readout in the slim model's numbering."""
    assert plan.readout is not None
    place = {dim: at for at, dim in enumerate(plan.hidden or range(plan.source.hidden))}
    return flat_ids(
        {slim_layer(plan, layer): tuple(place[dim] for dim in dims) for layer, dims in plan.readout.neurons.items() if dims}, hidden
    )


def flat_ids(neurons: Mapping[int, tuple[int, ...]], hidden: int) -> Ids:
    """{layer: dimensions} as flat ids, ascending."""
    return np.array([layer * hidden + dim for layer in sorted(neurons) for dim in neurons[layer]], dtype=np.int64)


def _by_layer(ids: Ids, hidden: int) -> dict[int, tuple[int, ...]]:
    return {int(layer): tuple(int(index) for index in ids[ids // hidden == layer] % hidden) for layer in np.unique(ids // hidden)}


def _of_dense(cut: Cut, ids: Ids, hidden: int) -> dict[int, tuple[int, ...]]:
    """{layer: dimensions} in the dense model's numbering."""
    return {cut.dense_layer(layer): dims for layer, dims in _by_layer(ids, hidden).items()}


def _allowed(budget: Budget, width: int) -> int:
    allowed = int(budget.amount * width + 1e-9)
    if allowed < 1:
        raise ParameterError("keep", "compress", f"at least 1 of the {width} neurons", str(budget))
    return allowed


def _on_test(inputs: Inputs, view: ModelView, probes: Mapping[str, tuple[Ids, Probe]], scratch: Path, stage: Stages) -> dict[str, Outputs]:
    test = collected(inputs, view, "test", scratch, stage)
    found = {name: _answers(test, ids, probe) for name, (ids, probe) in probes.items()}
    test.rows.close()
    return found


def _answers(split: Collected, ids: Ids, probe: Probe) -> Outputs:
    coef, intercept = probe
    return np.concatenate([rows[:, ids] @ coef.T + intercept for _, rows in split.rows.chunks()])
