"""Quantisation of a float32 ONNX model to int8: weights by channel, activations in the range of each batch or in calibrated ones.

Matrix products become the integer products of the ONNX standard (`DynamicQuantizeLinear` or `QuantizeLinear`, then
`MatMulInteger` and a scale), the pattern that onnxruntime recognises and runs as one kernel. Embeddings are gathered as int8
and scaled after the gather; large ones in six bits, four numbers in three bytes. No operator is outside the standard, so the
file runs where the float32 file runs. A weight that is to have 16 bits is stored in float16 and cast to float32 before it is used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from prunekit.errors import ExportError

#: End of the name of a table in six bits, four numbers in three bytes.
SIX_BITS = "_6bit"

#: Matrices with fewer rows or columns stay float32: a head of few classes or two token types save nothing, and are sensitive.
NARROW = 8
#: Processors without VNNI add two products of uint8 and int8 in 16 bits: 2 * 255 * 63 is the most that fits. Seven bits are
#: exact on all of them, and their loss of accuracy is negligible beside the error of the activations.
PRODUCT_LIMIT = 63
TABLE_LIMIT = 127
#: Number of elements from which on a table is stored in six bits, which adds nodes: smaller tables save too few bytes.
LARGE = 1 << 20
PACKED_LIMIT = 31
#: Share of the difference between channels that moves from a product's input to its weight.
BALANCE = 0.75
#: Largest error of a number in float16, as a share of the largest one of its column: half a step at full precision.
_HALF_STEP = 2.0**-11
#: First operator set that has BitwiseAnd and BitwiseOr.
_BITWISE_OPSET = 18


@dataclass(frozen=True)
class Weight:
    """A weight that int8 can hold.

    Attributes
    ----------
    name : str
        Module in which the graph reads it first: "bert.encoder.layer.0.attention.self.query".
    initializer : str
        Its name in the file.
    kind : {"product", "table"}
        The right-hand side of a matrix product, or an embedding.
    elements : int
    inputs : tuple of str
        Values that it is multiplied with, or that index its rows.
    bits : int
        Of each number in the file: 8, or 6 in a large table.
    """

    name: str
    initializer: str
    kind: Literal["product", "table"]
    elements: int
    inputs: tuple[str, ...]
    bits: int = 8


def quantizable(proto: onnx.ModelProto) -> tuple[Weight, ...]:
    """Return the weights of a float32 model that `quantize` turns into int8, in the order in which the graph reads them."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    bitwise = _has_bitwise(proto)
    weights: dict[str, Weight] = {}
    mixed: set[str] = set()
    for node in _nodes_without_aliases(proto.graph):
        role = _role(node, tensors)
        if role is None:
            continue
        kind, weight, value = role
        known = weights.get(weight)
        if weight in mixed or (known is not None and known.kind != kind):
            # A table that is also multiplied with, as of a tied language-model head, would be needed twice.
            weights.pop(weight, None)
            mixed.add(weight)
            continue
        inputs = (value,) if known is None else tuple(dict.fromkeys((*known.inputs, value)))
        name = known.name if known else _name(node, weight)
        bits = 6 if kind == "table" and bitwise and is_large(*tensors[weight].dims) else 8
        weights[weight] = Weight(name, weight, kind, int(np.prod(tensors[weight].dims)), inputs, bits)
    return tuple(weights.values())


def _has_bitwise(proto: onnx.ModelProto) -> bool:
    return max((opset.version for opset in proto.opset_import if opset.domain in ("", "ai.onnx")), default=0) >= _BITWISE_OPSET


def is_large(rows: int, columns: int) -> bool:
    """Return whether a table of this shape is stored in six bits, four numbers in three bytes."""
    return rows * columns >= LARGE and columns % 4 == 0


def _nodes_without_aliases(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes, reading weights by their own names: the exporter passes those that layers share through Identity."""
    stored, aliases = {tensor.name for tensor in graph.initializer}, dict[str, str]()
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        # A subgraph could read the alias; then all nodes stay.
        if any(attribute.HasField("g") for attribute in node.attribute):
            return list(graph.node)
        if node.op_type == "Identity" and node.input[0] in stored and node.output[0] not in outputs:
            aliases[node.output[0]] = node.input[0]
    nodes = []
    for node in graph.node:
        if node.output[0] not in aliases:
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            for at, name in enumerate(copied.input):
                copied.input[at] = aliases.get(name, name)
            nodes.append(copied)
    return nodes


def _role(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> tuple[Literal["product", "table"], str, str] | None:
    """Return (kind, weight, other input) of a node whose large float32 matrix int8 can replace; None for any other node."""
    at = {"MatMul": 1, "Gemm": 1, "Gather": 0}.get(node.op_type)
    if at is None or node.domain not in ("", "ai.onnx") or node.input[at] not in tensors:
        return None
    tensor = tensors[node.input[at]]
    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2 or min(tensor.dims) < NARROW:
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Gather":
        return None if attributes.get("axis", 0) != 0 else ("table", node.input[0], node.input[1])
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
        return None
    return "product", node.input[1], node.input[0]


def _name(node: onnx.NodeProto, weight: str) -> str:
    path = [part for part in (node.name or node.output[0]).split("/") if part]
    # The exporter names a node by its enclosing modules, of which the outermost is the exporter's wrapper, and by its type.
    return ".".join(path[1:-1] if path[:1] == ["model"] else path[:-1]) or weight


def quantize(
    proto: onnx.ModelProto,
    *,
    bits: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    balance: Mapping[str, NDArray[np.float32]] | None = None,
) -> onnx.ModelProto:
    """Turn weights into int8; the model passed in is not changed.

    Parameters
    ----------
    proto : onnx.ModelProto
        In float32, not fused: operators of onnxruntime stay as they are.
    bits : mapping, optional
        {name, as `quantizable` returns it: 8, 16 or 32} of weights that have more than `Weight.bits`. In 16 bits a weight is stored in
        float16, but in float32 where that loses more than a rounding, and computed with in float32.
    ranges : mapping, optional
        {value: (smallest, largest)} of the inputs of the matrix products, from calibration rows; each is then quantised in that fixed
        range. By default each batch has a range of its own.
    balance : mapping, optional
        {name of a product's weight: ndarray of shape (K,), float32}, as `balanced` returns it: the K channels of its input are divided
        by these numbers before they are quantised, and its rows are multiplied with them. Not with `ranges`.

    Returns
    -------
    onnx.ModelProto
        Inputs and outputs as before; no shapes of intermediate values, which keep onnxruntime from fusing.

    Raises
    ------
    ExportError
        If nothing in the model can be quantised, or a weight is not finite.
    """
    found = quantizable(proto)
    bits = bits or {}
    weights = {weight.initializer: weight for weight in found if bits.get(weight.name, 8) == 8}
    if not weights:
        raise ExportError("The model has no weight that int8 can hold. Export it with --dtype fp32.")
    quantised = _without_weights(proto)
    packed_tables = {weight.initializer for weight in found if weight.bits < 8 and weight.name not in bits}
    factors = {initializer: (balance or {})[weight.name] for initializer, weight in weights.items() if weight.name in (balance or {})}
    writer = _Writer(quantised.graph, {tensor.name: tensor for tensor in proto.graph.initializer}, ranges, packed_tables, factors)
    halved = {weight.initializer for weight in found if bits.get(weight.name) == 16}
    for node in _nodes_without_aliases(proto.graph):
        role = _role(node, writer.tensors)
        if role is not None and role[1] in halved:
            writer.halve(node, table=role[0] == "table")
        elif role is None or role[1] not in weights:
            quantised.graph.node.append(node)
        elif role[0] == "table":
            writer.table(node)
        else:
            writer.product(node)
    _add_used(quantised.graph, proto.graph)
    return quantised


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without nodes, weights and shapes of values: a search makes many copies, and copying weights takes time."""
    graph = helper.make_graph([], proto.graph.name, list(proto.graph.input), list(proto.graph.output))
    stripped = helper.make_model(
        graph,
        opset_imports=list(proto.opset_import),
        functions=list(proto.functions),
        producer_name=proto.producer_name,
        producer_version=proto.producer_version,
        ir_version=proto.ir_version,
    )
    helper.set_model_props(stripped, {entry.key: entry.value for entry in proto.metadata_props})
    return stripped


class _Writer:
    """Writer of nodes and initializers to a graph; a value or a weight that is used twice is quantised once."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        tensors: Mapping[str, onnx.TensorProto],
        ranges: Mapping[str, tuple[float, float]] | None,
        packed_tables: Collection[str],
        factors: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self.graph, self.tensors, self.ranges, self.factors = graph, tensors, ranges, factors
        self._packed = packed_tables
        self._halves: dict[str, str] = {}
        self._weights: dict[tuple[str, bool], tuple[str, str]] = {}
        self._values: dict[str, tuple[str, str, str]] = {}
        self._balanced: dict[tuple[str, bytes], str] = {}

    def halve(self, node: onnx.NodeProto, *, table: bool) -> None:
        """Add a node whose weight is stored in float16: of a table the gathered rows are cast, of a product the matrix."""
        name, out = node.input[0 if table else 1], node.output[0]
        if name not in self._halves:
            self._halves[name] = self._half(name)
            if not table and self._halves[name] != name:
                self._node("Cast", [self._halves[name]], f"{name}_float", to=onnx.TensorProto.FLOAT)
        half = self._halves[name]
        self.graph.node.append(node)
        if half == name:
            return
        read = self.graph.node[-1]
        if table:
            read.input[0], read.output[0] = half, f"{out}_half"
            self._node("Cast", [f"{out}_half"], out, to=onnx.TensorProto.FLOAT)
        else:
            read.input[1] = f"{name}_float"

    def _half(self, name: str) -> str:
        """Return the name of a weight in float16, or of itself where float16 loses more than a rounding."""
        values = numpy_helper.to_array(self.tensors[name])
        with np.errstate(over="ignore", invalid="ignore"):
            half = values.astype(np.float16)
            lost = np.abs(half.astype(np.float32) - values).max(axis=0)
        return self._add(f"{name}_half", half) if (lost <= _HALF_STEP * np.abs(values).max(axis=0)).all() else name

    def table(self, node: onnx.NodeProto) -> None:
        (table, ids), out = node.input, node.output[0]
        if table in self._packed:
            scales = self._gather_six_bits(table, ids, f"{out}_float")
        else:
            rows, scales = self._weight(table, TABLE_LIMIT)
            self._node("Gather", [rows, ids], f"{out}_int8")
            # DequantizeLinear computes the same in one node, and onnxruntime takes several times as long for it.
            self._node("Cast", [f"{out}_int8"], f"{out}_float", to=onnx.TensorProto.FLOAT)
        self._node("Mul", [f"{out}_float", scales], out)

    def _gather_six_bits(self, table: str, ids: str, out: str) -> str:
        """Gather rows of a table in six bits, as float32 before they are scaled, and return the name of the scales.

        No step leaves the range of its type: runtimes that shift by multiplying would saturate there.
        """
        if (table, False) not in self._weights:
            rounded, scales = rounded_columns(self._finite(table), PACKED_LIMIT)
            self._weights[table, False] = self._add(table + SIX_BITS, packed(rounded)), self._add(f"{table}_scale", scales)
        rows, scale_name = self._weights[table, False]
        quarter = self.tensors[table].dims[1] // 4
        lower, upper = (self._once(f"six_bits/{value:b}", np.array(value, dtype=np.uint8)) for value in (0b111111, 0b11000000))
        shifts = self._once(f"six_bits/shifts/{quarter}", np.repeat([2, 4, 6], quarter).astype(np.uint8))
        thirds = self._once(f"six_bits/thirds/{quarter}", np.full(3, quarter, dtype=np.int64))
        self._node("Gather", [rows, ids], f"{out}_bytes")
        # Three of the four numbers are the lower six bits of the bytes; the last one is in their upper two.
        self._node("BitwiseAnd", [f"{out}_bytes", lower], f"{out}_most")
        self._node("BitwiseAnd", [f"{out}_bytes", upper], f"{out}_upper")
        self._node("BitShift", [f"{out}_upper", shifts], f"{out}_pairs", direction="RIGHT")
        self._node("Split", [f"{out}_pairs", thirds], f"{out}_high", f"{out}_middle", f"{out}_low", axis=-1)
        self._node("BitwiseOr", [f"{out}_high", f"{out}_middle"], f"{out}_both")
        self._node("BitwiseOr", [f"{out}_both", f"{out}_low"], f"{out}_last")
        self._node("Concat", [f"{out}_most", f"{out}_last"], f"{out}_uint8", axis=-1)
        self._node("Cast", [f"{out}_uint8"], f"{out}_above", to=onnx.TensorProto.FLOAT)
        self._node("Sub", [f"{out}_above", self._once("six_bits/zero", np.array(32, dtype=np.float32))], out)
        return scale_name

    def product(self, node: onnx.NodeProto) -> None:
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        weight, scales = self._weight(node.input[1], PRODUCT_LIMIT, transposed=transposed)
        left = node.input[0]
        if node.input[1] in self.factors:
            left = self._balance(node.input[0], self.factors[node.input[1]])
        value, scale, zero = self._value(left)
        out, bias = node.output[0], node.input[2] if len(node.input) > 2 else ""
        self._node("MatMulInteger", [value, weight, zero], f"{out}_int32")
        self._node("Cast", [f"{out}_int32"], f"{out}_cast", to=onnx.TensorProto.FLOAT)
        self._node("Mul", [scale, scales], f"{out}_scale")
        self._node("Mul", [f"{out}_cast", f"{out}_scale"], f"{out}_product" if bias else out)
        if bias:
            self._node("Add", [f"{out}_product", bias], out)

    def _balance(self, name: str, factors: NDArray[np.float32]) -> str:
        """Return the name of a value divided by factors: once for all products that share both."""
        key = name, factors.tobytes()
        if key not in self._balanced:
            self._balanced[key] = f"{name}_balanced{len(self._balanced)}"
            inverse = self._add(f"{self._balanced[key]}_balance", 1 / factors)
            self._node("Mul", [name, inverse], self._balanced[key])
        return self._balanced[key]

    def _node(self, kind: str, inputs: list[str], *outputs: str, **attributes: int | str) -> None:
        node = helper.make_node(kind, inputs, list(outputs), name=f"{outputs[0]}_{kind}")
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.graph.node.append(node)

    def _add(self, name: str, values: NDArray[np.generic]) -> str:
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _once(self, name: str, values: NDArray[np.generic]) -> str:
        return name if any(tensor.name == name for tensor in self.graph.initializer) else self._add(name, values)

    def _finite(self, name: str) -> NDArray[np.float32]:
        values = numpy_helper.to_array(self.tensors[name])
        if not np.isfinite(values).all():
            raise ExportError(f"The weight {name!r} has NaN or infinity.")
        return values

    def _weight(self, name: str, limit: int, *, transposed: bool = False) -> tuple[str, str]:
        """Return the names of the int8 weight and of its scales."""
        key = name, transposed
        if key not in self._weights:
            values = self._finite(name).T if transposed else self._finite(name)
            if name in self.factors:
                values = values * self.factors[name][:, None]
            rounded, scales = rounded_columns(values, limit)
            base = f"{name}_t" if transposed else name
            self._weights[key] = self._add(f"{base}_int8", rounded), self._add(f"{base}_scale", scales)
        return self._weights[key]

    def _value(self, name: str) -> tuple[str, str, str]:
        """Return the names of a value as uint8, of its scale and of its zero point."""
        if name not in self._values:
            value, scale, zero = f"{name}_uint8", f"{name}_uint8_scale", f"{name}_uint8_zero"
            if self.ranges is None:
                self._node("DynamicQuantizeLinear", [name], value, scale, zero)
            else:
                step, offset = fixed_range(*self.ranges[name])
                self._add(scale, np.array(step, dtype=np.float32))
                self._add(zero, np.array(offset, dtype=np.uint8))
                self._node("QuantizeLinear", [name, scale, zero], value)
            self._values[name] = value, scale, zero
        return self._values[name]


def rounded_columns(values: NDArray[np.float32], limit: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a matrix to integers in -limit .. limit, zero at zero, with one scale for each column.

    Parameters
    ----------
    values : ndarray of shape (rows, columns), float32
    limit : int
        At most 127.

    Returns
    -------
    (ndarray of shape (rows, columns), int8; ndarray of shape (columns,), float32)
        `rounded * scales` is within half a scale of `values`.
    """
    largest = np.abs(values).max(axis=0)
    scales = np.where(largest > 0, largest / limit, 1).astype(np.float32)
    return np.ascontiguousarray(np.clip(np.rint(values / scales), -limit, limit).astype(np.int8)), scales


def balanced(largest: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return factors that bring the channels of a product's input nearer to one range, as int8 has one range for all of them.

    G. Xiao et al., "SmoothQuant" (2023), equation 4, with alpha = 0.75; scaled so that their geometric mean is 1.

    Parameters
    ----------
    largest : ndarray of shape (K,), float32
        Largest absolute value of each channel.
    weight : ndarray of shape (K, N), float32

    Returns
    -------
    ndarray of shape (K,), float32
        Divide the channels by them, and multiply the rows of the weight with them.
    """
    rows = np.abs(weight).max(axis=1)
    floor = np.float32(1e-5)
    logs = BALANCE * np.log(np.maximum(largest, floor)) - (1 - BALANCE) * np.log(np.maximum(rows, floor))
    factors: NDArray[np.float32] = np.exp(logs - logs.mean()).astype(np.float32)
    return factors


def packed(rounded: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack four numbers of six bits into three bytes.

    Parameters
    ----------
    rounded : ndarray of shape (rows, columns), int8
        In -32 .. 31; the columns are a multiple of four.

    Returns
    -------
    ndarray of shape (rows, 3 * columns / 4), uint8
        The numbers plus 32, so that they start at 0. The lower six bits of byte j are column j; the upper two, of bytes j,
        j + columns / 4 and j + columns / 2, are from the highest to the lowest those of column 3 * columns / 4 + j.
    """
    quarter = rounded.shape[1] // 4
    shifted = (rounded + 32).astype(np.uint8)
    last = shifted[:, 3 * quarter :]
    upper = np.concatenate([last << 2, last << 4, last << 6], axis=1) & 0b11000000
    combined: NDArray[np.uint8] = (shifted[:, : 3 * quarter] | upper).astype(np.uint8)
    return combined


def fixed_range(smallest: float, largest: float) -> tuple[float, int]:
    """Return step and zero point with which uint8 covers a range; 0 is always represented exactly, as padding needs it."""
    low, high = min(smallest, 0.0), max(largest, 0.0)
    step = (high - low) / 255 or 1.0
    return step, int(np.clip(round(-low / step), 0, 255))


def _add_used(graph: onnx.GraphProto, source: onnx.GraphProto) -> None:
    """Add the weights of `source` that the graph still reads."""
    used = {name for node in graph.node for name in _input_names(node)} | {output.name for output in graph.output}
    stored = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in source.initializer if tensor.name in used - stored)


def _input_names(node: onnx.NodeProto) -> list[str]:
    inner = [name for attribute in node.attribute if attribute.HasField("g") for child in attribute.g.node for name in _input_names(child)]
    return [*node.input, *inner]
