"""Check that the deployed file computes what the PyTorch model computes; no file is kept without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunekit.errors import ParityError
from prunekit.exporters.onnx import InputSpace
from prunekit.exporters.tracing import evaluating
from prunekit.runtime.records import Parity, ShapeParity
from prunekit.runtime.session import OnnxSession
from prunekit.transforms.readout_head import ReadoutModel

SHAPES = ((1, 1), (1, 5), (2, 9), (4, 1), (3, 32))
LONGEST = 1024  # tokens: beyond them the attention of a long-context model would exhaust the memory
TOLERANCE = 1e-4
# float32 has 7 digits, of which a deep model loses two: a large output may differ by more than a small one.
RELATIVE = 1e-5
# A readout of neurons that hardly vary has large weights, whose products cancel: each of them adds the rounding of its neuron.
ROUNDING = 1e-6


def check_parity(
    path: str | Path,
    model: nn.Module,
    *,
    inputs: tuple[str, ...],
    space: InputSpace,
    tolerance: float = TOLERANCE,
    relative: float = RELATIVE,
    shapes: Sequence[tuple[int, int]] | None = None,
    batches: Sequence[Mapping[str, NDArray[np.int64]]] = (),
    seed: int = 0,
    device: str = "cpu",
) -> Parity:
    """Compare an ONNX file with the PyTorch model, as it is, on padded batches of several shapes.

    Outputs of one row per token are compared where the attention mask is 1: outputs of padding are not used.

    Parameters
    ----------
    path : path
        The ONNX file.
    model : nn.Module
        Called with `inputs` by name; its output has the file's outputs as fields. Training modes are restored.
    inputs : tuple of str
    space : InputSpace
        Inputs that are drawn from; shapes longer than its `max_length` are cut to it.
    tolerance : float
        Largest absolute difference allowed.
    relative : float
        Additional tolerance, as a share of the largest absolute value that the model gives on the batch; a readout may also differ by
        1e-6 of the sum of the magnitudes that its outputs are added up from.
    shapes : sequence of (int, int), optional
        Rows and length of the random batches; default: `SHAPES`, and two rows of the space's longest, of at most 1,024 tokens.
    batches : sequence of mapping
        Real batches to compare as well, {name: int64 of shape (batch, length)}.
    seed : int
        Seed of the random batches.
    device : {"cpu", "cuda"}
        Where the file runs; on CUDA in full float32.

    Returns
    -------
    Parity

    Raises
    ------
    ParityError
        If an output differs by more than the tolerance, is not finite, or has another shape.
    ModelError
        If the file cannot be loaded or run.
    """
    session = OnnxSession(path, device=device, tf32=False)
    shapes = (*SHAPES, (2, min(space.max_length, LONGEST))) if shapes is None else shapes
    sizes = dict.fromkeys((rows, min(length, space.max_length)) for rows, length in shapes)
    drawn = [space.batch(rows, length, seed=seed, names=inputs) for rows, length in sizes]
    results = []
    with evaluating(model):
        for batch in (*drawn, *batches):
            result = _compare(session, model, {name: batch[name] for name in inputs}, batch.get("attention_mask"))
            allowed = tolerance + relative * result.largest + ROUNDING * result.addends
            if not result.max_abs_difference <= allowed:
                raise ParityError(
                    f"The ONNX file differs from the PyTorch model by {result.max_abs_difference:.3g} at batch {result.batch} x length "
                    f"{result.length}; {allowed:.3g} is allowed. The file was not kept."
                )
            results.append(result)
    return Parity(max(result.max_abs_difference for result in results), tolerance, relative, tuple(results), seed)


def _compare(
    session: OnnxSession, model: nn.Module, batch: Mapping[str, NDArray[np.int64]], attention_mask: NDArray[np.int64] | None
) -> ShapeParity:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with _addends(model) as sums:
        expected: Any = model(**{name: torch.from_numpy(array).to(device) for name, array in batch.items()})
    rows, length = next(iter(batch.values())).shape
    mask = np.ones((rows, length), dtype=bool) if attention_mask is None else attention_mask.astype(bool)
    difference = largest = 0.0
    for name, output in session(batch).items():
        reference: NDArray[Any] = getattr(expected, name).float().cpu().numpy()
        where = f"output {name!r} at batch {rows} x length {length}"
        if output.shape != reference.shape:
            raise ParityError(
                f"The ONNX file gives shape {output.shape} for {where}, the PyTorch model gives {reference.shape}. The file was not kept."
            )
        if name in session.per_token:
            output, reference = output[mask], reference[mask]
        for source, values in (("The ONNX file", output), ("The PyTorch model", reference)):
            if not np.isfinite(values).all():
                raise ParityError(f"{source} gives NaN or infinity for {where}. The file was not kept.")
        difference = max(difference, float(np.abs(output - reference).max()))
        largest = max(largest, float(np.abs(reference).max()))
    return ShapeParity(rows, length, difference, largest, max(sums, default=0.0))


@contextmanager
def _addends(model: nn.Module) -> Iterator[list[float]]:
    """Record the largest sum of magnitudes behind an output of a readout, for each call within the block."""
    sums: list[float] = []
    if not isinstance(model, ReadoutModel):
        yield sums
        return

    def add_up(readout: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        weight, bias = readout.get_parameter("weight"), readout.get_parameter("bias")
        sums.append(float(nn.functional.linear(arguments[0].abs(), weight.abs(), bias.abs()).max()))

    with model.readout.register_forward_pre_hook(add_up):
        yield sums
