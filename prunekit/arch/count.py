"""Exact counts of a live model, dense or slim: neurons, parameters, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from prunekit.arch.spec import SEQUENCE, ArchSpec
from prunekit.arch.view import Embedder, ModelView, Reader, find
from prunekit.errors import ParameterError


@dataclass(frozen=True)
class Counts:
    """Size and cost of a model.

    Attributes
    ----------
    neurons : int
        Neurons that the classifier reads; all (layer, dimension) pairs for a model with its own head.
    params : int
        All parameters.
    params_layers : int
        Parameters of the blocks: without embeddings, pooler and head.
    macs : float
        Mean multiply-accumulates per row at the given lengths. Per block and token one for each weight, and
        2 T^2 (heads x head_dim) for attention; per token one for each neuron of a layer that a readout or an embedder averages; lookups,
        norms and biases cost nothing.
    """

    neurons: int
    params: int
    params_layers: int
    macs: float


def _size(modules: Iterable[nn.Module | nn.Parameter]) -> int:
    return sum(part.numel() if isinstance(part, nn.Parameter) else sum(p.numel() for p in part.parameters()) for part in modules)


def macs_per_token(block: nn.Module, name: str, parameter: nn.Parameter, spec: ArchSpec) -> float:
    """Return the multiply-accumulates per token by a block's parameter; none for biases, norms and lookups."""
    if parameter.ndim <= 1 or isinstance(find(block, name.rpartition(".")[0]), nn.Embedding):
        return 0.0
    return parameter.numel() * spec.row_rate.get(name, 1.0)


def _block_macs(block: nn.Module, spec: ArchSpec) -> tuple[float, int]:
    """Return (weights applied to one token, total width of the heads)."""
    per_token = sum(macs_per_token(block, name, parameter, spec) for name, parameter in block.named_parameters())
    output = find(block, spec.attention.output)
    weight = output if isinstance(output, nn.Parameter) else getattr(output, "weight", None)
    # A removed sub-block has no output projection left, only its bias.
    if weight is None:
        return per_token, 0
    hidden = next(dim for dim, axis in enumerate(_output_axes(spec)) if axis)
    return per_token, weight.numel() // weight.shape[hidden]


def _output_axes(spec: ArchSpec) -> tuple[bool, ...]:
    name = spec.attention.output
    axes = spec.block[name] if name in spec.block else spec.block[f"{name}.weight"]
    return tuple(axis is not None and axis.role == "hidden" for axis in axes)


def _linear_size(root: nn.Module, skip: tuple[nn.Module, ...] = ()) -> int:
    """Return the number of weights of the linear layers below `root`, but not below any module of `skip`."""
    skipped = {id(module) for part in skip for module in part.modules()}
    return sum(module.weight.numel() for module in root.modules() if isinstance(module, nn.Linear) and id(module) not in skipped)


def count(model: nn.Module | ModelView, lengths: npt.NDArray[np.integer]) -> Counts:
    """Count a model.

    Parameters
    ----------
    model : PreTrainedModel, ReadoutModel or ModelView
        Dense or slim; its actual shapes are counted.
    lengths : ndarray
        (rows,), int, real lengths of the data's rows in tokens.

    Returns
    -------
    Counts

    Raises
    ------
    ParameterError
        If there are no lengths.
    """
    if not len(lengths):
        raise ParameterError("lengths", "count", "a non-empty array of row lengths", 0)
    view = model if isinstance(model, ModelView) else ModelView.of(model)
    spec, body, top = view.spec, view.body, view.model
    blocks = view.blocks
    depth = int(view.config.num_hidden_layers)
    tokens = lengths.astype(np.float64)
    per_block = [_block_macs(block, spec) for block in blocks] * (depth if spec.shared_blocks else 1)
    pooler = find(body, spec.pooler) if spec.pooler else None
    inner: tuple[nn.Module, ...] = (blocks, pooler) if pooler is not None else (blocks,)
    per_token: float = sum(weights for weights, _ in per_block) + _linear_size(body, inner)
    per_row: float = 0 if pooler is None else _linear_size(pooler)
    head = 0 if body is top else _linear_size(top, (body,))
    per_token += _averaged(top) * _width(view)
    if _per_token(view):
        per_token += head
    else:
        per_row += head
    mixed = sum(width for _, width in per_block)
    macs = per_row + per_token * tokens + 2 * mixed * tokens**2
    # Shared blocks are kept in memory at depth 0, but no exported file has them.
    unused = 0 if depth else _size([blocks])
    neurons = top.readout.in_features if isinstance(top, Reader) else (depth + 1) * _width(view)
    return Counts(
        neurons=neurons,
        params=_size([top]) - unused,
        params_layers=_size([blocks]) - unused,
        macs=float(macs.mean()),
    )


def _width(view: ModelView) -> int:
    """Return the actual width of the residual stream, regardless of the config."""
    for name, axes in (*view.spec.outer.items(), *((f"{view.spec.blocks}.0.{key}", axes) for key, axes in view.spec.block.items())):
        parameter = find(view.body, name)
        for dim, axis in enumerate(axes):
            if parameter is not None and axis is not None and axis.role == "hidden" and not axis.when:
                return int(parameter.shape[dim])
    return view.hidden_size


def _averaged(model: nn.Module) -> int:
    """Return the number of layers whose states are averaged over the tokens."""
    return model.averaged if isinstance(model, Reader) else int(isinstance(model, Embedder) and model.averages)


def _per_token(view: ModelView) -> bool:
    if isinstance(view.model, Reader):
        return view.model.per_token
    if isinstance(view.model, Embedder):
        return False
    return view.head_kind != SEQUENCE or view.spec.scores_tokens
