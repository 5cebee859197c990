"""Export of a PyTorch model to an ONNX file, with eager attention, by TorchScript or by torch.export.

The caller names the route. The file is made in a temporary folder, so that a failure leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunekit import __version__
from prunekit.arch.config import positions_of
from prunekit.arch.view import Embedder, answers_by_span
from prunekit.errors import ExportError, OutputError, ParameterError, PrunekitError
from prunekit.exporters.passes import Level, optimize
from prunekit.exporters.tracing import evaluating, traceable
from prunekit.tasks import ENDS
from prunekit.validation.escape import reason

EMBEDDED: tuple[str, ...] = ("last_hidden_state", "sentence_embedding")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Route = Literal["torchscript", "dynamo"]
OPSET = 18  # which onnxruntime 1.18 still reads
SINGLE_FILE = 2_000_000_000  # bytes; the limit of protobuf is 2 GiB
_OPSETS = (17, 20)
_TRACED = (2, 7)  # rows and length
_QUIET = ("transformers", "torch.onnx", "onnxscript")


@dataclass(frozen=True)
class InputSpace:
    """Inputs that a model accepts.

    Attributes
    ----------
    vocab_size : int
        Token ids are 0 .. vocab_size - 1.
    pad_id : int
        Token id of the padding.
    padding_side : {"right", "left"}
    max_length : int
        Longest row, special tokens included.
    type_vocab_size : int
        Token types are 0 .. type_vocab_size - 1.
    """

    vocab_size: int
    pad_id: int = 0
    padding_side: Literal["right", "left"] = "right"
    max_length: int = 512
    type_vocab_size: int = 1

    def batch(self, rows: int, length: int, *, seed: int, names: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
        """Draw a padded batch.

        Parameters
        ----------
        rows, length : int
            The first row fills the length, the others have at least one token.
        seed : int
        names : tuple of str
            Any of input_ids, attention_mask, token_type_ids.

        Returns
        -------
        dict
            {name: int64 of shape (rows, length)}. The padding id occurs only in the padding.
        """
        generator = np.random.default_rng((seed, rows, length))
        lengths = np.array([length, *generator.integers(1, length + 1, size=rows - 1)])
        positions = np.arange(length)
        mask = positions < lengths[:, None] if self.padding_side == "right" else positions >= length - lengths[:, None]
        ids = (
            generator.integers(self.vocab_size - 1, size=(rows, length))
            if self.vocab_size > 1
            else np.zeros((rows, length), dtype=np.int64)
        )
        ids = np.where(mask, ids + (ids >= self.pad_id) * (self.vocab_size > 1), self.pad_id)
        token_types = np.where(mask, generator.integers(self.type_vocab_size, size=(rows, length)), 0)
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": token_types}
        return {name: arrays[name].astype(np.int64) for name in names}


@dataclass(frozen=True)
class OnnxFile:
    """A written ONNX file.

    Attributes
    ----------
    path : Path
    bytes : int
        Size, external data included.
    opset : int
    route : str
        Exporter that made it.
    inputs, outputs : tuple of str
    passes : mapping
        {graph pass: number of changes} of the passes that changed something.
    """

    path: Path
    bytes: int
    opset: int
    route: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    passes: Mapping[str, int] = field(default_factory=dict)


class _Plain(nn.Module):
    """A model whose inputs and outputs are plain tensors."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(getattr(output, name) for name in self.outputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence tracing, which warns of every shape that is read in Python; the parity check detects those that matter."""
    loggers = [logging.getLogger(name) for name in _QUIET]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    inputs: tuple[str, ...],
    space: InputSpace,
    outputs: tuple[str, ...] | None = None,
    opset: int = OPSET,
    level: Level = "O1",
    route: Route = "torchscript",
    metadata: Mapping[str, str] | None = None,
) -> OnnxFile:
    """Write a model as ONNX.

    The file takes exactly `inputs`, each int64 of shape (batch_size, sequence_length), including those that a pruned graph no
    longer uses, so that a dense and a slim file take the same feeds. Axes of the outputs that grow with the input have the same
    names. Training modes and attention implementations are restored on return.

    Parameters
    ----------
    model : nn.Module
        A transformers model or a `ReadoutModel`, in float32, called with the inputs by name.
    path : path
        The file. Weights of more than 2 GB are written to `{path}_data` beside it.
    inputs : tuple of str
        Those of input_ids, attention_mask, token_type_ids that the architecture has.
    space : InputSpace
        Inputs from which valid ids are drawn for tracing.
    outputs : tuple of str, optional
        Fields of the model's output; default: the logits, those of start and end where answers are spans, or the last hidden state and
        the sentence embedding of an embedder.
    opset : int
        17 to 20.
    level : {"none", "O1"}
        Graph passes to run on the file, as in `prunekit.exporters.passes.optimize`.
    route : {"torchscript", "dynamo"}
        Exporter of torch.
    metadata : mapping, optional
        Text to store in the file, such as the plan's digest; the version of prunekit is added.

    Returns
    -------
    OnnxFile

    Raises
    ------
    ParameterError
        An opset out of range, a model that is not in float32, or that lacks an input or an output.
    ExportError
        If the exporter fails.
    OutputError
        If the file cannot be written.
    """
    path, outputs = Path(path), outputs or (EMBEDDED if isinstance(model, Embedder) else ENDS if answers_by_span(model) else ("logits",))
    _check(model, inputs, opset)
    with ExitStack() as stack:
        for context in (_quiet(), evaluating(model), traceable(model)):
            stack.enter_context(context)
        wrapper = _Plain(model, inputs, outputs).eval()
        try:
            axes = _dynamic_axes(wrapper, space)
            path.parent.mkdir(parents=True, exist_ok=True)
            # A temporary folder: above 2 GB the exporter writes one file for each weight.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".onnx-", dir=path.parent))
            raw, done = Path(folder) / "raw" / "model.onnx", Path(folder) / path.name
            raw.parent.mkdir()
            batch = space.batch(_TRACED[0], min(_TRACED[1], space.max_length), seed=0, names=inputs)
            _ROUTES[route](wrapper, _tensors(batch, model), raw, axes, opset)
            draw = partial(space.batch, seed=0, names=inputs)
            proto, passes = optimize(onnx.load(str(raw)), level, draw, space.max_length, save_model)
            _clean(proto, inputs, axes, {"prunekit.version": __version__, **(metadata or {})})
            save_model(proto, done)
            onnx.checker.check_model(str(done))
            move_model(done, path)
        except PrunekitError:
            raise
        except OSError as error:
            raise OutputError(f"The ONNX file {str(path)!r} cannot be written: {error.strerror or error}") from error
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, ImportError, onnx.checker.ValidationError) as error:
            raise ExportError(f"{type(model).__name__} cannot be exported to ONNX: {reason(error, 300)}") from error
    return OnnxFile(path, onnx_bytes(path), opset, route, inputs, outputs, passes)


def _torchscript(wrapper: _Plain, batch: tuple[Tensor, ...], path: Path, axes: Mapping[str, Mapping[int, str]], opset: int) -> None:
    torch.onnx.export(
        wrapper,
        batch,
        str(path),
        dynamo=False,
        opset_version=opset,
        input_names=list(wrapper.inputs),
        output_names=list(wrapper.outputs),
        dynamic_axes=axes,
        do_constant_folding=True,
    )


def _dynamo(wrapper: _Plain, batch: tuple[Tensor, ...], path: Path, axes: Mapping[str, Mapping[int, str]], opset: int) -> None:
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        wrapper,
        batch,
        str(path),
        dynamo=True,
        opset_version=opset,
        input_names=list(wrapper.inputs),
        output_names=list(wrapper.outputs),
        dynamic_shapes=(tuple(dynamic for _ in batch),),
        external_data=False,
        verbose=False,
    )


_ROUTES: dict[Route, Callable[..., None]] = {"torchscript": _torchscript, "dynamo": _dynamo}


def data_path(path: Path) -> Path:
    """Return the path of the weights of a file that is too large to hold them; loaders look for this name."""
    return path.with_name(f"{path.name}_data")


def onnx_bytes(path: Path) -> int:
    """Return the size of an ONNX file, external data included."""
    data = data_path(path)
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def check_opset(opset: int, *, of: str = "export_onnx") -> None:
    """Raise ParameterError if an operator set cannot be written."""
    if not _OPSETS[0] <= opset <= _OPSETS[1]:
        raise ParameterError("opset", of, f"{_OPSETS[0]} to {_OPSETS[1]}", opset)


def _check(model: nn.Module, inputs: tuple[str, ...], opset: int) -> None:
    check_opset(opset)
    if not inputs or not set(inputs) <= set(INPUTS):
        raise ParameterError("inputs", "export_onnx", f"of {', '.join(INPUTS)}", ", ".join(inputs) or "nothing")
    dtype = next(
        (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point() and parameter.dtype != torch.float32), None
    )
    if dtype is not None:
        raise ParameterError("model", "export_onnx", "in float32", str(dtype), "Call model.float() first.")


def _tensors(batch: Mapping[str, NDArray[np.int64]], model: nn.Module) -> tuple[Tensor, ...]:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return tuple(torch.from_numpy(array).to(device) for array in batch.values())


def _dynamic_axes(wrapper: _Plain, space: InputSpace) -> dict[str, dict[int, str]]:
    """Run the model with one more row, and with one fewer token: the axes of the outputs that change are dynamic."""
    length = min(_TRACED[1], space.max_length)
    shapes = (_TRACED[0], length), (_TRACED[0] + 1, length), (_TRACED[0], max(1, length - 1))
    try:
        traced, taller, shorter = (wrapper(*_tensors(space.batch(*shape, seed=0, names=wrapper.inputs), wrapper)) for shape in shapes)
    except (AttributeError, TypeError) as error:
        must = f"a model with inputs {', '.join(wrapper.inputs)} and outputs {', '.join(wrapper.outputs)}"
        raise ParameterError("model", "export_onnx", must, str(error)) from None
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in wrapper.inputs}
    for name, output, tall, short in zip(wrapper.outputs, traced, taller, shorter, strict=True):
        if not isinstance(output, Tensor):
            raise ParameterError("outputs", "export_onnx", "fields that the model fills with a tensor", name)
        sizes = enumerate(zip(output.shape, tall.shape, short.shape, strict=True))
        axes[name] = {
            at: "batch_size" if same != more else "sequence_length" for at, (same, more, less) in sizes if same != more or same != less
        }
    return axes


def _clean(proto: onnx.ModelProto, inputs: tuple[str, ...], axes: Mapping[str, Mapping[int, str]], metadata: Mapping[str, str]) -> None:
    graph = proto.graph
    _deduplicate(graph)
    # Shapes of intermediate values keep onnxruntime from fusing: a file without them is a tenth faster.
    del graph.value_info[:]
    declared = {value.name: value for value in graph.input}
    del graph.input[:]
    for name in inputs:
        unused = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch_size", "sequence_length"])
        graph.input.append(declared.get(name, unused))
    for value in graph.output:
        for axis, name in axes[value.name].items():
            # The exporter inserts its own name where it can derive how an axis is computed.
            value.type.tensor_type.shape.dim[axis].dim_param = name
    proto.doc_string = ""
    for part in (graph, *proto.functions):
        _forget_origin(part)
    onnx.helper.set_model_props(proto, dict(metadata))


def _forget_origin(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Clear what an exporter notes of where a node comes from: files of this machine, lines of code."""
    parts: list[Any] = [graph, *graph.node]
    if isinstance(graph, onnx.GraphProto):
        parts += [*graph.initializer, *graph.input, *graph.output]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            _forget_origin(inner)


def _deduplicate(graph: onnx.GraphProto) -> None:
    """Store equal weights once: constant folding transposes a shared weight separately for each layer that uses it."""
    names: dict[tuple[object, ...], str] = {}
    replacements: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        digest = hashlib.sha256(tensor.raw_data).digest() if tensor.raw_data else tensor.name.encode()
        name = names.setdefault((tensor.data_type, tuple(tensor.dims), digest), tensor.name)
        if name == tensor.name:
            kept.append(tensor)
        else:
            replacements[tensor.name] = name
    if not replacements:
        return
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    _rename(graph, replacements)


def _rename(graph: onnx.GraphProto, replacements: Mapping[str, str]) -> None:
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = replacements.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, replacements)


def save_model(proto: onnx.ModelProto, path: Path) -> None:
    """Write a model to one file, or above 2 GB to a small one and its weights to `data_path` beside it."""
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if size < SINGLE_FILE:
        onnx.save_model(proto, str(path))
    else:
        onnx.save_model(
            proto, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=data_path(path).name, size_threshold=1024
        )


def move_model(done: Path, path: Path) -> None:
    """Put a finished file and its data in place."""
    data_path(path).unlink(missing_ok=True)
    if data_path(done).is_file():
        data_path(done).replace(data_path(path))
    done.replace(path)


def sample_space(config: Any, *, pad_id: int | None = None, padding_side: Literal["right", "left"] = "right") -> InputSpace:
    """Return the input space that a transformers config describes.

    Parameters
    ----------
    config : PretrainedConfig
    pad_id : int, optional
        Default: the config's padding token, or 0.
    padding_side : {"right", "left"}
    """
    pad = max(0, getattr(config, "pad_token_id", None) or 0) if pad_id is None else pad_id
    length = positions_of(config, pad) or 512
    return InputSpace(config.vocab_size, pad, padding_side, length, max(1, getattr(config, "type_vocab_size", 1) or 1))
