"""Principal components of the last state, as the layers that read it see it (Matton & de Oliveira, 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from prunekit.arch.view import ModelView
from prunekit.errors import StatisticsError
from prunekit.stats.blocks import Batches, Tap, reader_paths, taps
from prunekit.stats.comoment import Comoment, ComomentSum


@dataclass(frozen=True, eq=False)
class Principal:
    """The first k principal components of some vectors.

    Attributes
    ----------
    mean : Tensor
        (H,) float64.
    directions : Tensor
        (k, H) float64, orthonormal rows, by decreasing variance; the entry of largest magnitude in each is positive.
    share : float
        Share of the variance in them.
    """

    mean: Float64[Tensor, " h"]
    directions: Float64[Tensor, "k h"]
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


def principals(view: ModelView, batches: Batches, components: int) -> dict[str, Principal]:
    """Compute the first principal components of what each layer outside the blocks reads of the last state.

    Parameters
    ----------
    view : ModelView
        Of a model whose head reads all dimensions.
    batches : sequence of dict
        Tokenised calibration rows.
    components : int

    Returns
    -------
    dict
        By the path of the layer in the model.

    Raises
    ------
    StatisticsError
        If the rows have fewer components, or are degenerate.
    """
    totals: dict[Tap, ComomentSum] = {("in", path): ComomentSum() for path in reader_paths(view)}
    with torch.no_grad():
        for batch in batches:
            with taps(view.model, totals) as captured:
                view.model(**{name: batch[name] for name in view.inputs if name in batch})
            for tap, total in totals.items():
                states = captured[tap][0]
                rows = (states[batch["attention_mask"].bool()] if states.ndim == 3 else states).double()
                total.add(rows, rows[:, :0], torch.ones(len(rows), dtype=torch.float64))
        return {path: Principal.of(total.finish(), components) for (_, path), total in totals.items()}
