"""Heads that read a few principal components of the last state instead of all its dimensions (Matton & de Oliveira, 2019).

The projection is folded into the head's weights: the file computes k numbers and the head's output from them, which is
exactly the head's output for the projection of the state onto its first k principal components.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import nn

from prunekit.arch.view import ModelView, find
from prunekit.errors import PlanError, UnsupportedError
from prunekit.plan import Plan
from prunekit.stats.blocks import reader_paths
from prunekit.stats.principal import Principal
from prunekit.transforms.base import Transform
from prunekit.transforms.stubs import ReadsComponents
from prunekit.transforms.surgery import put


@final
class ReadComponents(Transform):
    """Split of every layer that reads the last state in two: a projection to `plan.components` numbers, and a layer that reads them."""

    def concerns(self, plan: Plan) -> bool:
        """Return whether the plan names components."""
        return plan.components is not None

    def requires(self, view: ModelView, plan: Plan) -> None:
        """Check that the model has a head of its own, and more dimensions than components."""
        assert plan.components is not None
        if plan.readout is not None or view.body is view.model:
            raise UnsupportedError("Principal components are read by a head of the model's own, and this model has none.")
        width = plan.source.hidden if plan.hidden is None else len(plan.hidden)
        if plan.components >= width:
            raise PlanError(f"The plan reads {plan.components} principal components of {width} dimensions; it must be fewer.")
        if not reader_paths(view):
            raise UnsupportedError(f"Nothing in the head of {type(view.model).__name__} reads the last state alone.")

    def call(self, view: ModelView, plan: Plan) -> nn.Module:
        """Insert layers of the right shape, with zero weights until `fold_components` sets them."""
        assert plan.components is not None
        for path in reader_paths(view):
            layer = find(view.model, path)
            put(view.model, path, ReadsComponents(layer, plan.components))
        return view.model

    def ensures(self, model: nn.Module, view: ModelView, plan: Plan) -> None:
        """Check that no layer of the head reads all dimensions."""
        assert not reader_paths(view)


def fold_components(view: ModelView, principals: Mapping[str, Principal]) -> None:
    """Let the head of a model read principal components of its input, in place.

    Parameters
    ----------
    view : ModelView
        Of a model whose head reads all dimensions.
    principals : mapping
        By the path of the layer that reads them, as `prunekit.stats.principal.principals` returns them.
    """
    with torch.no_grad():
        for path, principal in principals.items():
            layer = find(view.model, path)
            reader = ReadsComponents(layer, len(principal.directions))
            bias = None if layer.bias is None else layer.bias.double()
            reader.fill(layer.weight.double(), bias, principal.mean, principal.directions)
            put(view.model, path, reader)
