"""Whether a directory is, byte for byte, what prunekit wrote, and whether its ONNX files still answer what they answered then."""

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
#: Largest difference as a share of the largest answer, by the end of a file's name: processors round differently, int8 most.
_APART = {"_quantized.onnx": 0.1, "_fp16.onnx": 0.02}
_EXACT = 1e-3
_INPUT, _OUTPUT = "input/", "output/"


def write_probe(folder: Path, space: InputSpace, names: tuple[str, ...], *, seed: int = 0) -> None:
    """Write a few random rows, and what each ONNX file of a directory answers on them, to probe.safetensors.

    Parameters
    ----------
    folder : Path
        The directory, its ONNX files complete.
    space : InputSpace
        What the model may be given.
    names : tuple of str
        Its inputs.
    seed : int
    """
    rows, length = _SHAPE
    batch = space.batch(rows, min(length, space.max_length), seed=seed, names=names)
    stored: dict[str, NDArray[Any]] = {f"{_INPUT}{name}": np.ascontiguousarray(array) for name, array in batch.items()}
    for path in _files(folder):
        for name, answer in OnnxSession(path)(batch).items():
            stored[f"{_OUTPUT}{path.relative_to(folder).as_posix()}/{name}"] = np.ascontiguousarray(answer)
    save_file(stored, folder / PROBE)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "onnx").glob("*.onnx"))


def verify(folder: Path) -> Foreign | None:
    """Check a directory that prunekit wrote.

    Returns
    -------
    Foreign or None
        The first file that is not what was written, and why; None where all are.
    """
    try:
        manifest = Manifest.load(folder)
    except ReadError as error:
        return Foreign(MANIFEST, str(error))
    missing = next((name for name in sorted(manifest.files) if not (folder / name).is_file()), None)
    if missing is not None:
        return Foreign(missing, "it is missing")
    found = foreign(folder)
    if found is not None:
        return found
    if PLAN in manifest.files:
        try:
            digest = Plan.load(folder / PLAN).digest
        except PlanError as error:
            return Foreign(PLAN, str(error))
        if digest != manifest.plan:
            return Foreign(PLAN, "its digest is not the manifest's")
    return _answers(folder) if PROBE in manifest.files else None


def _answers(folder: Path) -> Foreign | None:
    """The first ONNX file whose answers on the stored rows are others than they were."""
    try:
        stored = load_file(folder / PROBE)
    except (SafetensorError, OSError) as error:
        return Foreign(PROBE, str(error))
    batch = {name.removeprefix(_INPUT): array for name, array in stored.items() if name.startswith(_INPUT)}
    for path in _files(folder):
        shown = path.relative_to(folder).as_posix()
        try:
            answers = OnnxSession(path)(batch)
        except ModelError as error:
            return Foreign(shown, str(error))
        allowed = next((share for end, share in _APART.items() if shown.endswith(end)), _EXACT)
        for name, got in answers.items():
            want = stored.get(f"{_OUTPUT}{shown}/{name}")
            if want is None or want.shape != got.shape:
                return Foreign(shown, f"{PROBE} holds no answer of its output {name!r} of this shape")
            apart = float(np.abs(got.astype(np.float64) - want).max(initial=0.0))
            if not apart <= allowed * max(1e-3, float(np.abs(want).max(initial=0.0))):
                return Foreign(shown, f"its output {name!r} differs by {apart:.3g} from what it answered when it was made")
    return None
