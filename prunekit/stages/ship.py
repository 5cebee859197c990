"""The files that ship or are compared, and what they do on the test split."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from prunekit import __version__
from prunekit.exporters.onnx import InputSpace, OnnxFile, export_onnx
from prunekit.exporters.parity import check_parity
from prunekit.measure.latency import latency_of_files
from prunekit.measure.metric import outputs_of_file
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.stages.values import Answers, Files, Inputs, Measured, Models, Neurons, space_of


def export_slim(model: nn.Module, plan: Plan, folder: Path, inputs: tuple[str, ...], space: InputSpace) -> OnnxFile:
    """The file to deploy, into the artefact's folder."""
    (folder / "onnx").mkdir()
    metadata = {"prunekit": __version__, "plan": plan.digest}
    return export_onnx(model, folder / "onnx" / "model.onnx", inputs=inputs, space=space, metadata=metadata)


def deploy(inputs: Inputs, models: Models, folder: Path, scratch: Path, stage: Stages) -> Files:
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
    return Files(slim, dense, baselines, parity)


def measure(recipe: Recipe, inputs: Inputs, neurons: Neurons | None, models: Models, files: Files, stage: Stages) -> Measured:
    """Score the deployed file on the test split, beside its baselines, and time it against the dense one."""
    task, threads, text = inputs.data.task, recipe.threads, models.text
    ours = {"slim": files.slim, **files.baselines}
    theirs = {"dense": files.dense} if inputs.own_head else {}
    with stage("score"):
        labels = inputs.encoded["test"].labels
        test = {} if neurons is None else {name: Answers(outputs, labels) for name, outputs in neurons.test.items()}
        for encoded, files_of in ((text.encoded["test"], ours), (inputs.encoded["test"], theirs)):
            for name, file in files_of.items():
                test[name] = Answers(outputs_of_file(file.path, encoded, threads=threads), encoded.labels)
        validation = {} if neurons is None else {"oracle": neurons.oracle_validation}
        for held, name, file in (
            (text.encoded["validation"], "slim", files.slim),
            *((inputs.encoded["validation"], name, file) for name, file in theirs.items()),
        ):
            validation[name] = task.score(outputs_of_file(file.path, held, threads=threads), held.labels)
    with stage("latency"):
        latency = latency_of_files(
            {"dense": files.dense.path, "slim": files.slim.path},
            inputs.encoded["test"],
            own={"slim": text.encoded["test"]},
            threads=threads,
            seed=recipe.seed,
        )
    return Measured(test, validation, latency)
