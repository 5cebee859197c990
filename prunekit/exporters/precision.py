"""Files in lower precision beside the float32 one, and which weights are worth keeping as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from prunekit.exporters.fidelity import Feeds, Replies, fidelity, replies
from prunekit.exporters.half import halve
from prunekit.exporters.onnx import OnnxFile, move_model, onnx_bytes, save_model
from prunekit.exporters.quantize import Weight, quantizable, quantize
from prunekit.measure.records import Fidelity, WeightError
from prunekit.measure.session import OnnxSession

Low = Literal["fp16", "int8", "int8-static"]
#: By what loaders call them.
FILES: dict[Low, str] = {
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_quantized.onnx",
    "int8-static": "onnx/model_quantized.onnx",
}
#: Mean squared error of the outputs, as a share of their variance, up to which every weight may be int8.
TOLERANCE = 0.005


@dataclass(frozen=True, eq=False)
class LowFile:
    """A file in lower precision.

    Attributes
    ----------
    file : OnnxFile
    dtype : {"fp16", "int8", "int8-static"}
    fidelity : Fidelity or None
        On the rows on which it was chosen; None where there were none.
    weights : tuple of WeightError
        What each weight costs, the dearest first; empty where nothing was searched.
    """

    file: OnnxFile
    dtype: Low
    fidelity: Fidelity | None = None
    weights: tuple[WeightError, ...] = ()


def lower(
    source: OnnxFile,
    path: Path,
    dtype: Low,
    *,
    search: Sequence[Feeds] = (),
    calibration: Sequence[Feeds] = (),
    tolerance: float = TOLERANCE,
) -> LowFile:
    """Write a file in lower precision.

    Of int8, the weights that cost most above their share of the bytes stay float32, one after the other, until the outputs are
    within the tolerance.

    Parameters
    ----------
    source : OnnxFile
        The float32 file, not fused.
    path : Path
        The file to write.
    dtype : {"fp16", "int8", "int8-static"}
    search : sequence of mapping
        Batches {name: int64 (b, L)} on which the costs of weights are measured; none: all of them become int8.
    calibration : sequence of mapping
        Batches from train that set the ranges of "int8-static", which needs them.
    tolerance : float
        Mean squared error of the outputs, as a share of their variance.

    Raises
    ------
    ExportError
        If the file cannot be made.
    StatisticsError
        If it gives NaN or infinity.
    OutputError
        If it cannot be written.
    """
    proto = onnx.load(str(source.path))
    with tempfile.TemporaryDirectory(prefix=".low-", dir=path.parent) as scratch:
        trial = _Trial(proto, Path(scratch), search)
        if dtype == "fp16":
            made = halve(proto)
            weights: tuple[WeightError, ...] = ()
        else:
            trial.ranges = ranges_of(proto, Path(scratch), calibration) if dtype == "int8-static" else None
            keep, weights = _choose(trial, tolerance) if search else ((), ())
            made = quantize(proto, keep=keep, ranges=trial.ranges)
        found = trial.fidelity(made) if search else None
        done = Path(scratch) / path.name
        save_model(made, done)
        onnx.checker.check_model(str(done))
        move_model(done, path)
    file = replace(source, path=path, bytes=onnx_bytes(path))
    return LowFile(file, dtype, found, weights)


class _Trial:
    """Tries models on the rows of the search."""

    def __init__(self, proto: onnx.ModelProto, scratch: Path, batches: Sequence[Feeds]) -> None:
        self.proto, self.batches = proto, batches
        self.ranges: Mapping[str, tuple[float, float]] | None = None
        self._path = scratch / "trial.onnx"
        self._want: Replies | None = None

    def fidelity(self, proto: onnx.ModelProto) -> Fidelity:
        """How far a model is from the float32 one."""
        if self._want is None:
            self._want = self._replies(self.proto)
        return fidelity(self._replies(proto), self._want)

    def error(self, keep: Collection[str]) -> float:
        """The error with all weights in int8 but these."""
        return self.fidelity(quantize(self.proto, keep=keep, ranges=self.ranges)).error

    def _replies(self, proto: onnx.ModelProto) -> Replies:
        save_model(proto, self._path)
        return replies(OnnxSession(self._path), self.batches)


def _choose(trial: _Trial, tolerance: float) -> tuple[tuple[str, ...], tuple[WeightError, ...]]:
    """Names of the weights that stay float32, and what each costs alone."""
    weights = quantizable(trial.proto)
    names = [weight.name for weight in weights]
    costs = {weight.name: trial.error([name for name in names if name != weight.name]) for weight in weights}
    total, elements = sum(costs.values()), sum(weight.elements for weight in weights)

    def above(weight: Weight) -> float:
        return costs[weight.name] / total * elements / weight.elements

    dearest = sorted(weights, key=above, reverse=True) if total else []
    keep: list[str] = []
    for weight in dearest:
        # One that costs no more than its share is not what is wrong; and something must be left to gain.
        if above(weight) <= 1 or len(keep) == len(weights) - 1 or trial.error(keep) <= tolerance:
            break
        keep.append(weight.name)
    found = [
        WeightError(
            name=weight.name,
            error=costs[weight.name],
            share=costs[weight.name] / total if total else 0.0,
            bytes_share=weight.elements / elements,
            kept=weight.name in keep,
        )
        for weight in sorted(weights, key=lambda weight: costs[weight.name], reverse=True)
    ]
    return tuple(keep), tuple(found)


def ranges_of(proto: onnx.ModelProto, scratch: Path, batches: Sequence[Feeds]) -> dict[str, tuple[float, float]]:
    """The smallest and largest number of what goes into each matrix product, padding included.

    Parameters
    ----------
    proto : onnx.ModelProto
        In float32.
    scratch : Path
    batches : sequence of mapping
        Calibration rows.
    """
    values = dict.fromkeys(name for weight in quantizable(proto) if weight.kind == "product" for name in weight.inputs)
    seen = onnx.ModelProto()
    seen.CopyFrom(proto)
    known = {output.name for output in proto.graph.output}
    seen.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in known)
    save_model(seen, scratch / "ranges.onnx")
    session = OnnxSession(scratch / "ranges.onnx")
    found: dict[str, tuple[float, float]] = {}
    for feeds in batches:
        for name, array in session(feeds).items():
            if name in values:
                low, high = found.get(name, (np.inf, -np.inf))
                found[name] = min(low, float(array.min())), max(high, float(array.max()))
    return found
