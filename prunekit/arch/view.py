"""`ModelView`: a live model, addressed through the `ArchSpec` of its family."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.arch import SPECS
from prunekit.arch.head import MANY_LABELS
from prunekit.arch.pickling import bare, settle
from prunekit.arch.spec import QUESTION, ArchSpec, Axes, Axis
from prunekit.errors import UnsupportedError
from prunekit.plan import Source

#: Config key of a slim model for the config of the dense one, from which it can be rebuilt.
DENSE = "dense_config"
#: Config key of an already pruned model: {role: units left in each block}, out of those in the config's sizes.
UNITS = "pruned_units"
#: Config key of such a model whose blocks read different columns of a `HeadBias`: [columns that each block reads].
COLUMNS = "pruned_columns"


def answers_by_span(model: nn.Module) -> bool:
    """Return whether a model answers a question by the start and the end of the answer."""
    return QUESTION in type(model).__name__


class Reader(nn.Module, ABC):
    """A body with a linear classifier on selected neurons, as opposed to one of the stock heads.

    Attributes
    ----------
    body : PreTrainedModel
    readout : nn.Linear
    """

    base_model_prefix = "body"
    body: nn.Module
    readout: nn.Linear

    @property
    @abstractmethod
    def per_token(self) -> bool:
        """Whether there is one output per token rather than one per row."""

    @property
    @abstractmethod
    def averaged(self) -> int:
        """Number of layers whose states are averaged over the tokens."""


class Embedder(nn.Module):
    """A body whose pooled, normalised vector is the output.

    Attributes
    ----------
    body : PreTrainedModel
    project : nn.Linear or None
        Projection of the pooled vector before its normalisation.
    averages : bool
        Whether the vector is the unweighted mean of the tokens.
    """

    base_model_prefix = "body"
    body: nn.Module
    project: nn.Linear | None
    averages: bool


def find(root: nn.Module, path: str) -> Any:
    """Return the module or parameter at a dotted path, or None if any step of the path is missing."""
    target: Any = root
    for name in filter(None, path.split(".")):
        target = getattr(target, name, None)
        if target is None:
            return None
    return target


def evaluated(model: nn.Module) -> nn.Module:
    """Return a model in evaluation mode: itself, or a copy where a part of it is in training mode."""
    return copy.deepcopy(model).eval() if any(part.training for part in model.modules()) else model


def digest_of(module: nn.Module) -> str:
    """Return the sha256 of the names, types and bytes of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class ModelView:
    """A live model, addressed through the record of its family.

    Attributes
    ----------
    model : nn.Module
        The model, with or without a task head.
    body : nn.Module
        The encoder below the head (at `base_model_prefix`).
    spec : ArchSpec
    source : Source
        Shape of the model, as plans record it.
    """

    def __init__(self, model: nn.Module, spec: ArchSpec) -> None:
        self.model, self.spec = model, spec
        self.body = _body(model)
        self.config: Any = model.config
        self.source = _source(self.config, spec)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: hooks stay behind."""
        return {name: value for name, value in vars(self).items() if name != "body"} | {"model": bare(self.model)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the view, with the model, in another process."""
        vars(self).update(state)
        self.body = _body(self.model)
        settle(self.model)

    @classmethod
    def of(cls, model: nn.Module) -> ModelView:
        """Look up the family by `model.config.model_type`.

        Raises
        ------
        UnsupportedError
            If the family is not supported, or the model uses an unsupported part of it.
        """
        config: Any = getattr(model, "config", None)
        model_type = getattr(config, "model_type", None)
        if model_type not in SPECS:
            raise UnsupportedError(f"Models of type {model_type!r} are not supported. Supported types: {', '.join(sorted(SPECS))}.")
        view = cls(model, SPECS[model_type])
        view.check("all")
        return view

    @property
    def num_layers(self) -> int:
        """Number of blocks, L."""
        return self.source.layers

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream, H."""
        return self.source.hidden

    @property
    def width(self) -> int:
        """Width of an embedder's vector."""
        project = self.model.project if isinstance(self.model, Embedder) else None
        return self.hidden_size if project is None else project.out_features

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that the body's forward takes from a tokenizer, in the order of the ONNX file's inputs."""
        typed = getattr(self.config, "type_vocab_size", 1) > 0
        return tuple(name for name in self.spec.inputs if typed or name != "token_type_ids")

    @property
    def has_position_table(self) -> bool:
        """Whether absolute positions are embedded, which end where their table does; relative and rotary ones do not."""
        return any(find(self.body, path) is not None for path in ("embeddings.position_embeddings", "wpe"))

    @property
    def many_labels(self) -> bool:
        """Whether the outputs are labels that do not exclude each other, each with a logit of its own."""
        return getattr(self.config, "problem_type", None) == MANY_LABELS

    @property
    def prefix(self) -> str:
        """Prefix of the names of the body's parameters in the model: "bert.", or empty for a bare body."""
        return "" if self.body is self.model else f"{self.model.base_model_prefix}."

    def digest(self) -> str:
        """Return the sha256 of the names, types and bytes of the body's weights; equal digests mean equal hidden states."""
        return digest_of(self.body)

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks as stored: L of them, or the shared one."""
        blocks = find(self.body, self.spec.blocks)
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    @property
    def bias_columns(self) -> int:
        """Number of heads with a column in the table that all blocks read (`HeadBias`); 0 without one."""
        bias = self.spec.head_bias
        return 0 if bias is None else int(find(self.body, bias.table).weight.shape[1])

    @property
    def head_kind(self) -> str | None:
        """The task head as the record names it, "" for a bare body, None for a head that the record does not describe."""
        if self.body is self.model or isinstance(self.model, Reader | Embedder):
            return ""
        name = type(self.model).__name__
        return next((kind for kind in self.spec.heads if name.endswith(kind)), None)

    def units(self, role: str, block: int) -> int:
        """Return the number of units of a role in a block: the source's, or what is left in an already pruned model."""
        remaining: dict[str, list[int]] | None = getattr(self.config, UNITS, None)
        return int(getattr(self.source, role)) if remaining is None else remaining[role][block]

    def check(self, unit: str) -> None:
        """Raise UnsupportedError if a limit of the family forbids pruning this unit in this model."""
        for limit in self.spec.limits:
            if limit.unit == unit and (not limit.key or getattr(self.config, limit.key, limit.allowed) != limit.allowed):
                raise UnsupportedError(f"{self.source.model_type} model, {unit}: {limit.sentence}.")

    def roles(self, *, blocks: bool = True) -> dict[str, Axes]:
        """Return the roles of all parameters of the model, by full name; without `blocks`, of those outside the blocks.

        The stub of a removed sub-block has no roles: call this without `blocks` for a slim model.

        Raises
        ------
        UnsupportedError
            If a parameter or the task head is not described by the record.
        """
        kind = self.head_kind
        if kind is None:
            known = ", ".join(self.spec.heads)
            raise UnsupportedError(f"The task head of {type(self.model).__name__} is not described; supported: the base model, {known}.")
        prefix = self.prefix
        readers = ("project",) if isinstance(self.model, Embedder) else self.spec.heads.get(kind, ())
        roles: dict[str, Axes] = {}
        for name, parameter in self.model.named_parameters():
            if not blocks and name.startswith(f"{prefix}{self.spec.blocks}."):
                continue
            if name.startswith(prefix):
                axes = self._body_axes(name[len(prefix) :])
                if axes is None and not blocks and self._in_replacement(name[len(prefix) :]):
                    axes = (None,) * parameter.ndim
                if axes is None and blocks and hasattr(self.config, UNITS) and name.startswith(f"{prefix}{self.spec.blocks}."):
                    # The stub of a sub-block is as wide as the residual stream throughout.
                    axes = (Axis("hidden"),) * parameter.ndim
                if axes is None:
                    raise UnsupportedError(
                        f"The parameter {name!r} is not described by the record of {self.spec.name!r}; it cannot be pruned."
                    )
                roles[name] = tuple(self._resolve(axis) for axis in axes)
            elif name.removesuffix(".weight") in readers:
                roles[name] = (None, Axis("hidden"))
            else:
                roles[name] = (None,) * parameter.ndim
        return roles

    def _body_axes(self, name: str) -> Axes | None:
        start = f"{self.spec.blocks}."
        if name.startswith(start):
            return self.spec.block.get(name[len(start) :].partition(".")[2])
        return self.spec.outer.get(name)

    def _in_replacement(self, name: str) -> bool:
        """Return whether a parameter belongs to the replacement of a layer that the record describes."""
        return any(name.startswith(f"{path.rpartition('.')[0]}.") for path in self.spec.outer)

    def _resolve(self, axis: Axis | None) -> Axis | None:
        if axis is None or (axis.when and not getattr(self.config, axis.when, False)):
            return None
        if axis.role == "embedding":
            # Without a projection the embeddings are the residual stream.
            return None if find(self.body, self.spec.projection) is not None else Axis("hidden")
        return axis

    def hidden_states(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run the body and return L+1 tensors of shape (batch, length, H): the embedding output, then each block's output.

        The last one has passed the final norm, if the family has one.
        """
        tensors = {name: batch[name] for name in self.inputs if name in batch or name != "token_type_ids"}
        return run_body(self.body, self.spec, tensors, states=True)

    def cls_positions(self, attention_mask: Tensor) -> Tensor:
        """Return the index of the [CLS] token in each row, shape (batch,), int64; for causal families the last real token."""
        return cls_positions(self.spec, attention_mask)


def run_body(body: nn.Module, spec: ArchSpec, tensors: Mapping[str, Tensor], *, states: bool) -> tuple[Tensor, ...]:
    """Run a body and return all hidden states if `states`, else only the last one, each (batch, length, H)."""
    output = body(**tensors, **spec.flags, output_hidden_states=states, return_dict=True)
    # transformers 4 and 5 differ in whether the last of ModernBERT's hidden states has passed the final norm: here it has.
    return (*(output.hidden_states[:-1] if states and output.hidden_states else ()), output.last_hidden_state)


def cls_positions(spec: ArchSpec, attention_mask: Tensor) -> Tensor:
    """Return the index of the [CLS] token in each row of a (batch, length) mask, shape (batch,), int64."""
    if spec.cls == "first":
        return torch.zeros_like(attention_mask[:, 0], dtype=torch.int64)
    return last_positions(attention_mask)


def last_positions(attention_mask: Tensor) -> Tensor:
    """Return the index of the last real token in each row of a (batch, length) mask, shape (batch,), int64."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.to(torch.int64) * positions).argmax(dim=1)


def pool_states(states: Tensor, attention_mask: Tensor, pooling: str, spec: ArchSpec) -> Tensor:
    """Pool the states of rows, (batch, length, H), over the tokens that a mask (batch, length) marks: (batch, H).

    `pooling` is "cls", "last", "mean" or "max"; "token" leaves the states as they are.
    """
    if pooling == "token":
        return states
    if pooling == "mean":
        weights = attention_mask.to(states.dtype)
        shares = weights / weights.sum(dim=1, keepdim=True)
        # A product of matrices, which onnxruntime runs as one kernel and in half of the time of a masked sum.
        return (shares[:, None] @ states).flatten(1)
    if pooling == "max":
        return states.masked_fill(attention_mask[:, :, None] == 0, -1e9).amax(dim=1)
    if pooling == "cls" and spec.cls == "first":
        return states[:, 0]
    positions = last_positions(attention_mask) if pooling == "last" else cls_positions(spec, attention_mask)
    # An index: the exporter writes a squeeze of a length that it does not know as two branches, which onnxruntime does not load.
    return states.gather(1, positions[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]


def _body(model: nn.Module) -> nn.Module:
    body = getattr(model, str(model.base_model_prefix), model)
    assert isinstance(body, nn.Module)
    return body


def _source(config: Any, spec: ArchSpec) -> Source:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Source(
        model_type=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        ffn=getattr(config, spec.ffn_key) or 4 * config.hidden_size,
        vocabulary=config.vocab_size,
    )
