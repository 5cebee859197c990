"""Representational similarity analysis (Merchant et al. 2020, section 4.2): differences from a second model, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Float64
from numpy.typing import NDArray

from prunekit.analyzers.base import Analyzer, AnalyzerResult, Need, Observations, Subject
from prunekit.analyzers.figures import Curves, Figure, Series
from prunekit.errors import StatisticsError
from prunekit.stats.sample import Sample

Floats = NDArray[np.float64]
Layers = Float64[Floats, " layers"]

#: Correlation below which a layer counts as changed.
CHANGED = 0.9


@final
@dataclass(frozen=True, eq=False)
class Rsa(AnalyzerResult):
    """Correlations of the two models' similarity structure, per layer.

    Attributes
    ----------
    inside : (L + 1,) float64
        On tokens of the task's own text; NaN where all tokens of a layer are equally similar.
    outside : (L + 1,) float64 or None
        On tokens of other text.
    tokens : int
    outside_tokens : int or None
    """

    inside: Layers
    outside: Layers | None
    tokens: int
    outside_tokens: int | None

    def summary(self) -> tuple[str, ...]:
        """Summarise where the models differ most."""
        lines = [f"on {self.tokens:,} tokens of the task {_change_text(self.inside)}"]
        if self.outside is not None:
            lines.append(f"on {self.outside_tokens:,} tokens of other text {_change_text(self.outside)}")
        return tuple(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Return one curve for each kind of text."""
        layers = tuple(float(layer) for layer in range(len(self.inside)))
        series = [Series("text of the task", layers, tuple(map(float, self.inside)))]
        if self.outside is not None:
            series.append(Series("other text", layers, tuple(map(float, self.outside))))
        note = (
            "1 means that the layer holds the same tokens for similar as in the base, 0 that nothing of this is left; "
            f"{_change_text(self.inside)}."
        )
        title = "What changed against the base"
        return (Curves(title, tuple(series), "layer (0: embeddings)", "Pearson correlation of cosine similarities", note, whole_x=True),)


def _change_text(values: Layers) -> str:
    if np.isnan(values).all():
        return "no layer can be compared"
    low = int(np.nanargmin(values))
    changed = np.flatnonzero(values < CHANGED)
    name = "the embeddings" if low == 0 else f"layer {low}"
    if not len(changed):
        return f"the two models agree: {name} changed most, and correlates at {values[low]:.2f}"
    first = "the embeddings" if changed[0] == 0 else f"layer {changed[0]}"
    return f"the two models part from {first} on (below {CHANGED:g}); {name} changed most and correlates at {values[low]:.2f}"


def run(inputs: Observations) -> Rsa:
    """Compute RSA on the sampled tokens of the task, and on those of other text if any.

    Raises
    ------
    StatisticsError
        Fewer than three tokens, or models that do not split the text into the same tokens.
    """
    base, model = inputs.base, inputs.model
    assert base is not None
    ours, theirs = model.train.tokens, base.train.tokens
    assert ours is not None
    assert theirs is not None
    inside = rsa_layers(ours, theirs, model, base)
    if inputs.outside is None:
        return Rsa(inside, None, len(ours.ids), None)
    return Rsa(inside, rsa_layers(*inputs.outside, model, base), len(ours.ids), len(inputs.outside[0].ids))


def rsa_layers(ours: Sample, theirs: Sample, model: Subject, base: Subject) -> Layers:
    """Compute RSA of each layer with the same layer of the base, (L + 1,); as many layers as the shallower model has."""
    if not np.array_equal(ours.ids, theirs.ids):
        raise StatisticsError("RSA needs two models that split the text into the same tokens; their tokenizers differ.")
    layers = range(min(model.layers, base.layers))
    return np.array([rsa(ours.rows[:, model.columns(layer)], theirs.rows[:, base.columns(layer)]) for layer in layers])


def rsa(a: Float[NDArray[np.floating], "n h"], b: Float[NDArray[np.floating], "n g"]) -> float:
    """Return the Pearson correlation of the upper triangles of two cosine kernels, each n x n without its diagonal.

    Parameters
    ----------
    a, b : (n, H), (n, H')
        Representations of the same n items by two models. A vector of zeros has similarity 0 to all others.

    Returns
    -------
    float
        In [-1, 1]; NaN where one of the kernels is constant.

    Raises
    ------
    StatisticsError
        Fewer than three rows: two have one similarity only, and nothing to correlate; or NaN among them.
    """
    if len(a) < 3 or len(a) != len(b):
        raise StatisticsError(f"RSA needs at least three tokens, the same of both models. Got {len(a)} and {len(b)} instead.")
    x, y = _centred_kernel(a), _centred_kernel(b)
    spread_x, spread_y = np.vdot(x, x), np.vdot(y, y)
    # Rounding errors of equal similarities are not structure.
    if min(spread_x, spread_y) <= (1e-7 * len(a)) ** 2:
        return float("nan")
    return float(np.clip(np.vdot(x, y) / np.sqrt(spread_x * spread_y), -1.0, 1.0))


def _centred_kernel(rows: Float[NDArray[np.floating], "n h"]) -> Float64[Floats, "n n"]:
    """Return the cosine similarities less their mean, (n, n), zero on the diagonal: both triangles, so that all sums are doubled alike."""
    x = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise StatisticsError("A token's activations hold NaN or infinity: the model or the data is broken.")
    x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    kernel = x @ x.T
    n = len(x)
    kernel[np.diag_indices(n)] = 0.0
    kernel -= kernel.sum() / (n * (n - 1))
    kernel[np.diag_indices(n)] = 0.0
    return np.asarray(kernel)


ANALYZER = Analyzer("rsa", "Change by fine-tuning (RSA)", frozenset({Need.ROWS, Need.TOKENS, Need.COMPARE, Need.SAME_TOKENS}), run)
