"""Heads that read a few principal components of the last state instead of all its dimensions (Matton & de Oliveira, 2019).

The projection is folded into the head's weights: the file computes k numbers and the head's output from them, which is
exactly the head's output for the projection of the state onto its first k principal components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunekit.arch.view import ModelView, find
from prunekit.errors import PlanError, StatisticsError, UnsupportedError
from prunekit.plan import Plan
from prunekit.stats.blocks import Tap, reader_paths, taps
from prunekit.stats.comoment import Comoment, ComomentSum
from prunekit.transforms.base import Transform
from prunekit.transforms.stubs import ReadsComponents
from prunekit.transforms.surgery import put


@dataclass(frozen=True, eq=False)
class Principal:
    """The first principal components of some vectors.

    Attributes
    ----------
    mean : Tensor
        (H,) float64.
    directions : Tensor
        (k, H) float64, orthonormal rows, by decreasing variance; the entry of largest magnitude in each is positive.
    share : float
        Share of the variance in them.
    """

    mean: Tensor
    directions: Tensor
    share: float

    @classmethod
    def of(cls, moment: Comoment, components: int) -> Principal:
        """Compute them from the co-moment of the vectors; raises StatisticsError if the rows have fewer."""
        most = min(moment.rows - 1, len(moment.xx))
        if components > most:
            raise StatisticsError(
                f"{moment.rows} calibration rows of {len(moment.xx)} dimensions have {most} principal components; the plan asks for "
                f"{components}. Give more rows, or ask for fewer."
            )
        values, vectors = torch.linalg.eigh(moment.xx)
        values, directions = values.flip(0).clamp(min=0), vectors.T.flip(0)[:components]
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        total = float(values.sum())
        return cls(moment.mean_x, directions * largest.sign(), float(values[:components].sum()) / total if total else 1.0)


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


def fold_components(view: ModelView, batches: Sequence[Mapping[str, Tensor]], components: int) -> float:
    """Let the head of a model read the first principal components of its input on calibration rows, in place.

    Parameters
    ----------
    view : ModelView
        Of a model whose head reads all dimensions.
    batches : sequence of dict
        Tokenised calibration rows.
    components : int

    Returns
    -------
    float
        Share of the variance in the components; the lowest of several readers.

    Raises
    ------
    StatisticsError
        If the rows have fewer components, or are degenerate.
    """
    totals: dict[Tap, ComomentSum] = {("in", path): ComomentSum() for path in reader_paths(view)}
    shares = []
    with torch.no_grad():
        for batch in batches:
            with taps(view.model, totals) as captured:
                view.model(**{name: batch[name] for name in view.inputs if name in batch})
            for tap, total in totals.items():
                states = captured[tap][0]
                rows = (states[batch["attention_mask"].bool()] if states.ndim == 3 else states).double()
                total.add(rows, rows[:, :0], torch.ones(len(rows), dtype=torch.float64))
        for (_, path), total in totals.items():
            principal, layer = Principal.of(total.finish(), components), find(view.model, path)
            reader = ReadsComponents(layer, components)
            bias = None if layer.bias is None else layer.bias.double()
            reader.fill(layer.weight.double(), bias, principal.mean, principal.directions)
            put(view.model, path, reader)
            shares.append(principal.share)
    return min(shares)
