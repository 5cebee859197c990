"""What a user would pick instead of a slim model, made from the model that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunekit.benchmark.backends import BACKENDS
from prunekit.benchmark.candidates import Candidate, source_of
from prunekit.errors import ModelError, ParameterError
from prunekit.exporters.artefact import RECIPE

_DENSE, _INT8 = "dense", "dense-int8"
RIVALS = (_DENSE, _INT8, *(name for name in BACKENDS if name not in ("ort", "ort-cuda")))


def rivals(names: Sequence[str], models: Sequence[Candidate], device: str, scratch: Path) -> tuple[Candidate, ...]:
    """The dense model of an artefact, on other backends and in int8.

    Parameters
    ----------
    names : sequence of str
        Of `RIVALS`: "dense" is the dense model on onnxruntime, "dense-int8" the same in int8, the others are backends.
    models : sequence of Candidate
        The first that prunekit wrote says in its recipe what it was made from.
    device : {"cpu", "cuda"}
        For onnxruntime.
    scratch : Path
        Where files are made.

    Returns
    -------
    tuple of Candidate
        In the order of `names`.

    Raises
    ------
    ParameterError
        An unknown name.
    ModelError
        No candidate names the model it was made from, or that is no longer there.
    """
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise ParameterError("against", "bench", f"some of {', '.join(RIVALS)}", ", ".join(unknown))
    if not names:
        return ()
    from prunekit.exporters.export import export

    origin = _origin(models)
    ort = BACKENDS["ort-cuda" if device == "cuda" else "ort"]
    dense = source_of(export(origin, scratch / _DENSE).path)
    int8 = export(origin, scratch / _INT8, dtype="int8").path / "onnx" / "model_quantized.onnx" if _INT8 in names else None
    found = []
    for name in names:
        if name == _INT8:
            assert int8 is not None
            found.append(Candidate(name, ort, source_of(int8)))
        elif name == _DENSE:
            found.append(Candidate(name, ort, dense))
        else:
            backend = BACKENDS[name]
            found.append(Candidate(f"dense {name}", backend, dense if backend.reads == "onnx" else source_of(_checkpoint(origin))))
    return tuple(found)


def _checkpoint(origin: str) -> Path:
    """The directory of a model that was just loaded; of a hub name that in the cache."""
    path = Path(origin).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(origin, local_files_only=True))


def _origin(models: Sequence[Candidate]) -> str:
    from prunekit.recipe import Recipe

    for candidate in models:
        folder = candidate.source.folder
        if folder is not None and (folder / RECIPE).is_file():
            recipe = Recipe.load(folder / RECIPE)
            if recipe.model is not None:
                return str(recipe.model)
    raise ModelError(f"No model says what it was made from: --against needs a directory that compress wrote, with its {RECIPE}.")
