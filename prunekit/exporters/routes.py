"""Routes from a model to a file, in the order in which they are tried; a file that is kept has passed the parity check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from prunekit.arch.spec import ArchSpec
from prunekit.errors import ExportError, ModelError
from prunekit.exporters.onnx import OnnxFile, Route, data_path
from prunekit.exporters.passes import Level
from prunekit.runtime.records import Parity

#: TorchScript works for every family, takes a tenth of the time, and its graphs quantise better.
ROUTES: tuple[Route, ...] = ("torchscript", "dynamo")


@dataclass(frozen=True, eq=False)
class Routed:
    """An exported file, its parity check and the routes that failed before it.

    Attributes
    ----------
    file : OnnxFile
    level : str
        Level of the graph passes that were run on it.
    parity : Parity
    failed : tuple of str
        One line for each route that failed.
    """

    file: OnnxFile
    level: Level
    parity: Parity
    failed: tuple[str, ...]


def routes_of(spec: ArchSpec) -> tuple[Route, ...]:
    """Return the routes of a family in the order in which they are tried."""
    return ROUTES if spec.torch_export else ("torchscript",)


def export_by_route(
    attempt: Callable[[Route, Level], OnnxFile],
    check: Callable[[Path], Parity],
    path: Path,
    *,
    routes: tuple[Route, ...],
    level: Level = "O1",
) -> Routed:
    """Export by the first route whose file computes what the model computes: each exporter with the graph passes, then without.

    Parameters
    ----------
    attempt : callable
        Writes the file to `path` by a route and with passes.
    check : callable
        Compares the file with the model; raises ExportError or ModelError.
    path : Path
    routes : tuple of str
        Exporters, in the order in which they are tried.
    level : {"none", "O1"}
        Level of the graph passes.

    Returns
    -------
    Routed

    Raises
    ------
    ExportError
        That of the first route, if none works; nothing is left at `path`.
    """
    levels: tuple[Level, ...] = (level,) if level == "none" else (level, "none")
    first: ExportError | ModelError | None = None
    failed: list[str] = []
    for route, passes in product(routes, levels):
        try:
            return Routed(attempt(route, passes), passes, check(path), tuple(failed))
        except (ExportError, ModelError) as error:
            first = first or error
            failed.append(f"{route}, passes {passes}: {error}")
            for leftover in (path, data_path(path)):
                leftover.unlink(missing_ok=True)
    assert first is not None
    raise first
