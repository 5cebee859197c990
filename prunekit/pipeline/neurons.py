"""Choice of the neurons that the classifier reads, and outputs of probes on other neurons."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prunekit.arch.view import ModelView, Reader
from prunekit.budget import Budget, Unit
from prunekit.data.batches import Encoded
from prunekit.errors import ParameterError, StatisticsError
from prunekit.pipeline.drop import Drop, relative_drop
from prunekit.pipeline.predict import outputs_of_model
from prunekit.pipeline.records import Cut, Inputs, Neurons, Outputs, Probe, Run
from prunekit.plan import Plan, ReadoutPlan, slim_layer, slim_source
from prunekit.readout.baselines import baseline_neurons
from prunekit.readout.select import ReadoutChoice, fit_readout, select_readout
from prunekit.recipe import Recipe
from prunekit.runtime.scores import judged
from prunekit.stats.collect import collect
from prunekit.stats.collected import Collected
from prunekit.stats.record import Statistics

Ids = NDArray[np.int64]

#: Rows of train on which a readout is compared with a model's own head, and on which the classifier of a model that is trained
#: afterwards is fitted.
CHOICE_ROWS = 4096
#: Draws of a baseline that is random, or trained, where baselines are asked for.
DRAWS = 3


def neuron_budget(recipe: Recipe) -> Budget | None:
    """Return the budget that bounds the neurons of a readout: the least of those that count them."""
    counted = [budget for budget in recipe.budgets if budget.unit in (Unit.MODEL, Unit.NEURONS)]
    return min(counted, key=lambda budget: budget.amount, default=None)


def reads_neurons(run: Run) -> tuple[bool, tuple[str, ...]]:
    """Return whether a readout takes the head's place, and notes on the decision.

    A model without a head needs one, and a budget of neurons asks for one. Under a budget of the model, a fine-tuned model keeps
    its head unless a readout within the budget is better on validation with 95% confidence: what else goes is the same for both.
    """
    if not run.inputs.data.task.kind.traits.readout or isinstance(run.inputs.view.model, Reader):
        return False, ()
    if _needs_readout(run):
        return True, ()
    budget = neuron_budget(run.recipe)
    if budget is None:
        return False, ()
    if not run.inputs.data.labelled:
        # No readout is closer to the head's answers than the head itself.
        return False, ("the model keeps its head, whose own answers stand for labels",)
    train, validation = _read(run, run.inputs.view, run.inputs.encoded["train"].sample(CHOICE_ROWS, run.recipe.seed))
    with train.rows, validation.rows, run.stage("head or readout"):
        choice = _select(run, run.inputs.view, budget, train, validation)
        drop = _against_head(run, validation, choice.ids, (choice.coef, choice.intercept))
    better = drop.upper < 0
    outcome = "the readout takes the head's place" if better else "the model keeps its head"
    return better, (f"on validation the head scores {drop.dense:.4f}, a readout of {choice.size} neurons {drop.slim:.4f}: {outcome}",)


def _needs_readout(run: Run) -> bool:
    """Return whether nothing else is possible: there is no head, or a budget of neurons."""
    return not run.inputs.own_head or any(budget.unit is Unit.NEURONS for budget in run.recipe.budgets)


def keeps_head(run: Run, model: nn.Module, plan: Plan) -> str | None:
    """Return a note if a readout has taken a head's place, and on what is left of the model is no better than the head was; else None.

    A readout may lean on small differences between neurons, which a cut does not spare and a training does not bring back, as it brings a
    head back. So it must be better with confidence where the model is trained, and not worse where it is not.
    """
    if _needs_readout(run):
        return None
    ids, train, validation = _read_slim(run, model, plan, CHOICE_ROWS)
    with train.rows, validation.rows, run.stage("head or readout"):
        coef, intercept, _ = fit_readout(train, validation, ids, task=run.inputs.data.task.by_word)
        drop = _against_head(run, validation, ids, (coef, intercept))
    if drop.upper < 0 or (run.recipe.effort is None and drop.slim >= drop.dense):
        return None
    return f"on what the cut leaves, the readout scores {drop.slim:.4f} on validation and is not better: the model keeps its head"


def _against_head(run: Run, validation: Collected, ids: Ids, probe: Probe) -> Drop:
    """Return what a readout loses on validation against the dense model's own head."""
    held, task = run.inputs.encoded["validation"], run.inputs.data.task
    head, readout = outputs_of_model(run.inputs.view, held, task.outputs), _answers(validation, ids, probe)
    return relative_drop(task, task.tuned(head, held.labels), task.tuned(readout, held.labels), held.labels, held.kept_starts)


def _read(run: Run, view: ModelView, rows: Encoded | None = None) -> tuple[Collected, Collected]:
    """Collect the neurons of every row of train, or of `rows` in their place, and of validation."""
    return _collect(run, view, "train", rows), _collect(run, view, "validation")


def _collect(run: Run, view: ModelView, split: str, rows: Encoded | None = None) -> Collected:
    encoded = run.inputs.encoded[split] if rows is None else rows
    outputs = run.inputs.data.task.outputs
    with run.stage(f"read {split}", unit="rows"):
        return collect(view, encoded, pooling=run.inputs.pooling, outputs=outputs, directory=run.scratch, progress=run.stage.step)


def read_neurons(run: Run, cut: Cut) -> Neurons:
    """Run the model once over the data and choose the neurons to read."""
    budget = neuron_budget(run.recipe)
    view, task = ModelView.of(cut.model), run.inputs.data.task.by_word
    train, validation = _read(run, view)
    width = (view.num_layers + 1) * view.hidden_size
    everything = np.arange(width)
    probes: dict[str, tuple[Ids, Probe]] = {}
    with train.rows, validation.rows, run.stage("select neurons"):
        choice = None
        if budget is None:
            coef, intercept, value = fit_readout(train, validation, everything, task=task)
            ids, probe, oracle = everything, (coef, intercept), (coef, intercept)
        else:
            choice = _select(run, view, budget, train, validation)
            ids, probe = choice.ids, (choice.coef, choice.intercept)
            oracle, value = (choice.oracle_coef, choice.oracle_intercept), choice.scores.oracle
            draws = DRAWS if run.recipe.baselines else 1
            for name, picked in baseline_neurons(choice, train, seed=run.recipe.seed, draws=draws).items():
                probes[name] = picked, fit_readout(train, validation, picked, task=task)[:2]
        others = {name: (_of_dense(cut, picked, view.hidden_size), fitted) for name, (picked, fitted) in probes.items()}
        if cut.plan is None:
            value = _on_every_word(run.inputs, validation, oracle, value)
            probes = {"oracle": (everything, oracle), **probes}
        probes = {name: (ids, _tuned(run.inputs, validation, ids, probe)) for name, (ids, probe) in probes.items()}
    test = _on_test(run, view, probes) if probes else {}
    if cut.plan is not None:
        oracle, value, answers = read_oracle(run)
        test = {"oracle": answers, **test}
    return Neurons(_of_dense(cut, ids, view.hidden_size), probe, oracle, choice, test, value, others)


def stored_neurons(run: Run, statistics: Statistics) -> Neurons:
    """Choose the neurons to read on the rows and the moments that an analysis stored: the model is not run."""
    budget = neuron_budget(run.recipe)
    if budget is None:
        raise ParameterError("statistics", "plan", "left out where no budget counts neurons (add --keep 10%)", "given")
    _check_stored(run, statistics)
    train, validation = statistics.split("train", run.scratch), statistics.split("validation", run.scratch)
    with train.rows, validation.rows, run.stage("select neurons"):
        choice = _select(run, run.inputs.view, budget, train, validation)
    oracle = (choice.oracle_coef, choice.oracle_intercept)
    neurons = _by_layer(choice.ids, run.inputs.view.hidden_size)
    return Neurons(neurons, (choice.coef, choice.intercept), oracle, choice, {}, choice.scores.oracle)


def _check_stored(run: Run, statistics: Statistics) -> None:
    """Raise StatisticsError if statistics are not of this model, these data and these options."""
    known = statistics.provenance
    if statistics.source != run.inputs.view.source or known.get("weights") != run.inputs.view.digest():
        raise StatisticsError(
            f"The statistics are of another model, {known.get('model')!r}: its weights are not those of {run.inputs.loaded.name!r}. "
            "Run prunekit analyze on this one."
        )
    data, then = run.inputs.data.provenance, known.get("data")
    then = then if isinstance(then, Mapping) else {}
    if then.get("sha256") != data["sha256"]:
        raise StatisticsError(
            f"The statistics are of other data, {then.get('source')!r}: its rows, labels or splits are not those of "
            f"{data['source']!r} (seed {run.recipe.seed}). Run prunekit analyze on these, with the same columns and seed."
        )
    options = {"pooling": (statistics.pooling, run.inputs.pooling), "max_length": (known.get("max_length"), run.inputs.max_length)}
    for name, (then, now) in options.items():
        if then != now:
            raise StatisticsError(f"The statistics are of other options: {name} was {then!r}, and is {now!r} here. Give the same.")
    outputs = run.inputs.data.task.outputs
    if statistics.outputs != outputs:
        raise StatisticsError(f"The statistics have labels outside the task's {outputs} outputs. Run prunekit analyze on these data.")
    if statistics.validation is None:
        raise StatisticsError(
            "The statistics hold no rows of validation, on which neurons are chosen. Run prunekit analyze with 'neurons' among --analyzers."
        )


def _select(run: Run, view: ModelView, budget: Budget, train: Collected, validation: Collected) -> ReadoutChoice:
    return select_readout(
        train,
        validation,
        task=run.inputs.data.task.by_word,
        layers=view.num_layers,
        hidden=view.hidden_size,
        keep=min(train.rows.width, _allowed(budget, (run.inputs.view.num_layers + 1) * run.inputs.view.hidden_size)),
        method=run.recipe.method,
        layer_delta=run.recipe.layer_delta,
        neuron_delta=run.recipe.neuron_delta,
        threshold=run.recipe.threshold,
        seed=run.recipe.seed,
        progress=lambda part, done, total: run.stage.step(done, total, part),
    )


def given_neurons(run: Run, readout: ReadoutPlan) -> Neurons:
    """Return the neurons that a plan names, with a classifier on them and the oracle."""
    train, validation = _read(run, run.inputs.view)
    ids = flat_ids(readout.neurons, run.inputs.view.hidden_size)
    with train.rows, validation.rows, run.stage("fit"):
        coef, intercept, _ = fit_readout(train, validation, ids, task=run.inputs.data.task.by_word)
    oracle, value, answers = read_oracle(run)
    return Neurons(dict(readout.neurons), (coef, intercept), oracle, None, {"oracle": answers}, value)


def read_oracle(run: Run) -> tuple[Probe, float, Outputs]:
    """Fit the probe on all neurons of the dense model; return it with its validation score and its outputs on test."""
    train, validation = _read(run, run.inputs.view)
    everything = np.arange(train.rows.width)
    with train.rows, validation.rows, run.stage("oracle"):
        coef, intercept, value = fit_readout(train, validation, everything, task=run.inputs.data.task.by_word)
        value = _on_every_word(run.inputs, validation, (coef, intercept), value)
        tuned = _tuned(run.inputs, validation, everything, (coef, intercept))
    answers = _on_test(run, run.inputs.view, {"oracle": (everything, tuned)})
    return (coef, intercept), value, answers["oracle"]


def _tuned(inputs: Inputs, validation: Collected, ids: Ids, probe: Probe) -> Probe:
    """Return a probe whose outputs are less the thresholds that validation chooses."""
    task = inputs.data.task
    if not task.many:
        return probe
    cut = task.thresholds(_answers(validation, ids, probe), validation.labels)
    assert cut is not None
    return probe[0], probe[1] - cut


def _on_every_word(inputs: Inputs, validation: Collected, oracle: Probe, value: float) -> float:
    """Return the oracle's score on the validation split as the files' are: by the task's metric, and on words without a token too."""
    task, held = inputs.data.task, inputs.encoded["validation"]
    return judged(task, held, _answers(validation, np.arange(validation.rows.width), oracle)) if task.per_token else value


def fit_slim(run: Run, model: nn.Module, plan: Plan, *, most: int | None = None) -> Probe:
    """Refit the classifier to the slim model's neurons, on `most` rows of train where that is given."""
    ids, train, validation = _read_slim(run, model, plan, most)
    with train.rows, validation.rows, run.stage("fit"):
        coef, intercept, _ = fit_readout(train, validation, ids, task=run.inputs.data.task.by_word)
    return coef, intercept


def _read_slim(run: Run, model: nn.Module, plan: Plan, most: int | None) -> tuple[Ids, Collected, Collected]:
    """Return the neurons that a slim model reads, and all of `most` rows of train (of every one: None) and of validation."""
    view = ModelView.of(model)
    # A config need not state the width of the residual stream; the plan does.
    view.source = slim_source(plan.model_copy(update={"vocabulary": None}))
    rows = None if most is None else run.inputs.encoded["train"].sample(most, 0)
    return _slim_ids(plan, view.hidden_size), *_read(run, view, rows)


def _slim_ids(plan: Plan, hidden: int) -> Ids:
    """Return the flat ids of a plan's readout in the slim model's numbering."""
    assert plan.readout is not None
    place = {dim: at for at, dim in enumerate(plan.hidden or range(plan.source.hidden))}
    return flat_ids(
        {slim_layer(plan, layer): tuple(place[dim] for dim in dims) for layer, dims in plan.readout.neurons.items() if dims}, hidden
    )


def flat_ids(neurons: Mapping[int, tuple[int, ...]], hidden: int) -> Ids:
    """Return {layer: dimensions} as flat ids, ascending."""
    return np.array([layer * hidden + dim for layer in sorted(neurons) for dim in neurons[layer]], dtype=np.int64)


def _by_layer(ids: Ids, hidden: int) -> dict[int, tuple[int, ...]]:
    return {int(layer): tuple(int(index) for index in ids[ids // hidden == layer] % hidden) for layer in np.unique(ids // hidden)}


def _of_dense(cut: Cut, ids: Ids, hidden: int) -> dict[int, tuple[int, ...]]:
    """Return {layer: dimensions} in the dense model's numbering."""
    return {cut.dense_layer(layer): dims for layer, dims in _by_layer(ids, hidden).items()}


def _allowed(budget: Budget, width: int) -> int:
    allowed = int(budget.amount * width + 1e-9)
    if allowed < 1:
        raise ParameterError("keep", "compress", f"at least 1 of the {width} neurons", str(budget))
    return allowed


def _on_test(run: Run, view: ModelView, probes: Mapping[str, tuple[Ids, Probe]]) -> dict[str, Outputs]:
    test = _collect(run, view, "test")
    with test.rows:
        return {name: _answers(test, ids, probe) for name, (ids, probe) in probes.items()}


def _answers(split: Collected, ids: Ids, probe: Probe) -> Outputs:
    coef, intercept = probe
    return np.concatenate([rows[:, ids] @ coef.T + intercept for _, rows in split.rows.chunks()])
