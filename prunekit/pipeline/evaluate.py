"""Export of the files that ship or are compared, and their evaluation on the test split."""

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
from prunekit.budget import TIMES
from prunekit.data.batches import Encoded
from prunekit.exporters.onnx import InputSpace, OnnxFile, export_onnx
from prunekit.exporters.parity import check_parity
from prunekit.exporters.precision import FILES, LowFile, lower
from prunekit.exporters.rows import Samples, samples
from prunekit.exporters.verify import write_probe
from prunekit.pipeline.bag_of_words import bag_of_words
from prunekit.pipeline.dense import dense_file
from prunekit.pipeline.drop import LEVEL, Drop, relative_drop
from prunekit.pipeline.file_size import most_of
from prunekit.pipeline.max_drop import answers_of, thresholds_of
from prunekit.pipeline.records import Answers, Files, Inputs, Measured, Models, Neurons, Run, Text, space_of
from prunekit.pipeline.retrieval import retrieved
from prunekit.plan import Plan
from prunekit.readout.baselines import first_of
from prunekit.report.base import BASELINES
from prunekit.report.embedder import Retrieved
from prunekit.runtime.scores import divergence, judged, outputs_of_file
from prunekit.runtime.timing import latency_of_files
from prunekit.tasks import Task

#: Rows of the larger batches at which latency is measured, where none are named.
BATCH = 32
#: Seconds for which time is measured where a budget depends on it.
_LONG = 60.0


def export_slim(model: nn.Module, plan: Plan, folder: Path, inputs: tuple[str, ...], space: InputSpace) -> OnnxFile:
    """Export the file to deploy into the artefact's directory."""
    (folder / "onnx").mkdir()
    metadata = {"prunekit": __version__, "plan": plan.digest}
    return export_onnx(model, folder / "onnx" / "model.onnx", inputs=inputs, space=space, metadata=metadata)


def deploy(run: Run, neurons: Neurons | None, models: Models, folder: Path) -> Files:
    """Export the slim model into the artefact and the dense one beside it, each checked against PyTorch."""
    names, text = run.inputs.view.inputs, models.text
    with run.stage("export"):
        space, full = space_of(models.slim.config, text.tokenizer), space_of(run.inputs.loaded.config, run.inputs.loaded.tokenizer)
        slim = export_slim(models.slim, models.plan, folder, names, space)
        sample = [batch.inputs for batch in text.encoded["validation"].sample(64, 0).batches()]
        parity = check_parity(slim.path, models.slim, inputs=names, space=space, batches=sample)
        dense = dense_file(run, neurons)
        if run.inputs.own_head:
            # The oracle's file is only timed; the oracle's outputs are computed from the neurons.
            check_parity(dense.path, models.dense, inputs=names, space=full)
        baselines = {
            name: export_onnx(model, run.scratch / f"{name}.onnx", inputs=names, space=space) for name, model in models.baselines.items()
        }
        tuned = None if models.tuned is None else export_onnx(models.tuned, run.scratch / "tuned.onnx", inputs=names, space=full)
    files = Files(slim, dense, baselines, parity, tuned=tuned)
    if run.recipe.dtype != "fp32":
        with run.stage(run.recipe.dtype):
            files = replace(files, low=_lowered(run, text, files, folder / FILES[run.recipe.dtype]))
            files = replace(files, dense_low=_dense_lowered(run, dense, run.scratch / "dense-low.onnx"))
    write_probe(folder, space, names, seed=run.recipe.seed)
    return files


def _lowered(run: Run, text: Text, files: Files, path: Path) -> LowFile:
    """Export the slim file in lower precision; the weights that stay float32 are chosen on the validation split."""
    assert run.recipe.dtype != "fp32"
    drawn = _samples(run, text.encoded["validation"], text.tokenizer)
    accept = None
    if run.recipe.max_drop is not None:
        accept = accepting(run.recipe.max_drop, _drop_from(run.inputs, text, files, threads=run.recipe.threads))

    return lower(files.slim, path, run.recipe.dtype, **drawn._asdict(), accept=accept, most=most_of(run.recipe, run.inputs))


def _dense_lowered(run: Run, dense: OnnxFile, path: Path) -> OnnxFile:
    """Export the dense file with all its weights in lower precision: as fast as it can be."""
    assert run.recipe.dtype != "fp32"
    drawn = _samples(run, run.inputs.encoded["validation"], run.inputs.loaded.tokenizer)
    return lower(dense, path, run.recipe.dtype, calibration=drawn.calibration).file


def _samples(run: Run, validation: Encoded, tokenizer: PreTrainedTokenizerBase) -> Samples:
    task = run.inputs.data.task
    train = run.inputs.data.train.singles if task.kind.traits.vectors else run.inputs.data.train
    encoding: dict[str, Any] = {"max_length": run.inputs.max_length, "per_token": task.per_token, "stride": run.inputs.stride}
    return samples(train, validation, tokenizer, **encoding, seed=run.recipe.seed)


def measure(run: Run, neurons: Neurons | None, models: Models, files: Files) -> Measured:
    """Score the deployed file on the test split, beside its baselines, and time it against the dense one."""
    task, threads, text = run.inputs.data.task, run.recipe.threads, models.text
    low = {} if files.low is None else {"slim-low": files.low.file}
    ours = {"slim": files.slim, **low, **files.baselines}
    theirs = {"dense": files.dense} if run.inputs.own_head else {}
    theirs |= {} if files.tuned is None else {"tuned": files.tuned}
    dense_low = {} if files.dense_low is None else {"dense-low": files.dense_low}
    with run.stage("score"):
        held = run.inputs.encoded["test"]
        answers = {} if neurons is None else neurons.test
        test = {name: Answers(held.every(output), held.every_label, held.every_start) for name, output in answers.items()}
        validation = {} if neurons is None else {"oracle": neurons.oracle_validation}
        thresholds: dict[str, NDArray[np.float64]] = {}
        raw: dict[str, NDArray[Any]] = {}
        for encoded, files_of in ((text.encoded, ours), (run.inputs.encoded, {**theirs, **dense_low})):
            chosen, test_rows = encoded["validation"], encoded["test"]
            for name, file in files_of.items():
                if task.many or name in ("slim", "slim-low", "dense"):
                    outputs = outputs_of_file(file.path, chosen, threads=threads)
                    # A model has one set of thresholds, whichever of its files is loaded.
                    cut = thresholds.get(name.removesuffix("-low"))
                    cut = task.thresholds(outputs, chosen.labels) if cut is None else cut
                    thresholds |= {} if cut is None else {name: cut}
                    validation[name] = judged(task, chosen, task.tuned(outputs, chosen.labels, cut))
                test_outputs = outputs_of_file(file.path, test_rows, threads=threads)
                raw |= {} if run.inputs.data.labelled else {name: test_rows.every(test_outputs)}
                outputs = test_rows.every(task.tuned(test_outputs, test_rows.labels, thresholds[name]) if task.many else test_outputs)
                test[name] = Answers(outputs, test_rows.every_label, test_rows.every_start)
        floor = bag_of_words(run.inputs.data, seed=run.recipe.seed)
        if floor is not None:
            test["bag"] = Answers(floor, run.inputs.encoded["test"].every_label, run.inputs.encoded["test"].every_start)
        drops = {}
        if run.recipe.max_drop is not None:
            drop = _drop_from(run.inputs, text, files, threads=threads)
            drops = {name: drop(ours[name].path, LEVEL) for name in ("slim", *low)}
    searches: tuple[Retrieved, ...] = ()
    if run.inputs.retrieval is not None:
        with run.stage("search the corpus"):
            searches = retrieved(run, text, files)
    # A budget is checked against the lower end of the interval, which a busy machine makes wide.
    longer: dict[str, Any] = {"max_seconds": _LONG} if any(budget.unit in TIMES for budget in run.recipe.budgets) else {}
    with run.stage("latency"):
        timed, own = _alike(run.inputs.encoded["test"], text.encoded["test"])
        latency = latency_of_files(
            {name: file.path for name, file in files.compared.items()},
            timed,
            own=dict.fromkeys(("slim", f"slim {run.recipe.dtype}"), own),
            # A split of fewer rows has no larger batch.
            batch_sizes=tuple(dict.fromkeys((1, min(run.recipe.batch or BATCH, len(timed))))),
            threads=threads,
            seed=run.recipe.seed,
            **longer,
        )
    draws = _draws(task, test, run.recipe.baselines)
    rows = "of validation" if run.inputs.data.check is None else "that chose nothing else"
    # Spans are compared, and not the logits of places, which windows repeat.
    comparable = "dense" in raw and not task.kind.traits.spans
    divergences = {name: divergence(task, output, raw["dense"]) for name, output in raw.items()} if comparable else {}
    return Measured(test, validation, latency, drops, thresholds.get("slim"), divergences, draws, searches, rows)


def _alike(dense: Encoded, slim: Encoded) -> tuple[Encoded, Encoded]:
    """Return rows for the times of both models, as many of either."""
    if slim is dense or dense.windows is None or slim.windows is None:
        return dense, slim
    # Two tokenizers cut a context into windows of their own: the first of each question is timed.
    first, own = (np.flatnonzero(np.diff(windows.questions, prepend=-1)) for windows in (dense.windows, slim.windows))
    return dense.take(first), slim.take(own)


def _draws(task: Task, test: dict[str, Answers], several: bool) -> dict[str, tuple[float, ...]]:
    """Return the metrics of all draws of a baseline; of several keep the median's answers in `test`, under the first one's name."""
    draws: dict[str, tuple[float, ...]] = {}
    for name in BASELINES if several else ():
        drawn = {draw: task.score(*answers) for draw, answers in test.items() if first_of(draw) == name}
        if len(drawn) < 2:
            continue
        middle = sorted(drawn, key=lambda draw: drawn[draw])[len(drawn) // 2]
        answers = test[middle]
        for draw in drawn:
            del test[draw]
        test[name], draws[name] = answers, tuple(drawn.values())
    return draws


def _drop_from(inputs: Inputs, text: Text, files: Files, *, threads: int) -> Callable[[Path, float], Drop]:
    """Return a function of a slim file and a level: its drop, on the rows that bound the largest drop, with a bound of that level."""
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
    """Return a test of whether a file is shown to keep to the largest drop.

    Files are tried until one is, on the same rows, so each may err half as often as the one before: all of them together then do as
    often as one that is tried alone (alpha spending).
    """
    spent = iter(1 - (1 - LEVEL) / 2**number for number in count(1))
    return lambda trial: drop(trial, next(spent)).upper <= most
