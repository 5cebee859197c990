"""Slices of parameters by role, and replacement of modules; no other module cuts tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prunekit.arch.spec import Axis, Parameters, SubBlock
from prunekit.arch.view import find
from prunekit.stats.blocks import Linear
from prunekit.transforms.stubs import Affine, Constant, ConstantAttention, PassAttention, ResidualAttention


def index_of(axis: Axis, kept: Sequence[int], units: int, size: int) -> Tensor:
    """Return the entries of an axis of `size` entries that belong to the units kept, shape (len(kept) * size / units,), int64."""
    width, rest = divmod(size, axis.repeat * units)
    assert rest == 0, f"{size} entries do not hold {axis.repeat} x {units} {axis.role}"
    runs = torch.arange(axis.repeat)[:, None, None] * units
    return ((runs + torch.tensor(kept, dtype=torch.int64)[None, :, None]) * width + torch.arange(width)).flatten()


def parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module that holds the last step of a path, and the name of that step."""
    prefix, _, name = path.rpartition(".")
    module = find(root, prefix)
    assert isinstance(module, nn.Module)
    return module, name


def put(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path."""
    holder, name = parent(root, path)
    setattr(holder, name, module)


def slice_parameter(root: nn.Module, path: str, dim: int, index: Tensor) -> None:
    """Keep the entries `index` of one axis of a parameter, and update the sizes that its module records."""
    module, name = parent(root, path)
    old = getattr(module, name)
    new = old.detach().index_select(dim, index.to(old.device)).clone(memory_format=torch.contiguous_format)
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
    _record_sizes(module)


def _record_sizes(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, Conv1D):
        module.nx, module.nf = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)


def slice_role(root: nn.Module, roles: Parameters, role: str, kept: Sequence[int], units: int) -> None:
    """Keep the units `kept` of one role in all parameters that have an axis of that role."""
    for path, axes in roles.items():
        for dim, axis in enumerate(axes):
            parameter = find(root, path)
            if axis is not None and axis.role == role and parameter is not None:
                slice_parameter(root, path, dim, index_of(axis, kept, units, parameter.shape[dim]))


def scale_sizes(root: nn.Module, sizes: Sequence[tuple[str, str]], kept: int, units: int) -> None:
    """Scale module attributes that hold a size proportional to the units kept."""
    for path, attribute in sizes:
        module = find(root, path)
        old = getattr(module, attribute, None)
        if old is not None:
            setattr(module, attribute, old * kept // units)


def remove(block: nn.Module, part: SubBlock) -> None:
    """Remove a whole sub-block except the bias of its output projection."""
    output = find(block, part.output)
    bias = getattr(output, "bias", None) if isinstance(output, nn.Module) else None
    for stub in part.removal:
        module: nn.Module
        if stub.kind == "identity":
            module = nn.Identity()
        elif stub.kind == "pass":
            module = PassAttention()
        elif stub.kind == "bias":
            module = Constant(bias)
        elif stub.kind == "bias_pass":
            module = ConstantAttention(bias)
        else:
            module = ResidualAttention(find(block, stub.norm), bias)
        put(block, stub.at, module)


def replace(block: nn.Module, part: SubBlock, norm: str) -> None:
    """Replace a whole sub-block by an `Affine` at its output projection; a norm before it, at `norm`, is kept."""
    output = Linear.at(block, part.output)
    assert output is not None
    affine = Affine(output.weight, output.bias)
    *inner, last = part.removal
    for stub in inner:
        if stub.at != norm:
            put(block, stub.at, nn.Identity())
    name = part.output.removeprefix(last.at).removeprefix(".")
    put(block, last.at, nn.Sequential(OrderedDict({name: affine})) if name else affine)
