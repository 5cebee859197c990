"""Verification of a directory: its bytes are those that prunekit wrote, and its ONNX files still give the outputs recorded then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from prunekit.errors import ModelError, PlanError
from prunekit.exporters.manifest import MANIFEST, PLAN, Foreign, Manifest, foreign
from prunekit.exporters.onnx import InputSpace
from prunekit.plan import Plan
from prunekit.runtime.session import OnnxSession
from prunekit.validation.reading import ReadError

PROBE = "probe.safetensors"
_SHAPE = (3, 8)
#: Largest difference as a share of the largest output, by the end of a file's name: processors round differently, int8 most.
_TOLERANCES = {"_quantized.onnx": 0.1, "_fp16.onnx": 0.02}
_DEFAULT_TOLERANCE = 1e-3
_INPUT, _OUTPUT = "input/", "output/"


def write_probe(folder: Path, space: InputSpace, names: tuple[str, ...], *, seed: int = 0) -> None:
    """Write a few random rows, and the outputs of each ONNX file of a directory on them, to probe.safetensors.

    Parameters
    ----------
    folder : Path
        Directory with complete ONNX files.
    space : InputSpace
        Inputs that the model accepts.
    names : tuple of str
        Names of the inputs.
    seed : int
    """
    rows, length = _SHAPE
    batch = space.batch(rows, min(length, space.max_length), seed=seed, names=names)
    stored: dict[str, NDArray[Any]] = {f"{_INPUT}{name}": np.ascontiguousarray(array) for name, array in batch.items()}
    for path in _files(folder):
        for name, output in OnnxSession(path)(batch).items():
            stored[f"{_OUTPUT}{path.relative_to(folder).as_posix()}/{name}"] = np.ascontiguousarray(output)
    save_file(stored, folder / PROBE)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "onnx").glob("*.onnx"))


def verify(folder: Path) -> Foreign | None:
    """Check a directory that prunekit wrote.

    Returns
    -------
    Foreign or None
        The first file that differs from what was written, with the reason; None if there is none.
    """
    try:
        manifest = Manifest.load(folder)
    except ReadError as error:
        return Foreign(MANIFEST, str(error))
    missing = next((name for name in sorted(manifest.files) if not (folder / name).is_file()), None)
    if missing is not None:
        return Foreign(missing, "it is missing")
    entry = foreign(folder)
    if entry is not None:
        return entry
    if PLAN in manifest.files:
        try:
            digest = Plan.load(folder / PLAN).digest
        except PlanError as error:
            return Foreign(PLAN, str(error))
        if digest != manifest.plan:
            return Foreign(PLAN, "its digest is not the manifest's")
    return _changed_output(folder) if PROBE in manifest.files else None


def _changed_output(folder: Path) -> Foreign | None:
    """Return the first ONNX file whose outputs on the stored rows differ from the stored ones."""
    try:
        stored = load_file(folder / PROBE)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two of types that numpy does not have
        return Foreign(PROBE, str(error))
    batch = {name.removeprefix(_INPUT): array for name, array in stored.items() if name.startswith(_INPUT)}
    if not all(array.dtype == np.int64 and array.ndim == 2 and (np.array(array.shape) <= _SHAPE).all() for array in batch.values()):
        return Foreign(PROBE, "its rows are not of the sizes that prunekit writes")
    for path in _files(folder):
        file = path.relative_to(folder).as_posix()
        try:
            outputs = OnnxSession(path)(batch)
        except ModelError as error:
            return Foreign(file, str(error))
        tolerance = next((share for end, share in _TOLERANCES.items() if file.endswith(end)), _DEFAULT_TOLERANCE)
        for name, output in outputs.items():
            if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiub":
                return Foreign(file, f"its output {name!r} holds no numbers")
            reference = stored.get(f"{_OUTPUT}{file}/{name}")
            if reference is None or reference.shape != output.shape:
                return Foreign(file, f"{PROBE} holds no answer of its output {name!r} of this shape")
            difference = float(np.abs(output.astype(np.float64) - reference).max(initial=0.0))
            if not difference <= tolerance * max(1e-3, float(np.abs(reference).max(initial=0.0))):
                return Foreign(file, f"its output {name!r} differs by {difference:.3g} from what it answered when it was made")
    return None
