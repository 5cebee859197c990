"""Removal of heads and FFN neurons of a live model step by step; `apply` cuts a dense one at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from prunekit.arch.view import ModelView, find
from prunekit.errors import UnsupportedError
from prunekit.stats.blocks import Site
from prunekit.transforms.stubs import Affine
from prunekit.transforms.surgery import remove
from prunekit.transforms.units import slice_units
from prunekit.validation.contract import Contract


@final
class CutUnits(Contract[[ModelView, Site, Sequence[int], int], int]):
    """Removal of all units of one site but those at the positions `stay` of its current `units`, in place.

    It is no `Transform`, since it is called with what a site has at present, and not with a plan of the dense model.
    """

    def requires(self, view: ModelView, site: Site, stay: Sequence[int], units: int) -> None:
        """Check that units of the site can be selected, or that its sub-block can be removed; raise UnsupportedError."""
        view.check(site.role)
        if stay:
            check_prunable(view, site)
            assert _inputs(view, site) % units == 0, f"{site} does not have {units} units"
        assert list(stay) == sorted(set(stay) & set(range(units))), f"{stay} are not increasing positions among {units}"

    def call(self, view: ModelView, site: Site, stay: Sequence[int], units: int) -> int:
        """Slice the sub-block, or remove it except its bias where nothing stays; return the inputs of the projection that a unit has."""
        width = _inputs(view, site) // units
        block = view.blocks[site.block]
        if stay:
            slice_units(view, block, site.role, stay, units)
        elif site.projection(view) is not None:
            # What is gone already has left its bias.
            remove(block, site.part(view))
        return width

    def ensures(self, width: int, view: ModelView, site: Site, stay: Sequence[int], units: int) -> None:
        """Check that the output projection reads the units that stay, and is gone where none does."""
        assert _inputs(view, site) == width * len(stay), f"{site} does not have {len(stay)} units"


cut = CutUnits()


def check_prunable(view: ModelView, site: Site) -> None:
    """Raise UnsupportedError where units of a site cannot be selected block by block: the family cannot express it, or none are left."""
    # An affine map in the place of an FFN has no neurons.
    affine = isinstance(find(view.blocks[site.block], site.part(view).output), Affine)
    if affine or site.projection(view) is None:
        raise UnsupportedError(f"{view.source.model_type} model, {site.role}: block {site.block} has none left that could be removed.")
    view.check(site.role)


def prunable(view: ModelView, site: Site) -> bool:
    """Return whether units of a site can be selected block by block."""
    try:
        check_prunable(view, site)
    except UnsupportedError:
        return False
    return True


def _inputs(view: ModelView, site: Site) -> int:
    """Return the number of inputs of the output projection, 0 where it is removed."""
    projection = site.projection(view)
    return 0 if projection is None else projection.weight.shape[1]
