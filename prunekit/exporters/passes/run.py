"""The graph passes, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from prunekit.exporters.passes.base import GraphPass, TracedGraph
from prunekit.exporters.passes.broadcast import DropRepeats
from prunekit.exporters.passes.fold import DirectShapes, DropCasts, FoldConstants
from prunekit.exporters.passes.heads import DropTransposes
from prunekit.exporters.passes.hoist import HoistFeatures, HoistPosition
from prunekit.exporters.passes.positions import CutPositions
from prunekit.exporters.passes.probe import LENGTHS, ROWS, Probe, probe
from prunekit.exporters.passes.share import LiftConstants, Prune, Share

Level = Literal["none", "O1"]
EXACT: tuple[type[GraphPass], ...] = (
    LiftConstants,
    DropCasts,
    FoldConstants,
    DirectShapes,
    DropRepeats,
    Share,
    HoistPosition,
    HoistFeatures,
    CutPositions,
    DropTransposes,
    Share,
)


class Draw(Protocol):
    """Function that draws a padded batch of rows and length; the first row is full."""

    def __call__(self, rows: int, length: int) -> Mapping[str, NDArray[np.int64]]:
        """Return {input: int64 of shape (rows, length)}."""


def optimize(
    proto: onnx.ModelProto, level: Level, draw: Draw, max_length: int, save: Callable[[onnx.ModelProto, Path], None]
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Run the passes of a level.

    Parameters
    ----------
    proto : onnx.ModelProto
    level : {"none", "O1"}
    draw : callable
        Draws inputs for the probes.
    max_length : int
        Longest row that the file must take.
    save : callable
        Writes a proto of any size.

    Returns
    -------
    (onnx.ModelProto, dict)
        The optimised graph, and the number of changes of each pass.
    """
    lengths = _lengths(max_length)
    if lengths is None or level == "none":
        return proto, {}
    model = ir.from_proto(proto)
    feeds = [draw(rows, length) for rows, length in zip(ROWS, lengths, strict=True)]
    counts: dict[str, int] = {}
    probes: tuple[Probe, ...] = ()
    for run, kind in enumerate(EXACT):
        graph_pass = kind()
        if graph_pass.looks and not probes:
            probes = probe(model, feeds, save)
        traced = TracedGraph(model, probes, max_length, run)
        changed = graph_pass(traced)
        Prune()(traced)
        if changed:
            counts[graph_pass.name] = counts.get(graph_pass.name, 0) + changed
            probes = () if graph_pass.reshapes else probes
    return ir.to_proto(model), counts


def _lengths(longest: int) -> tuple[int, ...] | None:
    """Return the lengths of the probes; None where there are not three."""
    if longest >= LENGTHS[-1]:
        return LENGTHS
    return (longest - 1, longest - 2, longest) if longest > len(ROWS) else None
