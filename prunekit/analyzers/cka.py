"""Linear CKA between layers (Kornblith et al. 2019; Phang et al. 2021; Sridhar and Sarah 2020), and blocks of similar layers.

The similarity of two layers needs no n x n kernel: with centred columns it is
``|X_i^T X_j|_F^2 / (|X_i^T X_i|_F |X_j^T X_j|_F)``, norms of blocks of the co-moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray
from scipy.special import stdtr

from prunekit.analyzers.base import Analyzer, AnalyzerResult, Need, Observations, Subject, layer_names
from prunekit.analyzers.figures import Curves, Figure, Heatmap, Series
from prunekit.errors import StatisticsError
from prunekit.stats.cross import cross_norms
from prunekit.stats.moments import Moments
from prunekit.stats.rows import Rows, RowStore

Floats = NDArray[np.float64]
# Sizes of one name are equal in a call: the layers of a model, L + 1, and those of its base.
Square = Float64[Floats, "layers layers"]
Across = Float64[Floats, "layers base_layers"]
Layers = Bool[NDArray[np.bool_], " layers"]

#: Rows of one batch of the debiased estimator.
BATCH = 256
#: Significance level at which layers of a late block may be removed.
LEVEL = 0.05
#: Similarity from which two layers count as near; only layers near the one that stays may be removed.
NEAR = 0.8
#: Steps between neighbours are compared by their order of magnitude, but differences below this are not distinguished.
STEP = 0.02


@dataclass(frozen=True)
class Blocks:
    """An early and a late block of layers.

    Attributes
    ----------
    cut : int
        First layer of the late block.
    contrast : float
        Mean similarity of two layers of one block, minus that of two layers of different blocks.
    p_value : float
        Probability that a chain without blocks, whose similarity falls with the distance along the stack, has a step between
        neighbours that stands out as far as the one at the cut.
    may_go : tuple of int
        Layers that follow the first of the late block and are all near it (`NEAR`); none where the blocks may be chance.
    """

    cut: int
    contrast: float
    p_value: float
    may_go: tuple[int, ...]

    @property
    def clear(self) -> bool:
        """Whether the p-value is at most `LEVEL`."""
        return self.p_value <= LEVEL


@dataclass(frozen=True, eq=False)
class Similarity:
    """Similarities of all layers of a model, on one kind of rows.

    Attributes
    ----------
    within : (L + 1, L + 1) float64
        NaN for a constant layer.
    debiased : (L + 1, L + 1) float64 or None
        Unbiased minibatch estimate; None below 4 rows.
    blocks : Blocks or None
        None where fewer than five layers are non-constant.
    across : (L + 1, L' + 1) float64 or None
        With the layers of the base.
    """

    within: Square
    debiased: Square | None
    blocks: Blocks | None
    across: Across | None


@final
@dataclass(frozen=True, eq=False)
class Cka(AnalyzerResult):
    """Layer similarities.

    Attributes
    ----------
    rows : {"cls", "mean", "last", "token": Similarity}
        By the kind of row: a text's pooled vector, and a single token.
    base : str or None
        Name of the model that it is compared with.
    """

    rows: dict[str, Similarity]
    base: str | None

    def summary(self) -> tuple[str, ...]:
        """Summarise the blocks, and the change against the base."""
        lines = [f"{_ROW_NAMES[kind]}: {_blocks_text(similarity)}" for kind, similarity in self.rows.items()]
        first = next(iter(self.rows.values()))
        if first.across is not None and first.across.shape[0] == first.across.shape[1]:
            lines.append(_change_text(first.across.diagonal(), "the base"))
        return tuple(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Return the heatmaps within and across models, and the similarity of each layer to the last."""
        figures: list[Figure] = []
        for kind, similarity in self.rows.items():
            names = layer_names(len(similarity.within))
            cuts = () if similarity.blocks is None else (similarity.blocks.cut,)
            note = f"1 means that two layers are the same up to a rotation. {_capital(_blocks_text(similarity))}."
            if np.isnan(similarity.within.diagonal()).any():
                note += " A layer that is the same for every row is left blank."
            figures.append(
                Heatmap(
                    f"Similarity of layers, {_ROW_NAMES[kind]}",
                    similarity.within,
                    names,
                    names,
                    "layer",
                    "layer",
                    "linear CKA",
                    note,
                    cuts=cuts,
                )
            )
        for kind, similarity in self.rows.items():
            if similarity.across is not None:
                figures.append(self._across(kind, similarity.across))
        figures.append(self._to_last())
        return tuple(figures)

    def _across(self, kind: str, across: Across) -> Figure:
        note = "Each row is a layer of this model, each column one of the base"
        if across.shape[0] == across.shape[1]:
            note += f"; the diagonal says what was left as it was. {_capital(_change_text(across.diagonal(), 'the base'))}"
        names = layer_names(across.shape[0]), layer_names(across.shape[1])
        title = f"Similarity with the base, {_ROW_NAMES[kind]}"
        return Heatmap(title, across, *names, "layer of this model", "layer of the base", "linear CKA", f"{note}.")

    def _to_last(self) -> Figure:
        series = []
        for kind, similarity in self.rows.items():
            x = tuple(float(layer) for layer in range(len(similarity.within)))
            series.append(Series(_ROW_NAMES[kind], x, tuple(map(float, similarity.within[:, -1]))))
            if similarity.debiased is not None:
                series.append(Series(f"{_ROW_NAMES[kind]}, debiased", x, tuple(map(float, similarity.debiased[:, -1]))))
        first = next(iter(self.rows.values())).within[:, -1]
        lowest = int(np.flatnonzero(first >= NEAR)[0]) if (first >= NEAR).any() else len(first) - 1
        note = (
            "Where a curve nears 1 before its end, the layers above repeat what is there already; "
            f"here the first layer above {NEAR:g} is {lowest} of {len(first) - 1}."
        )
        return Curves("Similarity with the last layer", tuple(series), "layer (0: embeddings)", "linear CKA", note, whole_x=True)


_ROW_NAMES = {"cls": "[CLS]", "mean": "mean of the tokens", "last": "last token", "token": "single tokens"}


def run(inputs: Observations) -> Cka:
    """Compute similarities on the pooled rows, and on single tokens where a row is a pooled text.

    Raises
    ------
    StatisticsError
        No layer varies: there is one row only, or all are alike.
    """
    model, base = inputs.model, inputs.base
    similarities = {str(model.train.pooling): _pooled(model, base)}
    if model.train.tokens is not None and model.train.pooling != "token":
        similarities["token"] = _tokens(model, base)
    return Cka(similarities, None if base is None else base.name)


def _pooled(model: Subject, base: Subject | None) -> Similarity:
    hidden, rows = model.source.hidden, model.train.rows
    squares, non_constant = _squared_norms(model), _nonconstant_layers(model)
    across = None
    if base is not None:
        base_squares, base_non_constant = _squared_norms(base).diagonal(), _nonconstant_layers(base)
        norms = cross_norms(rows, base.train.rows, hidden, base.source.hidden)
        across = cka(norms, np.where(non_constant, squares.diagonal(), 0.0), np.where(base_non_constant, base_squares, 0.0))
    return _similarity(squares, non_constant, debiased(rows, hidden), across)


def _squared_norms(model: Subject) -> Square:
    if model.fits:
        return block_norms(model.train.moments, model.source.hidden, model.layers)
    return cross_norms(model.train.rows, model.train.rows, model.source.hidden, model.source.hidden)


def _nonconstant_layers(model: Subject) -> Layers:
    """Return a mask of the non-constant layers, (L + 1,)."""
    return np.asarray(model.non_constant.reshape(model.layers, -1).any(axis=1))


def _tokens(model: Subject, base: Subject | None) -> Similarity:
    """Compute the same on the sample of tokens; with the base only where both split the texts into the same tokens."""
    sample = model.train.tokens
    assert sample is not None
    moments = Moments.of(sample.rows)
    squares = block_norms(moments, model.source.hidden, model.layers)
    non_constant = moments.non_constant(moments.width).reshape(model.layers, -1).any(axis=1)
    across = None
    if base is not None and base.train.tokens is not None and np.array_equal(base.train.tokens.ids, sample.ids):
        base_rows = base.train.tokens.rows
        base_squares = block_norms(Moments.of(base_rows), base.source.hidden, base.layers).diagonal()
        norms = cross_norms(stored(sample.rows), stored(base_rows), model.source.hidden, base.source.hidden)
        across = cka(norms, squares.diagonal(), base_squares)
    return _similarity(squares, np.asarray(non_constant), debiased(stored(sample.rows), model.source.hidden), across)


def stored(rows: Rows) -> RowStore:
    """Return a store of rows that are in memory."""
    store = RowStore(*rows.shape, limit=rows.nbytes)
    store.put(np.arange(len(rows)), rows)
    return store


def _similarity(squares: Square, non_constant: Layers, unbiased: Square | None, across: Across | None) -> Similarity:
    if not non_constant.any():
        raise StatisticsError("No layer varies over these rows: give more than one row, and rows that differ.")
    own = np.where(non_constant, squares.diagonal(), 0.0)
    within = cka(squares, own, own)
    if unbiased is not None:
        unbiased[~non_constant], unbiased[:, ~non_constant] = np.nan, np.nan
    return Similarity(within, unbiased, find_blocks(within, np.flatnonzero(non_constant)), across)


def block_norms(moments: Moments, hidden: int, layers: int) -> Square:
    """Return the squared Frobenius norms of the blocks of a co-moment, (layers, layers) float64; label columns at its end are left out."""
    norms = np.empty((layers, layers))
    spans = [slice(layer * hidden, (layer + 1) * hidden) for layer in range(layers)]
    for i, rows in enumerate(spans):
        for j, columns in enumerate(spans[: i + 1]):
            norms[i, j] = norms[j, i] = np.square(moments.block(rows, columns)).sum()
    return norms


def cka(cross: Float64[Floats, "a b"], own_a: Float64[Floats, " a"], own_b: Float64[Floats, " b"]) -> Float64[Floats, "a b"]:
    """Compute linear CKA from squared norms: cross (a, b), own (a,) and (b,); NaN where an own norm is 0."""
    scale = np.sqrt(np.outer(own_a, own_b))
    return np.asarray(np.divide(cross, scale, out=np.full(cross.shape, np.nan), where=scale > 0))


def debiased(rows: RowStore, hidden: int, *, batch: int = BATCH) -> Square | None:
    """Compute CKA from the unbiased HSIC of minibatches (Nguyen, Raghu and Kornblith 2021, equations 2 and 3).

    Parameters
    ----------
    rows : RowStore
        (n, layers * hidden), in random order.
    hidden : int
    batch : int
        Rows of a minibatch; a last one of fewer than 4 rows is left out.

    Returns
    -------
    (layers, layers) float64, or None below 4 rows
        NaN where a layer has no variance left.
    """
    layers = rows.width // hidden
    total, seen = np.zeros((layers, layers)), 0
    for _, chunk in rows.chunks(batch):
        n = len(chunk)
        if n < 4:
            continue
        # Centring does not change the estimate, and keeps the precision of a layer with a large mean.
        x = (chunk - chunk.mean(axis=0, dtype=np.float64)).reshape(n, layers, hidden)
        kernels = np.stack([x[:, layer] @ x[:, layer].T for layer in range(layers)])
        kernels[:, np.arange(n), np.arange(n)] = 0.0
        flat, sums = kernels.reshape(layers, -1), kernels.sum(axis=2)
        kernel_sums = sums.sum(axis=1)
        hsic = flat @ flat.T + np.outer(kernel_sums, kernel_sums) / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * sums @ sums.T
        # The estimate of each batch is unbiased; that of a short last one is noisy, and weighs by its rows.
        total += hsic / (n - 3)
        seen += 1
    if not seen:
        return None
    own = np.maximum(total.diagonal(), 0.0)
    return cka(total, own, own)


def find_blocks(similarity: Square, layers: Int64[NDArray[np.int64], " m"]) -> Blocks | None:
    """Cut the layers into an early and a late block at the widest step between neighbours, and test whether that step stands out.

    In a chain without blocks similarity falls with the distance along the stack, so layers are not exchangeable, but the
    steps between neighbours are of one kind. Their logarithms are treated as a normal sample, and the widest is tested
    as an outlier (Grubbs 1950, one-sided).

    Parameters
    ----------
    similarity : (L + 1, L + 1) float64
    layers : (m,) int
        Non-constant layers; four steps are the fewest of which one can stand out.
    """
    m = len(layers)
    if m < 5:
        return None
    matrix = similarity[np.ix_(layers, layers)]
    steps = -np.log(np.clip(matrix.diagonal(1), np.finfo(np.float64).tiny, 1.0))
    # Each block has two layers at least.
    cut = 2 + int(steps[1:-1].argmax())
    p_value = outlying(np.log(STEP + steps), cut - 1)
    near = matrix[cut, cut + 1 :] >= NEAR
    reach = len(near) if near.all() else int(near.argmin())
    may_go = tuple(int(layer) for layer in layers[cut + 1 : cut + 1 + reach]) if p_value <= LEVEL else ()
    return Blocks(int(layers[cut]), _contrast(matrix, cut), p_value, may_go)


def outlying(values: Float64[Floats, " n"], at: int) -> float:
    """Return the p-value of one of n values for a one-sided outlier of a normal sample, (n,) float64: Grubbs' test.

    With G the value's distance from the mean in standard deviations, ``t^2 = n (n - 2) G^2 / ((n - 1)^2 - n G^2)`` follows
    Student's distribution with n - 2 degrees of freedom; n times its upper tail bounds the chance that the largest value
    lies as far. 1 where the values are equal, or the value is not the largest.
    """
    n, spread = len(values), float(values.std(ddof=1))
    # Equal up to rounding.
    if spread <= 1e-9 or values[at] < values.max():
        return 1.0
    distance = (float(values[at]) - float(values.mean())) / spread
    rest = (n - 1) ** 2 - n * distance**2
    if rest <= 1e-9:
        return 0.0
    return float(min(1.0, n * stdtr(n - 2, -distance * np.sqrt(n * (n - 2) / rest))))


def _contrast(matrix: Float64[Floats, "m m"], cut: int) -> float:
    """Return the mean similarity of two layers on the same side of a cut, minus that of two on different sides."""
    late = np.arange(len(matrix)) >= cut
    same, pair = np.equal.outer(late, late), ~np.eye(len(matrix), dtype=bool)
    return float(matrix[same & pair].mean() - matrix[~same].mean())


def _blocks_text(similarity: Similarity) -> str:
    blocks, last = similarity.blocks, len(similarity.within) - 1
    if blocks is None:
        return "too few layers that vary for blocks"
    p = "p < 0.001" if blocks.p_value < 0.001 else f"p = {blocks.p_value:.3f}"
    block = f"late block: layers {blocks.cut}-{last} (contrast {blocks.contrast:.2f}, {p})"
    if not blocks.clear:
        return f"{block}, which a chain without blocks may show too"
    if not blocks.may_go:
        return f"{block}; none of it repeats layer {blocks.cut} well enough to go (CKA below {NEAR:g})"
    first, end = blocks.may_go[0], blocks.may_go[-1]
    repeats = f"layer {first} repeats" if first == end else f"layers {first}-{end} repeat"
    return f"{block}; {repeats} much of layer {blocks.cut} and may go"


def _change_text(diagonal: Float64[Floats, " layers"], base: str) -> str:
    if np.isnan(diagonal).all():
        return f"no layer can be compared with {base}"
    low = int(np.nanargmin(diagonal))
    where = "the embeddings" if low == 0 else f"layer {low}"
    return f"against {base}, {where} changed most (CKA {diagonal[low]:.2f})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


ANALYZER = Analyzer("cka", "Layer similarity (CKA)", frozenset({Need.ROWS, Need.TOKENS}), run)
