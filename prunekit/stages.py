"""The stages of the line, each a function of named values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunekit import __version__
from prunekit.arch.count import Counts, count
from prunekit.arch.load import LoadedModel, load_model
from prunekit.arch.view import ModelView
from prunekit.budget import Budget, Unit
from prunekit.data.batches import Encoded, encode
from prunekit.data.load import load_data
from prunekit.data.rows import TaskData
from prunekit.docstrings import demo_model
from prunekit.errors import ParameterError
from prunekit.exporters.onnx import InputSpace, OnnxFile, export_onnx, sample_space
from prunekit.exporters.parity import check_parity
from prunekit.measure.latency import latency_of_files
from prunekit.measure.metric import outputs_of_file
from prunekit.measure.records import Comparison, Parity
from prunekit.plan import Plan, ReadoutPlan
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.select.baselines import baseline_neurons
from prunekit.select.readout import ReadoutChoice, fit_readout, select_readout
from prunekit.shrink import Choice, shrink
from prunekit.stats.collect import Collected, Pooling, collect
from prunekit.transforms.apply import apply
from prunekit.transforms.readout import set_readout

Outputs = NDArray[Any]

#: Rows of train on which heads and FFN neurons are chosen and re-solved.
CALIBRATION = 2048
_STRUCTURE = (Unit.PARAMS, Unit.MACS)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The model and the data, as the line reads them.

    Attributes
    ----------
    own_head : bool
        Whether the model came with a head for this task, which is then the dense model's.
    """

    loaded: LoadedModel
    view: ModelView
    data: TaskData
    encoded: Mapping[str, Encoded]
    pooling: Pooling
    own_head: bool
    notes: tuple[str, ...]

    @property
    def space(self) -> InputSpace:
        """What may be drawn to try an exported file."""
        tokenizer = self.loaded.tokenizer
        side = "left" if tokenizer.padding_side == "left" else "right"
        return sample_space(self.loaded.config, pad_id=tokenizer.pad_token_id, padding_side=side)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Neurons:
    """Which neurons are read, and what the probes answer.

    Attributes
    ----------
    ids : ndarray of int64
        Flat ids, ascending.
    coef, intercept : ndarray
        (outputs, k) and (outputs,): the classifier on them.
    oracle : (coef, intercept)
        The probe on all neurons.
    choice : ReadoutChoice or None
        How they were found; None where all are read because no budget counts them.
    test : {name: outputs on the test split}
        Of the oracle and of a random and a magnitude readout of the same size.
    oracle_validation : float
        The oracle's score on the validation split.
    """

    ids: NDArray[np.int64]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    oracle: tuple[NDArray[np.float64], NDArray[np.float64]]
    choice: ReadoutChoice | None
    test: Mapping[str, Outputs]
    oracle_validation: float


@dataclass(frozen=True, eq=False)
class Models:
    """The dense model as it would be deployed, the slim one, and the plan between them."""

    dense: nn.Module
    slim: nn.Module
    plan: Plan
    baselines: Mapping[str, nn.Module]
    counts: Mapping[str, Counts]


@dataclass(frozen=True, eq=False)
class Files:
    """What was exported; the dense file and the baselines are measured and not kept."""

    slim: OnnxFile
    dense: OnnxFile
    baselines: Mapping[str, OnnxFile]
    parity: Parity


@dataclass(frozen=True, eq=False)
class Measured:
    """Outputs on the test split by name, scores on the validation split, and latency."""

    test: Mapping[str, Outputs]
    validation: Mapping[str, float]
    latency: tuple[Comparison, ...]


def load_inputs(recipe: Recipe, rows: object, stage: Stages) -> Inputs:
    """Load model and data, check that they fit, and tokenise."""
    with stage("load"):
        loaded = load_model(recipe.model or demo_model(), revision=recipe.revision, trust_remote_code=recipe.trust_remote_code)
        view = ModelView.of(loaded.model)
        names = {name: getattr(recipe, name) for name in ("text", "text_pair", "label", "tokens", "tags", "task", "metric")}
        data = load_data(
            rows if rows is not None else recipe.data,
            **names,
            labels=loaded.labels if loaded.fine_tuned and _is_named(loaded) else None,
            config=recipe.data_config,
            seed=recipe.seed,
            trust_remote_code=recipe.trust_remote_code,
        )
        task = data.task
        own_head = loaded.fine_tuned and loaded.per_token == task.per_token and loaded.config.num_labels == task.outputs
        notes = list(data.notes)
        assert isinstance(loaded.config.num_labels, int)
        if loaded.fine_tuned and not own_head:
            notes.append(f"the model's own head has {loaded.config.num_labels} outputs and is not for this task: it was not used")
        if not own_head:
            _name_classes(loaded, task.labels)
        pooling = _pooling(recipe, task.per_token, loaded.fine_tuned)
        encoded = {
            name: encode(split, loaded.tokenizer, max_length=recipe.max_length, per_token=task.per_token)
            for name, split in data.splits.items()
        }
        cut = sum(split.truncated for split in encoded.values())
        if cut:
            notes.append(f"{cut} rows were cut at {recipe.max_length} tokens")
        lost = sum(split.dropped for split in encoded.values())
        if lost:
            notes.append(f"{lost} words have no token of their own within the limit and were left out, with their labels")
    return Inputs(loaded, view, data, encoded, pooling, own_head, tuple(notes))


def _is_named(loaded: LoadedModel) -> bool:
    """Whether the head has class names to hold the data against; a regression's single output has none."""
    return len(loaded.labels or ()) > 1


def _name_classes(loaded: LoadedModel, labels: Sequence[str]) -> None:
    config: Any = loaded.config
    names = labels or ["LABEL_0"]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def _pooling(recipe: Recipe, per_token: bool, fine_tuned: bool) -> Pooling:
    if per_token:
        if recipe.pooling is not None:
            raise ParameterError("pooling", "compress", "left out for a token task, which reads every word", recipe.pooling)
        return "token"
    return recipe.pooling or ("cls" if fine_tuned else "mean")


def read_neurons(recipe: Recipe, inputs: Inputs, scratch: Path, stage: Stages) -> Neurons | None:
    """Run the model once over the data and choose the neurons to read; None where the model keeps its own head."""
    budget = next((budget for budget in recipe.budgets if budget.unit is Unit.NEURONS), None)
    if budget is None and inputs.own_head:
        return None
    train, validation = (_collected(inputs, inputs.view, name, scratch, stage) for name in ("train", "validation"))
    task, source = inputs.data.task, inputs.view.source
    width = (source.layers + 1) * source.hidden
    with stage("select neurons"):
        choice = None
        if budget is None:
            everything = np.arange(width)
            coef, intercept, value = fit_readout(train, validation, everything, task=task)
            ids, oracle = everything, (coef, intercept)
        else:
            choice = select_readout(
                train,
                validation,
                task=task,
                layers=source.layers,
                hidden=source.hidden,
                keep=_allowed(budget, width),
                method=recipe.method,
                layer_delta=recipe.layer_delta,
                neuron_delta=recipe.neuron_delta,
                threshold=recipe.threshold,
                seed=recipe.seed,
                progress=lambda _, done, total: stage.step(done, total),
            )
            ids, coef, intercept = choice.ids, choice.coef, choice.intercept
            oracle, value = (choice.oracle_coef, choice.oracle_intercept), choice.scores.oracle
        probes = {"oracle": (np.arange(width), *oracle)}
        if choice is not None:
            for name, picked in baseline_neurons(choice, train, seed=recipe.seed).items():
                probes[name] = (picked, *fit_readout(train, validation, picked, task=task)[:2])
    train.rows.close()
    validation.rows.close()
    test = _collected(inputs, inputs.view, "test", scratch, stage)
    outputs = {name: _answers(test, *probe) for name, probe in probes.items()}
    test.rows.close()
    return Neurons(ids, coef, intercept, oracle, choice, outputs, value)


def _allowed(budget: Budget, width: int) -> int:
    allowed = int(budget.amount * width + 1e-9)
    if allowed < 1:
        raise ParameterError("keep", "compress", f"at least 1 of the {width} neurons", str(budget))
    return allowed


def _collected(inputs: Inputs, view: ModelView, split: str, scratch: Path, stage: Stages) -> Collected:
    with stage(f"read {split}"):
        return collect(
            view, inputs.encoded[split], pooling=inputs.pooling, outputs=inputs.data.task.outputs, directory=scratch, progress=stage.step
        )


def _answers(split: Collected, ids: NDArray[np.int64], coef: NDArray[np.float64], intercept: NDArray[np.float64]) -> Outputs:
    return np.concatenate([rows[:, ids] @ coef.T + intercept for _, rows in split.rows.chunks()])


def build_models(recipe: Recipe, inputs: Inputs, neurons: Neurons | None, scratch: Path, stage: Stages) -> Models:
    """The dense model, the slim one that the plan makes of it, and structure baselines where structure was removed."""
    model: nn.Module = inputs.loaded.model
    source = inputs.view.source
    provenance = {
        "prunekit": __version__,
        "model": inputs.loaded.name,
        "data": inputs.data.provenance,
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
    }
    dense: nn.Module = model
    if neurons is not None and not inputs.own_head:
        everything = {layer: tuple(range(source.hidden)) for layer in range(source.layers + 1)}
        dense = apply(model, Plan(source=source, readout=ReadoutPlan(pooling=inputs.pooling, neurons=everything)))
        set_readout(dense, *neurons.oracle)
    plan, slim = Plan(source=source), model
    if neurons is not None:
        plan = Plan(source=source, readout=ReadoutPlan(pooling=inputs.pooling, neurons=_by_layer(neurons.ids, source.hidden)))
        slim = apply(model, plan)
        set_readout(slim, neurons.coef, neurons.intercept)
    lengths = inputs.encoded["train"].lengths
    counts = {"dense": count(dense, lengths)}
    budgets = [budget for budget in recipe.budgets if budget.unit in _STRUCTURE]
    baselines: dict[str, nn.Module] = {}
    if budgets:
        reader = slim
        rows = calibration(inputs.encoded["train"], recipe.seed)

        def cut(choice: Choice) -> tuple[nn.Module, Plan]:
            found = shrink(
                reader, rows, budgets, lengths=lengths, start=counts["dense"], choice=choice, seed=recipe.seed, progress=stage.step
            )
            made = Plan(source=source, heads=found.plan.heads, ffn=found.plan.ffn, readout=plan.readout)
            if neurons is not None:
                _refit_readout(inputs, found.model, neurons, scratch, stage)
            return found.model, made

        with stage("shrink"):
            slim, plan = cut("cost")
        for name in ("random", "magnitude"):
            with stage(f"shrink, {name}"):
                baselines[name] = cut(name)[0]
    plan = plan.model_copy(update={"provenance": provenance})
    counts |= {"slim": count(slim, lengths)}
    return Models(dense, slim, plan, baselines, counts)


def calibration(encoded: Encoded, seed: int) -> list[dict[str, torch.Tensor]]:
    """A seeded sample of rows, as batches of tensors."""
    chosen = np.random.default_rng(seed).permutation(len(encoded))[:CALIBRATION]
    sample = encoded.take(np.sort(chosen))
    return [{name: torch.from_numpy(array) for name, array in batch.inputs.items()} for batch in sample.batches()]


def _refit_readout(inputs: Inputs, model: nn.Module, neurons: Neurons, scratch: Path, stage: Stages) -> None:
    """Fit the classifier anew on what the slim model's neurons say."""
    view = ModelView.of(model)
    train, validation = (_collected(inputs, view, name, scratch, stage) for name in ("train", "validation"))
    coef, intercept, _ = fit_readout(train, validation, neurons.ids, task=inputs.data.task)
    set_readout(model, coef, intercept)
    train.rows.close()
    validation.rows.close()


def _by_layer(ids: NDArray[np.int64], hidden: int) -> dict[int, tuple[int, ...]]:
    return {int(layer): tuple(int(index) for index in ids[ids // hidden == layer] % hidden) for layer in np.unique(ids // hidden)}


def deploy(inputs: Inputs, models: Models, folder: Path, scratch: Path, stage: Stages) -> Files:
    """Export the slim model into the artefact and the dense one beside it, each checked against PyTorch."""
    with stage("export"):
        (folder / "onnx").mkdir()
        metadata = {"prunekit": __version__, "plan": models.plan.digest}
        slim = export_onnx(models.slim, folder / "onnx" / "model.onnx", inputs=inputs.view.inputs, space=inputs.space, metadata=metadata)
        sample = [batch.inputs for batch in inputs.encoded["validation"].sample(64, 0).batches()]
        parity = check_parity(slim.path, models.slim, inputs=inputs.view.inputs, space=inputs.space, batches=sample)
        dense = export_onnx(models.dense, scratch / "dense.onnx", inputs=inputs.view.inputs, space=inputs.space)
        check_parity(dense.path, models.dense, inputs=inputs.view.inputs, space=inputs.space)
        baselines = {
            name: export_onnx(model, scratch / f"{name}.onnx", inputs=inputs.view.inputs, space=inputs.space)
            for name, model in models.baselines.items()
        }
    return Files(slim, dense, baselines, parity)


def measure(recipe: Recipe, inputs: Inputs, neurons: Neurons | None, models: Models, files: Files, stage: Stages) -> Measured:
    """Score the deployed file on the test split, beside its baselines, and time it against the dense one."""
    task, threads = inputs.data.task, recipe.threads
    with stage("score"):
        names = {"slim": files.slim, **files.baselines, **({"dense": files.dense} if inputs.own_head else {})}
        test = {} if neurons is None else dict(neurons.test)
        test |= {name: outputs_of_file(file.path, inputs.encoded["test"], threads=threads) for name, file in names.items()}
        held = inputs.encoded["validation"]
        validation = {
            name: task.score(outputs_of_file(file.path, held, threads=threads), held.labels)
            for name, file in names.items()
            if name in ("slim", "dense")
        }
        if neurons is not None:
            validation["oracle"] = neurons.oracle_validation
    with stage("latency"):
        latency = latency_of_files(
            {"dense": files.dense.path, "slim": files.slim.path}, inputs.encoded["test"], threads=threads, seed=recipe.seed
        )
    return Measured(test, validation, latency)
