"""Files in lower precision beside the float32 one, and which weights are worth keeping as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from prunekit.exporters.fidelity import Feeds, Replies, fidelity, replies
from prunekit.exporters.half import halve
from prunekit.exporters.onnx import OnnxFile, move_model, onnx_bytes, save_model
from prunekit.exporters.quantize import Weight, balanced, quantizable, quantize
from prunekit.runtime.records import Fidelity, WeightError
from prunekit.runtime.session import OnnxSession

Low = Literal["fp16", "int8", "int8-static"]
#: By what loaders call them.
FILES: dict[Low, str] = {
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_quantized.onnx",
    "int8-static": "onnx/model_quantized.onnx",
}
#: What each weight costs alone is measured on a part of the rows, for it takes one file for each weight.
_PART = 4


@dataclass(frozen=True)
class Gate:
    """How near to the float32 file one in int8 has to be.

    Attributes
    ----------
    error : float
        Mean squared error of the outputs, as a share of their variance, at most.
    agreement : float
        Share of predictions that are the same, at least, where outputs predict classes.
    """

    error: float = 0.0025
    agreement: float = 0.98

    def passes(self, found: Fidelity) -> bool:
        """Whether a file is near enough."""
        return found.error <= self.error and (found.agreement is None or found.agreement >= self.agreement)


GATE = Gate()


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
        What each weight costs, the dearest first; empty where nothing had to be searched, because all of them are in lower precision.
    balanced : tuple of str
        The weights whose inputs were balanced.
    """

    file: OnnxFile
    dtype: Low
    fidelity: Fidelity | None = None
    weights: tuple[WeightError, ...] = ()
    balanced: tuple[str, ...] = ()


def lower(
    source: OnnxFile,
    path: Path,
    dtype: Low,
    *,
    search: Sequence[Feeds] = (),
    calibration: Sequence[Feeds] = (),
    gate: Gate = GATE,
    accept: Callable[[Path], bool] | None = None,
) -> LowFile:
    """Write a file in lower precision.

    Of int8, where a file does not pass the gate, or is not accepted, the channels of what goes into the products are balanced, and
    where that is not enough weights stay float32, one after the other, the dearest for their bytes first. Fixed ranges are not balanced.

    Parameters
    ----------
    source : OnnxFile
        The float32 file, not fused.
    path : Path
        The file to write.
    dtype : {"fp16", "int8", "int8-static"}
    search : sequence of mapping
        Batches {name: int64 (b, L)} on which files are tried; none: all weights become int8.
    calibration : sequence of mapping
        Batches from train that set the ranges of "int8-static", which needs them.
    gate : Gate
    accept : callable, optional
        Whether an int8 file does, beyond what is tried on the rows of `search`.

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
        trial = _Trial(proto, Path(scratch), search, gate, accept)
        if dtype == "fp16":
            made = halve(proto)
            weights, helped = tuple[WeightError, ...](), tuple[str, ...]()
        else:
            trial.ranges = ranges_of(proto, Path(scratch), calibration) if dtype == "int8-static" else None
            chosen, weights = _choose(trial) if search else (_Chosen(), ())
            helped = tuple(name for name in chosen.balance if name not in chosen.keep)
            made = quantize(proto, keep=chosen.keep, ranges=trial.ranges, balance=chosen.balance)
        found = trial.fidelity(made) if search else None
        done = Path(scratch) / path.name
        save_model(made, done)
        onnx.checker.check_model(str(done))
        move_model(done, path)
    file = replace(source, path=path, bytes=onnx_bytes(path))
    return LowFile(file, dtype, found, weights, helped)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """What is done about dear weights: names of those that stay float32, and factors for the inputs of others."""

    keep: tuple[str, ...] = ()
    balance: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class _Trial:
    """Tries models on the rows of the search."""

    def __init__(
        self, proto: onnx.ModelProto, scratch: Path, batches: Sequence[Feeds], gate: Gate, accept: Callable[[Path], bool] | None
    ) -> None:
        self.proto, self.batches, self.gate = proto, batches, gate
        self.ranges: Mapping[str, tuple[float, float]] | None = None
        self._path, self._accept = scratch / "trial.onnx", accept
        self._want: Replies | None = None

    def fidelity(self, proto: onnx.ModelProto) -> Fidelity:
        """How far a model is from the float32 one."""
        if self._want is None:
            self._want = self._replies(self.proto)
        return fidelity(self._replies(proto), self._want)

    def tried(self, keep: Collection[str] = (), balance: Mapping[str, NDArray[np.float32]] | None = None) -> Fidelity:
        """The model with all weights in int8 but those kept."""
        return self.fidelity(quantize(self.proto, keep=keep, ranges=self.ranges, balance=balance))

    def part(self) -> _Trial:
        """The same on every fourth batch."""
        found = _Trial(self.proto, self._path.parent, self.batches[::_PART], self.gate, None)
        found.ranges = self.ranges
        return found

    def passes(self, found: Fidelity) -> bool:
        """Whether the model that was tried last may ship."""
        return self.gate.passes(found) and (self._accept is None or self._accept(self._path))

    def factors(self, weights: Sequence[Weight]) -> dict[str, NDArray[np.float32]]:
        """Of the products among these weights, what balances the channels of their inputs on the rows of the search."""
        mine = [weight for weight in weights if weight.kind == "product"]
        tensors = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        largest: dict[str, NDArray[np.float32]] = {}
        for seen in inputs_seen(self.proto, mine, self._path, self.batches):
            for name, array in seen.items():
                found = np.abs(array).reshape(-1, array.shape[-1]).max(axis=0)
                largest[name] = np.maximum(largest.get(name, found), found)
        groups: dict[tuple[str, ...], list[Weight]] = {}
        for weight in mine:
            groups.setdefault(weight.inputs, []).append(weight)
        factors: dict[str, NDArray[np.float32]] = {}
        for inputs, group in groups.items():
            channels = np.max([largest[name] for name in inputs], axis=0)
            values = [numpy_helper.to_array(tensors[weight.initializer]) for weight in group]
            # Gemm may hold it the other way round; a square one is taken as it lies, and is balanced only if that helps.
            lying = [each if len(each) == len(channels) else each.T for each in values]
            # What one value goes into shares its factors, so that it is quantised once.
            factors |= dict.fromkeys((weight.name for weight in group), balanced(channels, np.concatenate(lying, axis=1)))
        return factors

    def _replies(self, proto: onnx.ModelProto) -> Replies:
        save_model(proto, self._path)
        return replies(OnnxSession(self._path), self.batches)


def _choose(trial: _Trial) -> tuple[_Chosen, tuple[WeightError, ...]]:
    """What is done about dear weights, and what each costs alone; nothing, and nothing of them, where all of them may be int8."""
    found = trial.tried()
    if trial.passes(found):
        return _Chosen(), ()  # nothing is dear
    weights = quantizable(trial.proto)
    balance: dict[str, NDArray[np.float32]] = {}
    if trial.ranges is None:
        helped = trial.tried((), factors := trial.factors(weights))
        if helped.error < found.error:
            found, balance = helped, factors
            if trial.passes(helped):
                return _Chosen(balance=balance), ()
    names = [weight.name for weight in weights]
    part = trial.part()
    costs = {weight.name: part.tried([name for name in names if name != weight.name], balance).error for weight in weights}
    total, elements = sum(costs.values()), sum(weight.elements for weight in weights)

    def above(weight: Weight) -> float:
        return costs[weight.name] / total * elements / weight.elements if total else 0.0

    ordered = sorted(weights, key=above, reverse=True)
    keep: list[str] = []
    # Something must be left to gain.
    for weight in ordered[:-1]:
        keep.append(weight.name)
        if trial.passes(trial.tried(keep, balance)):
            break
    made = [
        WeightError(
            name=weight.name,
            error=costs[weight.name],
            share=costs[weight.name] / total if total else 0.0,
            bytes_share=weight.elements / elements,
            kept=weight.name in keep,
            balanced=weight.name in balance and weight.name not in keep,
        )
        for weight in sorted(weights, key=lambda weight: costs[weight.name], reverse=True)
    ]
    return _Chosen(tuple(keep), balance), tuple(made)


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
    found: dict[str, tuple[float, float]] = {}
    products = [weight for weight in quantizable(proto) if weight.kind == "product"]
    for seen in inputs_seen(proto, products, scratch / "ranges.onnx", batches):
        for name, array in seen.items():
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = min(low, float(array.min())), max(high, float(array.max()))
    return found


def inputs_seen(
    proto: onnx.ModelProto, weights: Sequence[Weight], path: Path, batches: Sequence[Feeds]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Of each batch, what goes into products: {value: array}.

    Parameters
    ----------
    proto : onnx.ModelProto
        In float32.
    weights : sequence of Weight
        Of the products.
    path : Path
        Where a file may be written.
    batches : sequence of mapping
    """
    values = dict.fromkeys(name for weight in weights for name in weight.inputs)
    seen = onnx.ModelProto()
    seen.CopyFrom(proto)
    known = {output.name for output in proto.graph.output}
    seen.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in known)
    save_model(seen, path)
    session = OnnxSession(path)
    for feeds in batches:
        yield {name: array for name, array in session(feeds).items() if name in values}
