"""Files in lower precision beside the float32 one, and the search for weights that have more bits than others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from prunekit.exporters.fidelity import Feeds, Replies, fidelity, replies
from prunekit.exporters.half import halve
from prunekit.exporters.int8_gate import INT8_GATE, Int8Gate
from prunekit.exporters.onnx import OnnxFile, move_model, onnx_bytes, save_model
from prunekit.exporters.quantize import PACKED_LIMIT, TABLE_LIMIT, Weight, balanced, quantizable, quantize
from prunekit.runtime.records import Fidelity, WeightError
from prunekit.runtime.session import OnnxSession
from prunekit.validation.dtypes import LowDtype

#: File names that loaders look for.
FILES: dict[LowDtype, str] = {
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_quantized.onnx",
    "int8-static": "onnx/model_quantized.onnx",
}
#: The cost of each weight alone is measured on every fourth batch, as it takes one file for each weight.
_STEP = 4
#: Steps up to the largest number, by bits; float16 has as many up to each number, float32 a rounding that is none here.
_LEVELS = {6: PACKED_LIMIT, 8: TABLE_LIMIT, 16: 2**11, 32: np.inf}


@dataclass(frozen=True, eq=False)
class LowFile:
    """A file in lower precision.

    Attributes
    ----------
    file : OnnxFile
    dtype : {"fp16", "int8", "int8-static"}
    fidelity : Fidelity or None
        Measured on the rows of the search; None without rows.
    weights : tuple of WeightError
        Cost of each weight, the largest first; empty where no search was needed, because all weights are in lower precision.
    balanced : tuple of str
        Weights whose inputs were balanced.
    """

    file: OnnxFile
    dtype: LowDtype
    fidelity: Fidelity | None = None
    weights: tuple[WeightError, ...] = ()
    balanced: tuple[str, ...] = ()


def lower(
    source: OnnxFile,
    path: Path,
    dtype: LowDtype,
    *,
    search: Sequence[Feeds] = (),
    calibration: Sequence[Feeds] = (),
    gate: Int8Gate = INT8_GATE,
    accept: Callable[[Path], bool] | None = None,
    most: int | None = None,
) -> LowFile:
    """Write a file in lower precision.

    Where an int8 file does not pass the gate, or is not accepted, the channels of the products' inputs are balanced. Where that is not
    enough, weights are given more bits, one after the other, those of the highest cost per byte first: a large table eight, any weight
    16, and 32. Fixed ranges are not balanced.

    Parameters
    ----------
    source : OnnxFile
        The float32 file, not fused.
    path : Path
        The file to write.
    dtype : {"fp16", "int8", "int8-static"}
    search : sequence of mapping
        Batches {name: int64 (b, L)} on which files are compared; without any, all weights become int8.
    calibration : sequence of mapping
        Batches from train that set the ranges of "int8-static", which needs them.
    gate : Int8Gate
    accept : callable, optional
        Returns whether an int8 file is acceptable, in addition to the gate on the rows of `search`.
    most : int, optional
        Bytes that an int8 file may take: only as much is balanced and has more bits as leaves it within them.

    Raises
    ------
    ExportError
        If the file cannot be made.
    StatisticsError
        If it outputs NaN or infinity.
    OutputError
        If it cannot be written.
    """
    proto = onnx.load(str(source.path))
    with tempfile.TemporaryDirectory(prefix=".low-", dir=path.parent) as scratch:
        trial = _Trial(proto, Path(scratch), search, gate, accept, most)
        if dtype == "fp16":
            lowered = halve(proto)
            weights, balanced_names = tuple[WeightError, ...](), tuple[str, ...]()
        else:
            trial.ranges = ranges_of(proto, Path(scratch), calibration) if dtype == "int8-static" else None
            treatment, weights = _choose(trial) if search else (_Treatment(), ())
            balanced_names = tuple(name for name in treatment.balance if treatment.bits.get(name, 8) == 8)
            lowered = quantize(proto, bits=treatment.bits, ranges=trial.ranges, balance=treatment.balance)
        measured = trial.fidelity(lowered) if search else None
        done = Path(scratch) / path.name
        save_model(lowered, done)
        onnx.checker.check_model(str(done))
        move_model(done, path)
    file = replace(source, path=path, bytes=onnx_bytes(path))
    return LowFile(file, dtype, measured, weights, balanced_names)


def bytes_in(source: OnnxFile, dtype: LowDtype) -> int:
    """Return the bytes of a float32 file in lower precision, with all the weights in it that can be, and nothing balanced."""
    proto = onnx.load(str(source.path))
    if dtype == "fp16":
        return int(halve(proto).ByteSize())
    # What the ranges are changes no byte.
    inputs = {name for weight in quantizable(proto) if weight.kind == "product" for name in weight.inputs}
    return int(quantize(proto, ranges=dict.fromkeys(inputs, (-1.0, 1.0)) if dtype == "int8-static" else None).ByteSize())


@dataclass(frozen=True, eq=False)
class _Treatment:
    """Treatment of costly weights: the bits of those that have more than others, and factors for the inputs of others."""

    bits: Mapping[str, int] = field(default_factory=dict)
    balance: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class _Trial:
    """Comparison of models with the float32 one on the rows of the search."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        scratch: Path,
        batches: Sequence[Feeds],
        gate: Int8Gate,
        accept: Callable[[Path], bool] | None = None,
        most: int | None = None,
    ) -> None:
        self.proto, self.batches, self.gate, self._most = proto, batches, gate, most
        self.ranges: Mapping[str, tuple[float, float]] | None = None
        self._path, self._accept = scratch / "trial.onnx", accept
        self._reference: Replies | None = None

    def fidelity(self, proto: onnx.ModelProto) -> Fidelity:
        """Return the fidelity of a model to the float32 one."""
        if self._reference is None:
            self._reference = self._replies(self.proto)
        return fidelity(self._replies(proto), self._reference)

    def int8_fidelity(self, bits: Mapping[str, int] | None = None, balance: Mapping[str, NDArray[np.float32]] | None = None) -> Fidelity:
        """Return the fidelity of the model with all weights in int8 but those that have more bits."""
        return self.fidelity(quantize(self.proto, bits=bits, ranges=self.ranges, balance=balance))

    def subset(self) -> _Trial:
        """Return a trial on every fourth batch."""
        trial = _Trial(self.proto, self._path.parent, self.batches[::_STEP], self.gate)
        trial.ranges = self.ranges
        return trial

    def passes(self, measured: Fidelity) -> bool:
        """Return whether the model that was run last passes the gate and is accepted."""
        return self.gate.passes(measured) and (self._accept is None or self._accept(self._path))

    @property
    def fits(self) -> bool:
        """Whether the file of the model that was run last is small enough."""
        return self._most is None or self._path.stat().st_size <= self._most

    def factors(self, weights: Sequence[Weight]) -> dict[str, NDArray[np.float32]]:
        """Return factors that balance the inputs of the products among these weights, from the rows of the search."""
        products = [weight for weight in weights if weight.kind == "product"]
        tensors = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        largest: dict[str, NDArray[np.float32]] = {}
        for values in inputs_seen(self.proto, products, self._path, self.batches):
            for name, array in values.items():
                peaks = np.abs(array).reshape(-1, array.shape[-1]).max(axis=0)
                largest[name] = np.maximum(largest.get(name, peaks), peaks)
        groups: dict[tuple[str, ...], list[Weight]] = {}
        for weight in products:
            groups.setdefault(weight.inputs, []).append(weight)
        factors: dict[str, NDArray[np.float32]] = {}
        for inputs, group in groups.items():
            channels = np.max([largest[name] for name in inputs], axis=0)
            matrices = [numpy_helper.to_array(tensors[weight.initializer]) for weight in group]
            # Gemm may store it transposed; a square one is taken as stored, and is balanced only if that helps.
            oriented = [matrix if len(matrix) == len(channels) else matrix.T for matrix in matrices]
            # Products of the same input share its factors, so that it is quantised once.
            factors |= dict.fromkeys((weight.name for weight in group), balanced(channels, np.concatenate(oriented, axis=1)))
        return factors

    def _replies(self, proto: onnx.ModelProto) -> Replies:
        save_model(proto, self._path)
        return replies(OnnxSession(self._path), self.batches)


def _choose(trial: _Trial) -> tuple[_Treatment, tuple[WeightError, ...]]:
    """Return the treatment of costly weights, and the cost of each alone; both empty where all weights may be int8."""
    measured = trial.int8_fidelity()
    if trial.passes(measured):
        return _Treatment(), ()  # no weight is costly
    weights = quantizable(trial.proto)
    balance: dict[str, NDArray[np.float32]] = {}
    if trial.ranges is None:
        with_balance = trial.int8_fidelity(None, factors := trial.factors(weights))
        if with_balance.error < measured.error and trial.fits:
            measured, balance = with_balance, factors
            if trial.passes(with_balance):
                return _Treatment(balance=balance), ()
    names = [weight.name for weight in weights]
    subset = trial.subset()
    costs = {name: subset.int8_fidelity({other: 32 for other in names if other != name}, balance).error for name in names}
    total, elements = sum(costs.values()), sum(weight.elements for weight in weights)
    bits: dict[str, int] = {}
    for name, to in _by_cost(weights, costs):
        more = {**bits, name: to}
        # At least one weight stays int8.
        if sum(each > 8 for each in more.values()) == len(weights):
            continue
        measured = trial.int8_fidelity(more, balance)
        if trial.fits:
            bits = more
            if trial.passes(measured):
                break
    errors = [
        WeightError(
            name=weight.name,
            error=costs[weight.name],
            share=costs[weight.name] / total if total else 0.0,
            bytes_share=weight.elements / elements,
            kept=bits.get(weight.name, 8) > 8,
            balanced=weight.name in balance and bits.get(weight.name, 8) == 8,
            bits=bits.get(weight.name, weight.bits),
        )
        for weight in sorted(weights, key=lambda weight: costs[weight.name], reverse=True)
    ]
    return _Treatment(bits, balance), tuple(errors)


def _by_cost(weights: Sequence[Weight], costs: Mapping[str, float]) -> list[tuple[str, int]]:
    """Return (weight, bits) of what is to have more bits, the highest cost by byte first."""
    steps = []
    for weight in weights:
        left, before = costs[weight.name], weight.bits
        for to in [bits for bits in _LEVELS if bits > before]:
            # An error is squared, and that of rounding a fraction of a step.
            after = left * (_LEVELS[before] / _LEVELS[to]) ** 2
            steps.append(((left - after) / ((to - before) * weight.elements), weight.name, to))
            left, before = after, to
    return [(name, bits) for _, name, bits in sorted(steps, key=lambda step: step[0], reverse=True)]


def ranges_of(proto: onnx.ModelProto, scratch: Path, batches: Sequence[Feeds]) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest number in the input of each matrix product, padding included.

    Parameters
    ----------
    proto : onnx.ModelProto
        In float32.
    scratch : Path
    batches : sequence of mapping
        Calibration rows.
    """
    ranges: dict[str, tuple[float, float]] = {}
    products = [weight for weight in quantizable(proto) if weight.kind == "product"]
    for values in inputs_seen(proto, products, scratch / "ranges.onnx", batches):
        for name, array in values.items():
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = min(low, float(array.min())), max(high, float(array.max()))
    return ranges


def inputs_seen(
    proto: onnx.ModelProto, weights: Sequence[Weight], path: Path, batches: Sequence[Feeds]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield the inputs of products for each batch: {value: array}.

    Parameters
    ----------
    proto : onnx.ModelProto
        In float32.
    weights : sequence of Weight
        Weights of the products.
    path : Path
        Path of a temporary file.
    batches : sequence of mapping
    """
    values = dict.fromkeys(name for weight in weights for name in weight.inputs)
    extended = onnx.ModelProto()
    extended.CopyFrom(proto)
    known = {output.name for output in proto.graph.output}
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in known)
    save_model(extended, path)
    session = OnnxSession(path)
    for feeds in batches:
        yield {name: array for name, array in session(feeds).items() if name in values}
