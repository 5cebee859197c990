"""The files that ship or are compared, and what they do on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from prunekit import __version__
from prunekit.arch.view import Embedder
from prunekit.budget import Unit
from prunekit.exporters.onnx import InputSpace, OnnxFile, export_onnx
from prunekit.exporters.parity import check_parity
from prunekit.exporters.precision import FILES, LowFile, lower
from prunekit.exporters.rows import samples
from prunekit.exporters.verify import write_probe
from prunekit.pipeline.bag_of_words import bag_of_words
from prunekit.pipeline.drop import Drop, relative_drop
from prunekit.pipeline.records import Answers, Files, Inputs, Measured, Models, Neurons, space_of
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.runtime.scores import judged, outputs_of_file
from prunekit.runtime.timing import latency_of_files

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
    low = _lowered(recipe, inputs, models, slim, folder, stage)
    write_probe(folder, space, names, seed=recipe.seed)
    return Files(slim, dense, baselines, parity, low)


def _lowered(recipe: Recipe, inputs: Inputs, models: Models, slim: OnnxFile, folder: Path, stage: Stages) -> LowFile | None:
    """The slim file in lower precision; which weights stay float32 is searched on the validation split."""
    dtype, text = recipe.dtype, models.text
    if dtype == "fp32":
        return None
    with stage(dtype):
        drawn = samples(
            inputs.data.train.singles if isinstance(models.dense, Embedder) else inputs.data.train,
            text.encoded["validation"],
            text.tokenizer,
            max_length=inputs.max_length,
            per_token=inputs.data.task.per_token,
            seed=recipe.seed,
        )
        return lower(slim, folder / FILES[dtype], dtype, **drawn._asdict())


def measure(recipe: Recipe, inputs: Inputs, neurons: Neurons | None, models: Models, files: Files, stage: Stages) -> Measured:
    """Score the deployed file on the test split, beside its baselines, and time it against the dense one."""
    task, threads, text = inputs.data.task, recipe.threads, models.text
    low = {} if files.low is None else {"low": files.low.file}
    ours = {"slim": files.slim, **low, **files.baselines}
    theirs = {"dense": files.dense} if inputs.own_head else {}
    with stage("score"):
        held = inputs.encoded["test"]
        answers = {} if neurons is None else neurons.test
        test = {name: Answers(held.every(found), held.every_label, held.every_start) for name, found in answers.items()}
        for encoded, files_of in ((text.encoded["test"], ours), (inputs.encoded["test"], theirs)):
            for name, file in files_of.items():
                outputs = encoded.every(outputs_of_file(file.path, encoded, threads=threads))
                test[name] = Answers(outputs, encoded.every_label, encoded.every_start)
        floor = bag_of_words(inputs.data, seed=recipe.seed)
        if floor is not None:
            test["bag"] = Answers(floor, inputs.encoded["test"].every_label, inputs.encoded["test"].every_start)
        validation = {} if neurons is None else {"oracle": neurons.oracle_validation}
        for held, name, file in (
            *((text.encoded["validation"], name, file) for name, file in {"slim": files.slim, **low}.items()),
            *((inputs.encoded["validation"], name, file) for name, file in theirs.items()),
        ):
            validation[name] = judged(task, held, outputs_of_file(file.path, held, threads=threads))
        drops = {} if recipe.max_drop is None else _drops(recipe, inputs, models, files)
    # A budget is held against the lower end of the interval, which a busy machine makes wide.
    longer: dict[str, Any] = {"max_seconds": _LONG} if any(budget.unit is Unit.LATENCY for budget in recipe.budgets) else {}
    with stage("latency"):
        latency = latency_of_files(
            {"dense": files.dense.path, "slim": files.slim.path, **{f"slim {recipe.dtype}": file.path for file in low.values()}},
            inputs.encoded["test"],
            own=dict.fromkeys(("slim", f"slim {recipe.dtype}"), text.encoded["test"]),
            batch_sizes=(1, recipe.batch or BATCH),
            threads=threads,
            seed=recipe.seed,
            **longer,
        )
    return Measured(test, validation, latency, drops)


def _drops(recipe: Recipe, inputs: Inputs, models: Models, files: Files) -> dict[str, Drop]:
    """What each slim file loses of the dense file's metric on the validation split."""
    ours, theirs = models.text.encoded["validation"], inputs.encoded["validation"]
    slim = {"slim": files.slim, **({} if files.low is None else {"low": files.low.file})}
    reference = theirs.every(outputs_of_file(files.dense.path, theirs, threads=recipe.threads))
    return {
        name: relative_drop(
            inputs.data.task,
            reference,
            ours.every(outputs_of_file(file.path, ours, threads=recipe.threads)),
            theirs.every_label,
            theirs.every_start,
        )
        for name, file in slim.items()
    }
