"""Alternatives to a slim model, made from the model that it came from."""

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
    """Return the dense model of an artefact as candidates, on other backends and in int8.

    Parameters
    ----------
    names : sequence of str
        Of `RIVALS`: "dense" is the dense model on onnxruntime, "dense-int8" the same in int8, the others are backends.
    models : sequence of Candidate
        The recipe of the first that prunekit wrote names the dense model.
    device : {"cpu", "cuda"}
        For onnxruntime.
    scratch : Path
        Directory of the files made.

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

    origin, revision = _origin(models)
    ort = BACKENDS["ort-cuda" if device == "cuda" else "ort"]
    dense = source_of(export(origin, scratch / _DENSE, revision=revision).path)
    int8 = (
        export(origin, scratch / _INT8, dtype="int8", revision=revision).path / "onnx" / "model_quantized.onnx" if _INT8 in names else None
    )
    candidates = []
    for name in names:
        if name == _INT8:
            assert int8 is not None
            candidates.append(Candidate(name, ort, source_of(int8)))
        elif name == _DENSE:
            candidates.append(Candidate(name, ort, dense))
        else:
            backend = BACKENDS[name]
            source = dense if backend.reads == "onnx" else source_of(_checkpoint(origin, revision))
            candidates.append(Candidate(f"dense {name}", backend, source))
    return tuple(candidates)


def _checkpoint(origin: str, revision: str | None) -> Path:
    """Return the directory of a model that was just loaded; for a hub name, the one in the cache."""
    path = Path(origin).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(origin, revision=revision, local_files_only=True))


def _origin(models: Sequence[Candidate]) -> tuple[str, str | None]:
    """Return the name and the revision of the model that the first artefact was made from."""
    from prunekit.recipe import Recipe

    for candidate in models:
        folder = candidate.source.folder
        if folder is not None and (folder / RECIPE).is_file():
            recipe = Recipe.load(folder / RECIPE)
            if recipe.model is not None:
                return str(recipe.model), recipe.revision
    raise ModelError(f"No model says what it was made from: --against needs a directory that compress wrote, with its {RECIPE}.")
