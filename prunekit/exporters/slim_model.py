"""Slim models that differ from layer to layer, as the Auto classes, pipelines and sentence-transformers load them.

It is imported in the midst of transformers' own import, so that what looks things up there is imported where it is used.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from prunekit.arch.folder import PRUNED
from prunekit.arch.view import ModelView
from prunekit.errors import ModelError, ParameterError
from prunekit.exporters.heads import Head, head_of
from prunekit.exporters.manifest import PLAN
from prunekit.exporters.slim_config import SLIM_CONFIG, SlimConfig, slim_fields
from prunekit.plan import Plan

_FILES = ("config.json", SLIM_CONFIG, PLAN, PRUNED)
#: Of the hub.
_PLACE = ("cache_dir", "force_download", "local_files_only", "revision", "token")
#: What loaders pass on and what changes nothing here: safetensors alone are read, and no code is run.
_IDLE = (
    *("trust_remote_code", "use_safetensors", "low_cpu_mem_usage", "adapter_kwargs", "proxies", "code_revision", "weights_only"),
    *("_from_auto", "_from_pipeline", "_commit_hash"),
)


class SlimPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim model behind the interface of transformers.

    Parameters
    ----------
    config : SlimConfig
    slim : nn.Module
        What `prunekit.load` gives.

    Attributes
    ----------
    plan : prunekit.Plan
        What was kept of the dense model.
    """

    config_class = SlimConfig
    base_model_prefix = "slim"
    main_input_name = "input_ids"
    _supports_sdpa = True
    #: The loader for a model of this kind, and what its head is for; None for whatever is below the head.
    loader: ClassVar[str]
    head: ClassVar[Head | None]
    plan: Plan

    def __init__(self, config: SlimConfig, slim: nn.Module | None = None) -> None:
        if slim is None:
            raise ModelError(f"A slim model has no weights to start from; use {self.loader}.from_pretrained.")
        super().__init__(config)
        self.slim = self._part(slim)
        self.num_labels = config.num_labels
        self._takes = ModelView.of(slim).inputs

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a directory, or a repository of the hub, that prunekit wrote.

        Parameters
        ----------
        pretrained_model_name_or_path : path or str
        config : SlimConfig, optional
        dtype : torch.dtype or str, optional
            "auto" is float32.
        device_map : str, torch.device or {"": device}, optional
        output_loading_info : bool
            Return (model, what was missing: nothing).
        cache_dir, force_download, local_files_only, revision, token
            Of the hub.

        Raises
        ------
        ParameterError
            An option that would change the model.
        ModelError, PlanError
            As in `prunekit.load`, or a model with another head.
        """
        from prunekit.exporters.checkpoint import load

        place = {name: kwargs.pop(name) for name in _PLACE if name in kwargs}
        config, info = kwargs.pop("config", None), kwargs.pop("output_loading_info", False)
        dtype, device = (kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None)), kwargs.pop("device_map", None)
        subfolder = kwargs.pop("subfolder", "") or ""
        asked = {name for name, value in kwargs.items() if name not in _IDLE and value is not None}
        if args or asked:
            must = f"left out for a model that prunekit wrote; it takes config, dtype, device_map, {', '.join(_PLACE)}"
            raise ParameterError(min(asked, default="model_args"), cls.__name__, must, str(kwargs.get(min(asked, default=""), args))[:60])
        folder = _folder(str(pretrained_model_name_or_path), place) / subfolder
        slim = load(folder)
        # What was loaded has been checked: the second file with its config need not be read.
        config = config or SlimConfig.from_dict(slim_fields(ModelView.of(slim).config.to_dict()))
        made = _named(cls, slim)(config, slim)
        made.__dict__["plan"] = Plan.load(folder / PLAN)
        made.name_or_path = made.config._name_or_path = str(pretrained_model_name_or_path)
        made = _moved(made, dtype, device)
        made.train(False)
        return (made, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}) if info else made

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write the model so that `from_pretrained` and `prunekit.load` give it back exactly; other arguments are those of transformers."""
        from prunekit.exporters.checkpoint import save_checkpoint

        save_checkpoint(self._whole(), None, self.plan, save_directory)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the tokens."""
        found: Any = ModelView.of(self.slim).body
        embedding: nn.Module = found.get_input_embeddings()
        return embedding

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **given: Any,
    ) -> Any:
        """What the slim model gives.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids : Tensor
            (batch, length), int64; what the model does not take is left out.
        labels : Tensor, optional
            As the model's own class takes them; then the output has a loss.
        **given
            Passed on where they are neither None nor False (`output_hidden_states`, ...).
        """
        tensors = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        ours = {name: tensor for name, tensor in tensors.items() if name in self._takes}
        # Loaders give every model the defaults of all of them.
        return self.slim(
            **{name: value for name, value in {**ours, "labels": labels, **given}.items() if value is not None and value is not False}
        )

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing is made at random."""

    def _part(self, slim: nn.Module) -> nn.Module:
        """What of a slim model this class is for."""
        found = head_of(slim)
        if found != self.head:
            raise ModelError(f"The model is for {found}; load it with {class_for(found).loader}.")
        return slim

    def _whole(self) -> nn.Module:
        """What is saved."""
        return self.slim


class SlimModel(SlimPreTrainedModel):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim encoder without its head."""

    loader = "AutoModel"
    head = None

    def _part(self, slim: nn.Module) -> nn.Module:
        body = getattr(slim, str(slim.base_model_prefix), slim)
        assert isinstance(body, nn.Module)
        # The head is kept, for saving, but is no part of the model.
        self.__dict__["_head"] = slim
        return body

    def _whole(self) -> nn.Module:
        whole: nn.Module = self.__dict__["_head"]
        return whole


class SlimForSequenceClassification(SlimPreTrainedModel):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim classifier, or regressor, of texts."""

    loader = "AutoModelForSequenceClassification"
    head = "text-classification"


class SlimForTokenClassification(SlimPreTrainedModel):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim classifier of tokens."""

    loader = "AutoModelForTokenClassification"
    head = "token-classification"


class SlimForQuestionAnswering(SlimPreTrainedModel):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim model that answers questions by spans of their context."""

    loader = "AutoModelForQuestionAnswering"
    head = "question-answering"


_HEADS = (SlimForSequenceClassification, SlimForTokenClassification, SlimForQuestionAnswering)


def class_for(head: Head) -> type[SlimPreTrainedModel]:
    """The class that a model with this head is loaded as."""
    return next((made for made in _HEADS if made.head == head), SlimModel)


@cache
def _class_of_name(base: type[SlimPreTrainedModel], name: str) -> type[SlimPreTrainedModel]:
    return type(name, (base,), {"__module__": base.__module__, "__doc__": base.__doc__})


def _named(base: type[SlimPreTrainedModel], slim: nn.Module) -> type[SlimPreTrainedModel]:
    """The class under the name that the family has for it: pipelines complain of every name that they do not know."""
    stem = type(ModelView.of(slim).body).__name__.removesuffix("Model")
    return _class_of_name(base, stem + (base.loader.removeprefix("AutoModel") or "Model"))  # type: ignore[arg-type]  # of this base


def _folder(name: str, place: dict[str, Any]) -> Path:
    """A directory with the model: the one that is named, or one in the hub's cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(_FILES), **place))


def _moved(model: SlimPreTrainedModel, dtype: object, device: object) -> SlimPreTrainedModel:
    if isinstance(dtype, str):
        dtype = None if dtype == "auto" else getattr(torch, dtype, dtype)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ParameterError("dtype", type(model).__name__, "a torch.dtype, its name or 'auto'", str(dtype)[:60])
    if isinstance(device, dict) and set(device) == {""}:
        device = device[""]
    if device is not None and not isinstance(device, (str, int, torch.device)):
        raise ParameterError("device_map", type(model).__name__, "one device", str(device)[:60])
    device = "cpu" if device == "auto" and not torch.cuda.is_available() else "cuda" if device == "auto" else device
    found: Any = model
    for wanted in (dtype, device):
        found = found if wanted is None else found.to(wanted)
    moved: SlimPreTrainedModel = found
    return moved


def register() -> None:
    """Make the Auto classes know the classes."""
    for auto, made in (
        (AutoModel, SlimModel),
        (AutoModelForSequenceClassification, SlimForSequenceClassification),
        (AutoModelForTokenClassification, SlimForTokenClassification),
        (AutoModelForQuestionAnswering, SlimForQuestionAnswering),
    ):
        auto.register(SlimConfig, made, exist_ok=True)
