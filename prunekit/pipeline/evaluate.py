"""The files that ship or are compared, and what they do on the test split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from prunekit import __version__
from prunekit.budget import Unit
from prunekit.data.batches import Encoded
from prunekit.exporters.onnx import InputSpace, OnnxFile, export_onnx
from prunekit.exporters.parity import check_parity
from prunekit.exporters.precision import FILES, LowFile, lower
from prunekit.exporters.rows import Samples, samples
from prunekit.exporters.verify import write_probe
from prunekit.pipeline.bag_of_words import bag_of_words
from prunekit.pipeline.drop import LEVEL, Drop, relative_drop
from prunekit.pipeline.max_drop import answers_of, thresholds_of
from prunekit.pipeline.records import Answers, Files, Inputs, Measured, Models, Neurons, Text, space_of
from prunekit.pipeline.retrieval import retrieved
from prunekit.plan import Plan
from prunekit.readout.baselines import first_of
from prunekit.recipe import Recipe
from prunekit.report.base import BASELINES
from prunekit.report.embedder import Retrieved
from prunekit.report.progress import Stages
from prunekit.runtime.scores import divergence, judged, outputs_of_file
from prunekit.runtime.timing import latency_of_files
from prunekit.tasks import Task

#: Rows of the larger batches at which latency is measured, where none are named.
BATCH = 32
#: Seconds for which time is measured where a budget depends on it.
_LONG = 60.0


def export_slim(model: nn.Module, plan: Plan, folder: Path, inputs: tuple[str, ...], space: InputSpace) -> OnnxFile:
    """The file to deploy, into the artefact's folder."""
    (folder / "onnx").mkdir()
    metadata = {"prunekit": __version__, "plan": plan.digest}
    return export_onnx(model, folder / "onnx" / "model.onnx", inputs=inputs, space=space, metadata=metadata)


def deploy(recipe: Recipe, inputs: Inputs, models: Models, folder: Path, scratch: Path, stage: Stages) -> Files:
    """Export the slim model into the artefact and the dense one beside it, each checked against PyTorch."""
    names, text = inputs.view.inputs, models.text
    with stage("export"):
        space, full = space_of(models.slim.config, text.tokenizer), space_of(inputs.loaded.config, inputs.loaded.tokenizer)
        slim = export_slim(models.slim, models.plan, folder, names, space)
        sample = [batch.inputs for batch in text.encoded["validation"].sample(64, 0).batches()]
        parity = check_parity(slim.path, models.slim, inputs=names, space=space, batches=sample)
        dense = export_onnx(models.dense, scratch / "dense.onnx", inputs=names, space=full)
        if inputs.own_head:
            # The oracle's file is only timed; what the oracle answers is read off the neurons.
            check_parity(dense.path, models.dense, inputs=names, space=full)
        baselines = {
            name: export_onnx(model, scratch / f"{name}.onnx", inputs=names, space=space) for name, model in models.baselines.items()
        }
        tuned = None if models.tuned is None else export_onnx(models.tuned, scratch / "tuned.onnx", inputs=names, space=full)
    files = Files(slim, dense, baselines, parity, tuned=tuned)
    if recipe.dtype != "fp32":
        with stage(recipe.dtype):
            files = replace(files, low=_lowered(recipe, inputs, text, files, folder / FILES[recipe.dtype]))
            files = replace(files, dense_low=_dense_lowered(recipe, inputs, dense, scratch / "dense-low.onnx"))
    write_probe(folder, space, names, seed=recipe.seed)
    return files


def _lowered(recipe: Recipe, inputs: Inputs, text: Text, files: Files, path: Path) -> LowFile:
    """The slim file in lower precision; which weights stay float32 is searched on the validation split."""
    assert recipe.dtype != "fp32"
    drawn = _samples(recipe, inputs, text.encoded["validation"], text.tokenizer)
    accept = None
    if recipe.max_drop is not None:
        accept = accepting(recipe.max_drop, _drop_from(inputs, text, files, threads=recipe.threads))

    return lower(files.slim, path, recipe.dtype, **drawn._asdict(), accept=accept)


def _dense_lowered(recipe: Recipe, inputs: Inputs, dense: OnnxFile, path: Path) -> OnnxFile:
    """The dense file with all its weights in lower precision: as fast as it can be."""
    assert recipe.dtype != "fp32"
    drawn = _samples(recipe, inputs, inputs.encoded["validation"], inputs.loaded.tokenizer)
    return lower(dense, path, recipe.dtype, calibration=drawn.calibration).file


def _samples(recipe: Recipe, inputs: Inputs, validation: Encoded, tokenizer: PreTrainedTokenizerBase) -> Samples:
    task = inputs.data.task
    train = inputs.data.train.singles if task.kind.traits.vectors else inputs.data.train
    read: dict[str, Any] = {"max_length": inputs.max_length, "per_token": task.per_token, "stride": inputs.stride}
    return samples(train, validation, tokenizer, **read, seed=recipe.seed)


def measure(recipe: Recipe, inputs: Inputs, neurons: Neurons | None, models: Models, files: Files, stage: Stages) -> Measured:
    """Score the deployed file on the test split, beside its baselines, and time it against the dense one."""
    task, threads, text = inputs.data.task, recipe.threads, models.text
    low = {} if files.low is None else {"slim-low": files.low.file}
    ours = {"slim": files.slim, **low, **files.baselines}
    theirs = {"dense": files.dense} if inputs.own_head else {}
    theirs |= {} if files.tuned is None else {"tuned": files.tuned}
    dense_low = {} if files.dense_low is None else {"dense-low": files.dense_low}
    with stage("score"):
        held = inputs.encoded["test"]
        answers = {} if neurons is None else neurons.test
        test = {name: Answers(held.every(found), held.every_label, held.every_start) for name, found in answers.items()}
        validation = {} if neurons is None else {"oracle": neurons.oracle_validation}
        thresholds: dict[str, NDArray[np.float64]] = {}
        raw: dict[str, NDArray[Any]] = {}
        for encoded, files_of in ((text.encoded, ours), (inputs.encoded, {**theirs, **dense_low})):
            chosen, test_rows = encoded["validation"], encoded["test"]
            for name, file in files_of.items():
                if task.many or name in ("slim", "slim-low", "dense"):
                    outputs = outputs_of_file(file.path, chosen, threads=threads)
                    # A model has one set of thresholds, whichever of its files is loaded.
                    cut = thresholds.get(name.removesuffix("-low"))
                    cut = task.thresholds(outputs, chosen.labels) if cut is None else cut
                    thresholds |= {} if cut is None else {name: cut}
                    validation[name] = judged(task, chosen, task.tuned(outputs, chosen.labels, cut))
                found = outputs_of_file(file.path, test_rows, threads=threads)
                raw |= {} if inputs.data.labelled else {name: test_rows.every(found)}
                outputs = test_rows.every(task.tuned(found, test_rows.labels, thresholds[name]) if task.many else found)
                test[name] = Answers(outputs, test_rows.every_label, test_rows.every_start)
        floor = bag_of_words(inputs.data, seed=recipe.seed)
        if floor is not None:
            test["bag"] = Answers(floor, inputs.encoded["test"].every_label, inputs.encoded["test"].every_start)
        drops = {}
        if recipe.max_drop is not None:
            drop = _drop_from(inputs, text, files, threads=threads)
            drops = {name: drop(ours[name].path, LEVEL) for name in ("slim", *low)}
    searches: tuple[Retrieved, ...] = ()
    if inputs.retrieval is not None:
        with stage("search the corpus"):
            searches = retrieved(inputs, text, files, threads=threads, own_space=recipe.space == "own", seed=recipe.seed)
    # A budget is held against the lower end of the interval, which a busy machine makes wide.
    longer: dict[str, Any] = {"max_seconds": _LONG} if any(budget.unit is Unit.LATENCY for budget in recipe.budgets) else {}
    with stage("latency"):
        latency = latency_of_files(
            {name: file.path for name, file in files.compared.items()},
            inputs.encoded["test"],
            own=dict.fromkeys(("slim", f"slim {recipe.dtype}"), text.encoded["test"]),
            # A split of fewer rows has no larger batch.
            batch_sizes=tuple(dict.fromkeys((1, min(recipe.batch or BATCH, len(inputs.encoded["test"]))))),
            threads=threads,
            seed=recipe.seed,
            **longer,
        )
    draws = _draws(task, test, recipe.baselines)
    rows = "of validation" if inputs.data.check is None else "that chose nothing else"
    # Spans are compared, and not the logits of places, which windows repeat.
    comparable = "dense" in raw and not task.kind.traits.spans
    apart = {name: divergence(task, found, raw["dense"]) for name, found in raw.items()} if comparable else {}
    return Measured(test, validation, latency, drops, thresholds.get("slim"), apart, draws, searches, rows)


def _draws(task: Task, test: dict[str, Answers], several: bool) -> dict[str, tuple[float, ...]]:
    """The metric of each draw of a baseline; of several the median's answers stay, under the first one's name."""
    found: dict[str, tuple[float, ...]] = {}
    for name in BASELINES if several else ():
        drawn = {each: task.score(*answers) for each, answers in test.items() if first_of(each) == name}
        if len(drawn) < 2:
            continue
        middle = sorted(drawn, key=lambda each: drawn[each])[len(drawn) // 2]
        answers = test[middle]
        for each in drawn:
            del test[each]
        test[name], found[name] = answers, tuple(drawn.values())
    return found


def _drop_from(inputs: Inputs, text: Text, files: Files, *, threads: int) -> Callable[[Path, float], Drop]:
    """What a slim file loses of the metric of the dense one, on the rows that hold the largest drop, with a bound of that level."""
    task, held = inputs.data.task, inputs.encoded[inputs.held]
    theirs = thresholds_of(task, files.dense.path, inputs.encoded["validation"], threads=threads)
    reference = answers_of(task, files.dense.path, held, theirs, threads=threads)
    # The slim model has one set of thresholds, whichever of its files is loaded.
    cut = thresholds_of(task, files.slim.path, text.encoded["validation"], threads=threads)

    def drop(path: Path, level: float) -> Drop:
        answers = answers_of(task, path, text.encoded[inputs.held], cut, threads=threads)
        return relative_drop(task, reference, answers, held.every_label, held.every_start, level=level)

    return drop


def accepting(most: float, drop: Callable[[Path, float], Drop]) -> Callable[[Path], bool]:
    """Whether a file is shown to keep to the largest drop.

    Files are tried until one is, on the same rows, so each may err half as often as the one before: all of them together then do as
    often as one that is tried alone (alpha spending).
    """
    spent = iter(1 - (1 - LEVEL) / 2**number for number in count(1))
    return lambda trial: drop(trial, next(spent)).upper <= most
