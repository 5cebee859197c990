"""Removal of heads and FFN neurons of a live model step by step; `apply` cuts a dense one at once."""

from __future__ import annotations

from collections.abc import Sequence

from prunekit.arch.view import ModelView, find
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
