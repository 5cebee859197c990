"""Candidates of a comparison: ``NAME=BACKEND:PATH`` as files that a backend can load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prunekit.arch.folder import WEIGHTS
from prunekit.benchmark.backends import BACKENDS
from prunekit.benchmark.backends.base import INPUTS, Backend, ModelFiles
from prunekit.benchmark.counts import read_graph
from prunekit.errors import ModelError, ParameterError
from prunekit.exporters.manifest import PLAN
from prunekit.plan import Plan

_ONNX = ("onnx/model.onnx", "model.onnx")


@dataclass(frozen=True)
class Candidate:
    """One model on one backend.

    Attributes
    ----------
    name : str
        Unique name.
    backend : Backend
    source : ModelFiles
    """

    name: str
    backend: Backend
    source: ModelFiles


def parse(specs: Sequence[str], backends: Sequence[str]) -> tuple[Candidate, ...]:
    """Read candidates as the command line writes them.

    Parameters
    ----------
    specs : sequence of str
        ``[NAME=][BACKEND:]PATH``: an ONNX file, or a directory with one or with a checkpoint.
    backends : sequence of str
        For a spec that names no backend: one candidate for each of these.

    Returns
    -------
    tuple of Candidate
        In the order given.

    Raises
    ------
    ParameterError
        An unknown backend, or two candidates of one name.
    ModelError
        A path that is neither.
    """
    for name in backends:
        _check_backend(name)
    candidates: list[Candidate] = []
    for spec in specs:
        label, path, own_backend = _split(spec)
        source = source_of(path)
        for backend in (own_backend,) if own_backend else tuple(backends):
            name = label or _label(path)
            # The backend is part of the name where it is not the default, or where it alone distinguishes two candidates.
            plain = backend == "ort" and len(backends) == 1
            candidates.append(
                Candidate(
                    name if (label and (own_backend or len(backends) == 1)) or plain else f"{name} {backend}", BACKENDS[backend], source
                )
            )
    return told_apart(candidates)


def path_of(spec: str) -> Path:
    """Return the path that a spec names."""
    return _split(spec)[1]


def _check_backend(name: str) -> None:
    if name not in BACKENDS:
        raise ParameterError("backend", "bench", f"one of {', '.join(BACKENDS)}", name)


def _split(spec: str) -> tuple[str, Path, str]:
    if Path(spec).exists():
        return "", Path(spec), ""
    label, equals, rest = spec.partition("=")
    if not equals:
        label, rest = "", spec
    backend, colon, path = rest.partition(":")
    if not colon or Path(rest).exists():
        return label, Path(rest), ""
    _check_backend(backend)
    return label, Path(path), backend


def _label(path: Path) -> str:
    """Return the name of the directory, or of the file; for onnx/model.onnx, of the directory that contains onnx/."""
    resolved = path.resolve()
    if resolved.suffix != ".onnx":
        return resolved.name
    holder = resolved.parent.parent if resolved.parent.name == "onnx" else resolved.parent
    return (
        holder.name if resolved.stem == "model" else f"{holder.name}/{resolved.stem}" if resolved.parent.name == "onnx" else resolved.stem
    )


def told_apart(found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Number candidates of the same name from the second on, so that a model can be compared with itself."""
    seen: Counter[str] = Counter()
    renamed = []
    for candidate in found:
        seen[candidate.name] += 1
        count = seen[candidate.name]
        renamed.append(candidate if count == 1 else replace(candidate, name=f"{candidate.name} #{count}"))
    return tuple(renamed)


def source_of(path: Path) -> ModelFiles:
    """Find the files of a candidate.

    Raises
    ------
    ModelError
        No such path, or nothing in it that can be run.
    PlanError
        An invalid plan.json.
    """
    path = path.expanduser()
    if path.is_file():
        folder = next((parent for parent in path.resolve().parents[:2] if (parent / "config.json").is_file()), None)
        return ModelFiles(path, path, folder, _plan(folder))
    if not path.is_dir():
        raise ModelError(f"The model {str(path)!r} does not exist. Give an ONNX file, or a directory with one or with a checkpoint.")
    onnx = next((path / name for name in _ONNX if (path / name).is_file()), None)
    weights = any((path / name).is_file() for name in WEIGHTS)
    if onnx is None and not weights:
        raise ModelError(f"The directory {str(path)!r} has no model: neither {' nor '.join((*_ONNX, WEIGHTS[0]))} is there.")
    folder = path if (path / "config.json").is_file() else None
    return ModelFiles(path, onnx, folder, _plan(folder))


def _plan(folder: Path | None) -> str | None:
    """Return the digest of the plan in a directory; raise PlanError where the plan is invalid."""
    return Plan.load(folder / PLAN).digest if folder is not None and (folder / PLAN).is_file() else None


def prepare(candidate: Candidate, scratch: Path) -> Candidate:
    """Return the candidate with the files that its backend reads: a checkpoint without an ONNX file is exported into `scratch`.

    Raises
    ------
    ModelError
        A backend that reads checkpoints, and an ONNX file alone; an ONNX file that does not take tokens.
    ExportError
        A checkpoint that cannot be exported.
    """
    source, backend = candidate.source, candidate.backend
    if backend.reads == "checkpoint":
        if source.folder is None or not any((source.folder / name).is_file() for name in WEIGHTS):
            raise ModelError(f"The backend {backend.name!r} reads a checkpoint; {str(source.path)!r} has none.")
        return candidate
    if source.onnx is not None:
        _check_inputs(source.onnx)
        return candidate
    assert source.folder is not None
    # PyTorch is only needed where a file has to be exported.
    from prunekit.exporters.export import export

    exported = export(source.folder, scratch / f"{len(list(scratch.iterdir()))}")
    return replace(candidate, source=replace(source, onnx=exported.path / _ONNX[0]))


def _check_inputs(path: Path) -> None:
    graph = read_graph(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    unknown = [value.name for value in graph.input if value.name not in (*INPUTS, *stored)]
    if unknown:
        shown = ", ".join(ascii(name[:40])[1:-1] for name in unknown[:3])
        raise ModelError(f"The ONNX file {str(path)!r} takes {shown}; what can be timed takes some of {', '.join(INPUTS)}.")
