"""Removal of heads and FFN neurons of a live model step by step; `apply` cuts a dense one at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prunekit.arch.count import macs_per_token
from prunekit.arch.view import ModelView, find
from prunekit.budget import Unit
from prunekit.errors import UnsupportedError
from prunekit.stats.blocks import Site
from prunekit.transforms.stubs import Affine
from prunekit.transforms.surgery import remove
from prunekit.transforms.units import slice_units


def prunable(view: ModelView, site: Site) -> bool:
    """Return whether units of a site can be selected block by block: the family can express it, and some are left."""
    projection = find(view.blocks[site.block], site.part(view).output)
    if site.projection(view) is None or isinstance(projection, Affine):
        return False
    try:
        view.check(site.role)
    except UnsupportedError:
        return False
    return True


def cut(view: ModelView, site: Site, stay: Sequence[int], units: int) -> None:
    """Keep the units `stay` of the current `units` of a site; if there are none, remove the sub-block except its bias."""
    block, part = view.blocks[site.block], site.part(view)
    if not stay:
        remove(block, part)
        return
    slice_units(view, block, site.role, stay, units)


def unit_price(view: ModelView, site: Site, units: int, unit: Unit, lengths: NDArray[np.integer]) -> float:
    """Return the cost of one of the `units` heads or FFN neurons of a site, as `arch.count` counts it.

    Parameters of the layers for `Unit.PARAMS`, else mean multiply-accumulates per row of these lengths.
    """
    block, spec = view.blocks[site.block], view.spec
    parameters, per_token = 0.0, 0.0
    for name, axes in spec.block.items():
        parameter = find(block, name)
        if parameter is None or not any(axis is not None and axis.role == site.role for axis in axes):
            continue
        parameters += parameter.numel() / units
        per_token += macs_per_token(block, name, parameter, spec) / units
    if unit is Unit.PARAMS:
        return parameters
    tokens, head_width = lengths.astype(np.float64), 0.0
    projection = site.projection(view)
    if site.role == "heads" and projection is not None:
        head_width = projection.weight.shape[1] / units
    passes = view.num_layers if spec.shared_blocks else 1
    return float(passes * (per_token * tokens.mean() + 2 * head_width * np.square(tokens).mean()))
