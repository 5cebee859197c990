"""Slim models that differ from layer to layer, as the Auto classes, pipelines and sentence-transformers load them.

It is imported during transformers' own import, so that modules that look classes up there are imported inside the functions that use them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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

from prunekit.arch.embedding import PROMPTS
from prunekit.arch.folder import PRUNED
from prunekit.arch.view import ModelView
from prunekit.errors import ModelError, ParameterError
from prunekit.exporters.heads import Head, head_of
from prunekit.exporters.manifest import PLAN
from prunekit.exporters.slim_config import SLIM_CONFIG, SlimConfig, slim_fields
from prunekit.plan import Plan
from prunekit.transforms.layers import configs

_FILES = ("config.json", SLIM_CONFIG, PLAN, PRUNED)
#: Keyword arguments for the hub.
_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token")
#: Keyword arguments of loaders without effect here: only safetensors are read, and no code is run.
_IGNORED = (
    *("trust_remote_code", "use_safetensors", "low_cpu_mem_usage", "adapter_kwargs", "proxies", "code_revision", "weights_only"),
    *("_from_auto", "_from_pipeline", "_commit_hash"),
)


class SlimPreTrainedModel(PreTrainedModel, ABC):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim model behind the interface of transformers.

    Parameters
    ----------
    config : SlimConfig
    slim : nn.Module
        The model that `prunekit.load` returns.

    Attributes
    ----------
    plan : prunekit.Plan
        Plan of what was retained of the dense model.
    """

    config_class = SlimConfig
    base_model_prefix = "slim"
    main_input_name = "input_ids"
    _supports_sdpa = True
    #: Auto class that loads such a model, and the task of its head; None for a model without its head.
    loader: ClassVar[str]
    head: ClassVar[Head | None]
    plan: Plan
    #: The loss is the mean of a batch: a Trainer passes no count of items, and divides by the steps that it accumulates.
    accepts_loss_kwargs = False

    def __init__(self, config: SlimConfig, slim: nn.Module | None = None) -> None:
        if slim is None:
            raise ModelError(f"A slim model has no weights to start from; use {self.loader}.from_pretrained.")
        super().__init__(config)
        self.slim = self._wrapped_part(slim)
        self.num_labels = config.num_labels
        self._input_names = ModelView.of(slim).inputs

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
            Return (model, loading info), the latter with empty lists.
        cache_dir, force_download, local_files_only, revision, token
            Options of the hub.

        Raises
        ------
        ParameterError
            An option that would change the model.
        ModelError, PlanError
            As in `prunekit.load`, or a model with another head.
        """
        from prunekit.exporters.checkpoint import load

        hub_options = {name: kwargs.pop(name) for name in _HUB if name in kwargs}
        config, info = kwargs.pop("config", None), kwargs.pop("output_loading_info", False)
        dtype, device = (kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None)), kwargs.pop("device_map", None)
        subfolder = kwargs.pop("subfolder", "") or ""
        refused = {name for name, value in kwargs.items() if name not in _IGNORED and value is not None}
        if args or refused:
            must = f"left out for a model that prunekit wrote; it takes config, dtype, device_map, {', '.join(_HUB)}"
            raise ParameterError(
                min(refused, default="model_args"), cls.__name__, must, str(kwargs.get(min(refused, default=""), args))[:60]
            )
        folder = _folder(str(pretrained_model_name_or_path), subfolder, hub_options) / subfolder
        slim = load(folder)
        # The loaded model has been checked: its config need not be read from the second file.
        config = config or SlimConfig.from_dict(slim_fields(ModelView.of(slim).config.to_dict()))
        model = _family_class(cls, slim)(config, slim)
        model.__dict__["plan"] = Plan.load(folder / PLAN)
        model.name_or_path = model.config._name_or_path = str(pretrained_model_name_or_path)
        model = _moved(model, dtype, device)
        model.train(False)
        return (model, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}) if info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write the model so that `from_pretrained` and `prunekit.load` give it back exactly; other arguments are those of transformers."""
        from prunekit.exporters.checkpoint import relabel, save_checkpoint

        for config in configs(self._saved_model()):
            relabel(config, self.config.to_dict())
        # sentence-transformers writes its own file, with its version, before its modules are saved.
        place = Path(save_directory) / PROMPTS
        stated = place.read_bytes() if place.is_file() and b'"__version__"' in place.read_bytes() else None
        save_checkpoint(self._saved_model(), None, self.plan, save_directory)
        if stated is not None:
            place.write_bytes(stated)

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of the tokens."""
        body: Any = ModelView.of(self.slim).body
        embedding: nn.Module = body.get_input_embeddings()
        return embedding

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **given: Any,
    ) -> Any:
        """Run the slim model.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids : Tensor
            (batch, length), int64; inputs that the model does not take are left out.
        labels : Tensor, optional
            As the model's own class takes them; then the output has a loss.
        **given
            Passed on where they are neither None nor False (`output_hidden_states`, ...).
        """
        tensors = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        accepted = {name: tensor for name, tensor in tensors.items() if name in self._input_names}
        # Loaders pass the default arguments of all models to every model.
        return self.slim(
            **{name: value for name, value in {**accepted, "labels": labels, **given}.items() if value is not None and value is not False}
        )

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: no weight is initialised at random."""

    @abstractmethod
    def _wrapped_part(self, slim: nn.Module) -> nn.Module:
        """Return the part of a slim model that this class wraps; refuse a model with another head."""

    @abstractmethod
    def _saved_model(self) -> nn.Module:
        """Return the model to save."""


class SlimForTask(SlimPreTrainedModel):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim model with its head."""

    head: ClassVar[Head]

    def _wrapped_part(self, slim: nn.Module) -> nn.Module:
        head = head_of(slim)
        if head != self.head:
            raise ModelError(f"The model is for {head}; load it with {class_for(head).loader}.")
        return slim

    def _saved_model(self) -> nn.Module:
        return self.slim


class SlimModel(SlimPreTrainedModel):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim encoder without its head."""

    loader = "AutoModel"
    head = None

    def _wrapped_part(self, slim: nn.Module) -> nn.Module:
        # The head is kept, for saving, but is no part of the model.
        self.__dict__["_head"] = slim
        return ModelView.of(slim).body

    def _saved_model(self) -> nn.Module:
        model: nn.Module = self.__dict__["_head"]
        return model


class SlimForSequenceClassification(SlimForTask):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim classifier, or regressor, of texts."""

    loader = "AutoModelForSequenceClassification"
    head = "text-classification"


class SlimForTokenClassification(SlimForTask):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim classifier of tokens."""

    loader = "AutoModelForTokenClassification"
    head = "token-classification"


class SlimForQuestionAnswering(SlimForTask):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """A slim model that answers questions by spans of their context."""

    loader = "AutoModelForQuestionAnswering"
    head = "question-answering"

    def forward(  # type: ignore[override]  # the names of its labels are what a Trainer goes by
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **given: Any,
    ) -> Any:
        """Run the slim model; a Trainer keeps the columns of a data set that are named here."""
        positions = {"start_positions": start_positions, "end_positions": end_positions}
        return super().forward(input_ids, attention_mask, token_type_ids, **positions, **given)


_HEADS = (SlimForSequenceClassification, SlimForTokenClassification, SlimForQuestionAnswering)


def class_for(head: Head) -> type[SlimPreTrainedModel]:
    """Return the class as which a model with this head is loaded."""
    return next((candidate for candidate in _HEADS if candidate.head == head), SlimModel)


@cache
def _class_of_name(base: type[SlimPreTrainedModel], name: str) -> type[SlimPreTrainedModel]:
    return type(name, (base,), {"__module__": base.__module__, "__doc__": base.__doc__})


def _family_class(base: type[SlimPreTrainedModel], slim: nn.Module) -> type[SlimPreTrainedModel]:
    """Return the class under the name that the family has for it: pipelines warn of every name that they do not know."""
    stem = type(ModelView.of(slim).body).__name__.removesuffix("Model")
    return _class_of_name(base, stem + (base.loader.removeprefix("AutoModel") or "Model"))


def _folder(name: str, subfolder: str, hub_options: dict[str, Any]) -> Path:
    """Return a directory with the model: the one that is named, or one in the hub's cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    wanted = [f"{subfolder}/{file}" if subfolder else file for file in _FILES]
    return Path(snapshot_download(name, allow_patterns=wanted, **hub_options))


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
    converted: Any = model
    for target in (dtype, device):
        converted = converted if target is None else converted.to(target)
    moved: SlimPreTrainedModel = converted
    return moved


def register() -> None:
    """Register the classes with the Auto classes."""
    for auto, slim_class in (
        (AutoModel, SlimModel),
        (AutoModelForSequenceClassification, SlimForSequenceClassification),
        (AutoModelForTokenClassification, SlimForTokenClassification),
        (AutoModelForQuestionAnswering, SlimForQuestionAnswering),
    ):
        auto.register(SlimConfig, slim_class, exist_ok=True)
