"""Input of `prunekit export`: a checkpoint, or a directory that prunekit wrote, with the head's inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedTokenizerBase

from prunekit.arch.config import check_tokenizer_files
from prunekit.arch.embedding import embedder
from prunekit.arch.load import LoadedModel, agree, load_model, load_tokenizer, modules_folder
from prunekit.arch.view import ModelView
from prunekit.errors import ModelError, ParameterError
from prunekit.exporters.checkpoint import PLAN, load
from prunekit.exporters.heads import Head, head_of
from prunekit.exporters.onnx import EMBEDDED, InputSpace, sample_space
from prunekit.plan import Plan
from prunekit.tasks import ENDS

OUTPUTS: dict[Head, tuple[str, ...]] = {
    "feature-extraction": EMBEDDED,
    "text-classification": ("logits",),
    "token-classification": ("logits",),
    "question-answering": ENDS,
}


@dataclass(frozen=True, eq=False)
class Exportable:
    """A model that is ready to be exported.

    Attributes
    ----------
    name : str
        As given.
    model : nn.Module
        In eval mode, float32; called with `inputs` by name, its output has `outputs` as fields.
    config : PretrainedConfig
    tokenizer : PreTrainedTokenizerBase
        Its `model_max_length` is that of the space.
    head : str
        Task of the head, by the names of the hub's pipelines.
    inputs : tuple of str
    space : InputSpace
        Inputs that the file accepts.
    plan : Plan or None
        Plan of a directory that prunekit wrote.
    """

    name: str
    model: nn.Module
    config: Any
    tokenizer: PreTrainedTokenizerBase
    head: Head
    inputs: tuple[str, ...]
    space: InputSpace
    plan: Plan | None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs of the file."""
        return OUTPUTS[self.head]


def load_source(
    name: str | Path,
    *,
    max_length: int | None = None,
    pooling: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Exportable:
    """Load a model to export: `exportable_of` of it.

    Parameters
    ----------
    name : path or str
        A directory that `compress` or `apply` wrote, any other checkpoint's directory, or a hub name.
    max_length : int, optional
        Longest row that the file must take; default: the longest that model and tokenizer allow.
    pooling : {"mean", "cls", "last", "max"}, optional
        How an encoder without a head embeds a text; default: the setting of the checkpoint, or the mean.
    revision, trust_remote_code
        As in `prunekit.arch.load.load_model`.

    Raises
    ------
    ModelError, PlanError, UnsupportedError
        A model that cannot be loaded or exported.
    ParameterError
        A length that the model does not take, or a pooling for a model with a head.
    """
    folder = Path(name).expanduser()
    if (folder / PLAN).is_file():
        plan, model, tokenizer = Plan.load(folder / PLAN), load(folder), _tokenizer(str(name), folder, trust_remote_code)
        agree(str(name), tokenizer, ModelView.of(model).config, None, True)
        return _exportable(str(name), model, tokenizer, plan, folder, max_length, pooling)
    loaded = load_model(name, revision=revision, trust_remote_code=trust_remote_code)
    return exportable_of(loaded, max_length=max_length, pooling=pooling, revision=revision)


def exportable_of(
    loaded: LoadedModel, *, max_length: int | None = None, pooling: str | None = None, revision: str | None = None
) -> Exportable:
    """Return a model to export, loaded from a checkpoint or in memory; the parameters and errors are those of `load_source`."""
    place = None
    if head_of(loaded.model) == "feature-extraction" and not loaded.in_memory:
        place = modules_folder(loaded.name, revision, known=pooling is not None)
    return _exportable(loaded.name, loaded.model, loaded.tokenizer, None, place, max_length, pooling)


def _exportable(
    name: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan | None,
    modules: Path | None,
    max_length: int | None,
    pooling: str | None,
) -> Exportable:
    """Return a model to export; `modules` has the sentence-transformers files of one without a head, where there are any."""
    view = ModelView.of(model)
    head = head_of(model)
    if head == "feature-extraction":
        model = embedder(view.body, modules, pooling)
    elif pooling is not None:
        raise ParameterError("pooling", "export", "left out for a model with a head, which has its own", pooling)
    side: Literal["left", "right"] = "left" if tokenizer.padding_side == "left" else "right"
    space = sample_space(view.config, pad_id=tokenizer.pad_token_id, padding_side=side)
    longest = int(min(space.max_length, tokenizer.model_max_length))
    if max_length is not None and not 1 <= max_length <= space.max_length:
        raise ParameterError("max_length", "export", f"1 to {space.max_length}, the longest row that the model takes", max_length)
    space = replace(space, max_length=max_length or longest)
    tokenizer.model_max_length = space.max_length
    return Exportable(name, model.eval(), view.config, tokenizer, head, view.inputs, space, plan)


def _tokenizer(name: str, folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise ModelError(f"The model directory {name!r} has no tokenizer: tokenizer.json must be there.")
    check_tokenizer_files(folder, f"The model directory {name!r}")
    return load_tokenizer(folder, name=name, trust_remote_code=trust_remote_code)
