"""Figures of an analyzer, as plain values; `report` draws them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """A table of text; the first column is a name, the others are numbers.

    Attributes
    ----------
    title : str
    header : tuple of str
    rows : tuple of tuple of str
    strong : int
        Index of the highlighted row, or -1.
    note : str
        One sentence on how to read it and what it shows of this model.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: int = -1
    note: str = ""


@dataclass(frozen=True, eq=False)
class Heatmap:
    """A matrix of cells, from pale to full colour.

    Attributes
    ----------
    title : str
    values : (r, c) float64
        NaN is left blank.
    rows, columns : tuple of str
        Names at the left, (r,), and below, (c,).
    y, x : str
        Labels of the rows and of the columns.
    unit : str
        Label of the cells, with the unit.
    low, high : float
        Values of the palest and of the fullest colour; with a low below 0 the palest is 0, and negative values have a colour of their own.
    digits : int
        Decimals shown in a cell.
    cuts : tuple of int
        Lines are drawn before these rows, and before the columns of the same number.
    note : str
        One sentence on how to read it and what it shows of this model.
    """

    title: str
    values: Float64[Floats, "r c"]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    y: str
    x: str
    unit: str
    note: str
    low: float = 0.0
    high: float = 1.0
    digits: int = 2
    cuts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes
    ----------
    name : str
    x, y : tuple of float
        NaN in y interrupts the curve.
    low, high : tuple of float
        Ends of an interval around each point; empty for none.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curves:
    """Curves over one pair of axes; the first is the one to look at.

    Attributes
    ----------
    title : str
    series : tuple of Series
    x, y : str
        Labels of the axes, with the units.
    note : str
        One sentence on how to read it and what it shows of this model.
    reference : (str, float) or None
        Name and value of a level that is marked across the full width.
    chosen : (str, float, float) or None
        Name and coordinates of a marked point.
    log_x : bool
    whole_x : bool
        Whether ticks of the x axis are whole numbers, such as layers.
    percent : bool
        Whether y is a share that reads as a percentage.
    """

    title: str
    series: tuple[Series, ...]
    x: str
    y: str
    note: str
    reference: tuple[str, float] | None = None
    chosen: tuple[str, float, float] | None = None
    log_x: bool = False
    whole_x: bool = False
    percent: bool = False


@dataclass(frozen=True)
class Bars:
    """Shares that add up, one bar a row.

    Attributes
    ----------
    title : str
    rows : tuple of str
    parts : tuple of str
        Names of the parts of a bar; the first is the one to look at.
    values : tuple of tuple of float
        One value for each part of each row, not negative.
    unit : str
        Label of the axis, with the unit.
    note : str
        One sentence on how to read it and what it shows of this model.
    percent : bool
        Whether values are shares that read as percentages.
    """

    title: str
    rows: tuple[str, ...]
    parts: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    unit: str
    note: str
    percent: bool = False


@dataclass(frozen=True, eq=False)
class Dendrogram:
    """The top of a tree of clusters.

    Attributes
    ----------
    title : str
    merges : (m - 1, 2) int64
        As scipy's linkage: leaves are 0..m-1, merge i makes m + i.
    heights : (m - 1,) float64
        Distance of each merge, ascending.
    leaves : tuple of str
        Names of the m leaves.
    unit : str
        Label of the heights.
    note : str
        One sentence on how to read it and what it shows of this model.
    """

    title: str
    merges: Int64[NDArray[np.int64], "merges 2"]
    heights: Float64[Floats, " merges"]
    leaves: tuple[str, ...]
    unit: str
    note: str


Figure = Table | Heatmap | Curves | Bars | Dendrogram
