"""A plan carried out without data: the weights are sliced, nothing is fitted, and no metric is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from prunekit.arch.count import Counts, count
from prunekit.arch.embedding import EmbeddingModel
from prunekit.arch.load import LoadedModel
from prunekit.arch.view import ModelView
from prunekit.errors import ParameterError
from prunekit.exporters.onnx import InputSpace, OnnxFile, export_onnx
from prunekit.exporters.parity import check_parity
from prunekit.exporters.precision import FILES, lower
from prunekit.exporters.verify import write_probe
from prunekit.metrics import Metric
from prunekit.pipeline.evaluate import export_slim
from prunekit.pipeline.inputs import load_dense
from prunekit.pipeline.records import Files, space_of
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.runtime.records import Comparison
from prunekit.runtime.timing import compare, load_files, stopwatch
from prunekit.tasks import TaskKind
from prunekit.transforms.apply import apply, check_fit, completed
from prunekit.transforms.tokenizer import shrink_tokenizer

#: Tokens of the random rows on which latency is measured.
LENGTHS = (8, 16, 32, 64, 128)
_BATCHES = (1, 32)


@dataclass(frozen=True, eq=False)
class DataFree:
    """The dense and the slim model without data, where only the model's own head defines a task.

    Attributes
    ----------
    lengths : ndarray of int64
        Of the random rows, for MACs and latency.
    """

    loaded: LoadedModel
    inputs: tuple[str, ...]
    slim: nn.Module
    plan: Plan
    tokenizer: PreTrainedTokenizerBase
    counts: Mapping[str, Counts]
    lengths: NDArray[np.int64]

    @property
    def kind(self) -> TaskKind:
        """The task of the head."""
        if isinstance(self.loaded.model, EmbeddingModel):
            return TaskKind.EMBEDDING
        assert self.loaded.kind is not None
        return self.loaded.kind

    @property
    def metric(self) -> Metric:
        """The usual metric of that kind."""
        return self.kind.traits.metrics[0]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; none of a regression."""
        return () if self.kind.traits.values or not self.kind.traits.labelled else self.loaded.labels or ()

    @property
    def spaces(self) -> dict[str, InputSpace]:
        """Spaces of the inputs that the dense and the slim file are tested on."""
        return {"dense": space_of(self.loaded.config, self.loaded.tokenizer), "slim": space_of(self.slim.config, self.tokenizer)}


def data_free_model(recipe: Recipe, plan: Plan, stage: Stages, live: LoadedModel | None = None) -> DataFree:
    """Check that a recipe can be carried out without data, load the model, or take the one in memory, and slice it: `sliced`."""
    if recipe.max_drop is not None:
        raise ParameterError("max_drop", "compress", "left out without data, on which it is measured", f"{recipe.max_drop:.2%}")
    if recipe.effort is not None and recipe.recover != "auto":
        raise ParameterError("recover", "compress", "left out without data to train on", recipe.recover)
    if recipe.freeze is not None:
        raise ParameterError("freeze", "compress", "left out without data to train on", recipe.freeze)
    if recipe.dtype == "int8-static":
        raise ParameterError("data", "compress", "given for int8-static, whose ranges come from it", recipe.data)
    if plan.readout is not None:
        raise ParameterError("data", "compress", "given for a plan with a readout, whose classifier is fitted on it", recipe.data)
    if plan.components is not None:
        must = "given for a plan that reads principal components, which are those of the data"
        raise ParameterError("data", "compress", must, recipe.data)
    if recipe.dims is not None:
        raise ParameterError("data", "compress", "given for fewer dimensions, which are fitted to it", recipe.data)
    if recipe.retrieval is not None:
        raise ParameterError("data", "compress", "given with retrieval, which is measured beside the rows of a task", recipe.data)
    with stage("load"):
        loaded = load_dense(recipe, live)
    return sliced(recipe, loaded, plan, stage)


def sliced(recipe: Recipe, loaded: LoadedModel, plan: Plan, stage: Stages) -> DataFree:
    """Slice a model with a head of its own."""
    longest = loaded.row_length(recipe.max_length, of="compress")
    if not loaded.fine_tuned and not isinstance(loaded.model, EmbeddingModel):
        raise ParameterError("data", "compress", "given for a model without a head of its own, which has nothing to answer", recipe.data)
    view = ModelView.of(loaded.model)
    check_fit(view, plan)
    plan = completed(view, plan)
    with stage("slice"):
        slim = apply(loaded.model, plan)
        tokenizer = loaded.tokenizer if plan.vocabulary is None else shrink_tokenizer(loaded.tokenizer, plan.vocabulary)
    lengths = np.array(sorted({min(length, longest) for length in LENGTHS}), dtype=np.int64)
    counts = {"dense": count(view, lengths), "slim": count(slim, lengths)}
    return DataFree(loaded, view.inputs, slim, plan, tokenizer, counts, lengths)


def deploy_data_free(
    recipe: Recipe, data_free: DataFree, folder: Path, scratch: Path, stage: Stages
) -> tuple[Files, tuple[Comparison, ...]]:
    """Export both models, each checked against PyTorch, and time them on random rows."""
    names, spaces = data_free.inputs, data_free.spaces
    with stage("export"):
        slim = export_slim(data_free.slim, data_free.plan, folder, names, spaces["slim"])
        parity = check_parity(slim.path, data_free.slim, inputs=names, space=spaces["slim"])
        dense = export_onnx(data_free.loaded.model, scratch / "dense.onnx", inputs=names, space=spaces["dense"])
        check_parity(dense.path, data_free.loaded.model, inputs=names, space=spaces["dense"])
    low = dense_low = None
    if recipe.dtype != "fp32":
        with stage(recipe.dtype):
            low = lower(slim, folder / FILES[recipe.dtype], recipe.dtype)
            dense_low = lower(dense, scratch / "dense-low.onnx", recipe.dtype).file
    write_probe(folder, spaces["slim"], names, seed=recipe.seed)
    files = Files(slim, dense, {}, parity, low, dense_low)
    with stage("latency"):
        latency = tuple(_timed(files.compared, spaces, names, rows, data_free.lengths, recipe) for rows in _BATCHES)
    return files, latency


def _timed(
    files: Mapping[str, OnnxFile],
    spaces: Mapping[str, InputSpace],
    names: tuple[str, ...],
    rows: int,
    lengths: NDArray[np.int64],
    recipe: Recipe,
) -> Comparison:
    batches = {
        name: [spaces[name.partition(" ")[0]].batch(rows, int(length), seed=recipe.seed, names=names) for length in lengths]
        for name in files
    }
    return compare(
        load_files({name: file.path for name, file in files.items()}, batches, recipe.threads),
        range(len(lengths)),
        baseline="dense",
        shapes=[(rows, int(length)) for length in lengths],
        warmup=1,
        seed=recipe.seed,
        threads=recipe.threads,
        lap=stopwatch(recipe.threads),
    )
