"""Whether the deployed file computes what the PyTorch model computes; nothing ships without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunekit.errors import ParityError
from prunekit.exporters.onnx import InputSpace
from prunekit.exporters.tracing import evaluating
from prunekit.runtime.records import Parity, ShapeParity
from prunekit.runtime.session import OnnxSession

SHAPES = ((1, 1), (1, 5), (2, 9), (4, 1), (3, 32))
LONGEST = 1024  # tokens: beyond them the attention of a long-context model would fill the memory
TOLERANCE = 1e-4
# float32 has 7 digits, of which a deep model loses two: a large output may differ by more than a small one.
RELATIVE = 1e-5


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

    Outputs of one row per token are compared where the attention mask is 1: what a model computes for padding is nobody's.

    Parameters
    ----------
    path : path
        The ONNX file.
    model : nn.Module
        Called with `inputs` by name; its output has the file's outputs as fields. Training modes are as before afterwards.
    inputs : tuple of str
    space : InputSpace
        What may be drawn; shapes longer than its `max_length` are cut to it.
    tolerance : float
        Largest absolute difference allowed.
    relative : float
        What is allowed on top, as a share of the largest absolute value that the model gives on the batch.
    shapes : sequence of (int, int), optional
        Rows and length of the random batches; default: `SHAPES`, and two rows of the space's longest, of at most 1,024 tokens.
    batches : sequence of mapping
        Real batches to compare as well, {name: int64 of shape (batch, length)}.
    seed : int
        Of the random batches.
    device : {"cpu", "cuda"}
        Where the file runs; on CUDA in full float32.

    Returns
    -------
    Parity

    Raises
    ------
    ParityError
        If an output differs by more than what is allowed, is not finite, or has another shape.
    ModelError
        If the file cannot be loaded or run.
    """
    session = OnnxSession(path, device=device, tf32=False)
    shapes = (*SHAPES, (2, min(space.max_length, LONGEST))) if shapes is None else shapes
    cut = dict.fromkeys((rows, min(length, space.max_length)) for rows, length in shapes)
    drawn = [space.batch(rows, length, seed=seed, names=inputs) for rows, length in cut]
    found = []
    with evaluating(model):
        for batch in (*drawn, *batches):
            row = _compare(session, model, {name: batch[name] for name in inputs}, batch.get("attention_mask"))
            allowed = tolerance + relative * row.largest
            if not row.max_abs_difference <= allowed:
                raise ParityError(
                    f"The ONNX file differs from the PyTorch model by {row.max_abs_difference:.3g} at batch {row.batch} x length "
                    f"{row.length}; {allowed:.3g} is allowed. The file was not kept."
                )
            found.append(row)
    return Parity(max(row.max_abs_difference for row in found), tolerance, relative, tuple(found), seed)


def _compare(
    session: OnnxSession, model: nn.Module, batch: Mapping[str, NDArray[np.int64]], attention_mask: NDArray[np.int64] | None
) -> ShapeParity:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    expected: Any = model(**{name: torch.from_numpy(array).to(device) for name, array in batch.items()})
    rows, length = next(iter(batch.values())).shape
    mask = np.ones((rows, length), dtype=bool) if attention_mask is None else attention_mask.astype(bool)
    apart = largest = 0.0
    for name, got in session(batch).items():
        want: NDArray[Any] = getattr(expected, name).float().cpu().numpy()
        where = f"output {name!r} at batch {rows} x length {length}"
        if got.shape != want.shape:
            raise ParityError(
                f"The ONNX file gives shape {got.shape} for {where}, the PyTorch model gives {want.shape}. The file was not kept."
            )
        if name in session.per_token:
            got, want = got[mask], want[mask]
        for whose, values in (("The ONNX file", got), ("The PyTorch model", want)):
            if not np.isfinite(values).all():
                raise ParityError(f"{whose} gives NaN or infinity for {where}. The file was not kept.")
        apart = max(apart, float(np.abs(got - want).max()))
        largest = max(largest, float(np.abs(want).max()))
    return ShapeParity(rows, length, apart, largest)
