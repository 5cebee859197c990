"""The latency table of this machine: measured once for a model's shape, then read from a file that says how it came about.

A few slim copies of the model, at widths from which all prices can be told apart, each take turns with the dense file, as in the
measurement that a budget is held against. The table is kept in ``~/.cache/prunekit``, or where ``PRUNEKIT_CACHE`` says.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prunekit.arch.view import ModelView
from prunekit.exporters.onnx import OPSET, InputSpace, export_onnx
from prunekit.plan import Plan, ffn_units, kept_blocks
from prunekit.pruning.latency_model import LatencyTable, Prices, Widths, fit_table, probes
from prunekit.runtime.records import environment
from prunekit.runtime.session import OnnxSession
from prunekit.runtime.timing import compare, stopwatch
from prunekit.scratch import temporary
from prunekit.stats.blocks import sites
from prunekit.transforms.apply import apply
from prunekit.transforms.cut import prunable

CACHE = "PRUNEKIT_CACHE"
_VERSION = 4
_LENGTHS = 8


@dataclass(frozen=True, eq=False)
class Timed:
    """What is timed, and how.

    Attributes
    ----------
    model : nn.Module
        The model that plans are applied to.
    dense : nn.Module
        What it is deployed as, to which times are compared.
    base : Plan
        What every slim model keeps: its blocks and its readout.
    inputs : tuple of str
        Of the ONNX files.
    space : InputSpace
    lengths : ndarray of int
        Real lengths of rows as they come in use, tokens.
    threads : int
        Processor threads.
    """

    model: nn.Module
    dense: nn.Module
    base: Plan
    inputs: tuple[str, ...]
    space: InputSpace
    lengths: NDArray[np.integer]
    threads: int = 1

    def shapes(self, batch: int) -> tuple[tuple[int, int], ...]:
        """(rows, length) of the batches that are timed: lengths at even quantiles of the data's."""
        places = (np.arange(_LENGTHS) + 0.5) / _LENGTHS
        return tuple((batch, int(length)) for length in np.quantile(self.lengths, places, method="nearest"))

    def plan_of(self, widths: Widths) -> Plan:
        """A plan with these widths; which units it keeps does not change the time."""
        blocks, source = kept_blocks(self.base), self.base.source
        heads = {block: tuple(range(kept)) for block, kept in zip(blocks, widths.heads, strict=True) if kept < source.heads}
        gone = self.base.affine or ()
        ffn = {block: tuple(range(kept)) for block, kept in zip(blocks, widths.ffn, strict=True) if kept < source.ffn and block not in gone}
        return Plan.model_validate({**dict(self.base), "heads": heads, "ffn": ffn})

    def possible(self, widths: Widths) -> Widths:
        """The same, with no more than is left of the sub-blocks that have lost units."""
        blocks, left = kept_blocks(self.base), (self.base.heads, ffn_units(self.base))
        heads, ffn = (
            tuple(min(kept, len(units[block])) if block in units else kept for block, kept in zip(blocks, each, strict=True))
            for each, units in zip((widths.heads, widths.ffn), left, strict=True)
        )
        return Widths(heads, ffn)

    def export(self, model: nn.Module, path: Path) -> Path:
        """A model as a file."""
        return export_onnx(model, path, inputs=self.inputs, space=self.space).path

    def share(self, dense: Path, slim: Path, batch: int, *, seed: int = 0, max_seconds: float = 2.0) -> float:
        """Time of a file as a share of the dense one's, the two taking turns."""
        shapes = self.shapes(batch)
        sessions = {name: OnnxSession(path, threads=self.threads) for name, path in (("dense", dense), ("slim", slim))}
        feeds = [self.space.batch(rows, length, seed=seed, names=self.inputs) for rows, length in shapes]
        found = compare(
            {name: partial(_run, session, feeds) for name, session in sessions.items()},
            range(len(shapes)),
            baseline="dense",
            shapes=shapes,
            min_rounds=3 * len(shapes) if batch == 1 else len(shapes),
            max_seconds=max_seconds,
            warmup=1,
            threads=self.threads,
            lap=stopwatch(self.threads),
        )
        return 1 / found.ratio("slim").value


def _run(session: OnnxSession, feeds: Sequence[dict[str, NDArray[np.int64]]], at: int) -> None:
    session.run(feeds[at])


def latency_table(timed: Timed, batch: int, *, progress: Callable[[int, int], None] | None = None) -> LatencyTable:
    """The table for one batch size: from the cache, or measured and then cached.

    Parameters
    ----------
    timed : Timed
    batch : int
        Rows in a batch.
    progress : callable, optional
        Called with (models measured, models in all).

    Returns
    -------
    LatencyTable

    Raises
    ------
    DependencyError, ExportError, ModelError
        If a model cannot be exported or run.
    """
    key = _key(timed, batch)
    path = cache_folder() / "latency" / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.json"
    known = _read(path, key)
    if known is not None:
        return known
    view = ModelView.of(timed.model)
    blocks, source = len(kept_blocks(timed.base)), timed.base.source
    may = {role: all(prunable(view, site) for site in sites(view) if site.role == role) for role in ("heads", "ffn")}
    design = probes(blocks, source.heads, source.ffn, cut_heads=may["heads"], cut_ffn=may["ffn"], even=bool(view.spec.shared_blocks))
    full = Widths((source.heads,) * blocks, (source.ffn,) * blocks)
    measured: list[tuple[Widths, float]] = []
    with temporary() as folder:
        dense = timed.export(timed.dense, folder / "dense.onnx")
        for widths in map(timed.possible, (full, *design)):
            slim = timed.export(apply(timed.model, timed.plan_of(widths)), folder / "slim.onnx")
            measured.append((widths, timed.share(dense, slim, batch)))
            if progress is not None:
                progress(len(measured), len(design) + 1)
    table = fit_table(measured, batch=batch)
    _write(path, key, table, measured)
    return table


def cache_folder() -> Path:
    """Where measurements of this machine are kept."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "prunekit")


def _key(timed: Timed, batch: int) -> dict[str, Any]:
    """Everything that the times depend on."""
    machine = environment()
    config: Any = getattr(timed.model, "config")  # noqa: B009 - nn.Module types attributes as tensors
    return {
        "version": _VERSION,
        "model": type(timed.model).__name__,
        "dense": type(timed.dense).__name__,
        "source": timed.base.source.model_dump(),
        "attention_heads": config.num_attention_heads,
        "activation": str(getattr(config, "hidden_act", None) or getattr(config, "activation", None)),
        "base": timed.base.digest,
        "processor": machine.processor,
        "instructions": list(machine.instructions),
        "cores": machine.affinity,
        "threads": timed.threads,
        "opset": OPSET,
        "packages": {name: machine.packages.get(name) for name in ("prunekit", "torch", "transformers", "onnxruntime", "onnxruntime-gpu")},
        "shapes": [list(shape) for shape in timed.shapes(batch)],
    }


def _read(path: Path, key: Mapping[str, Any]) -> LatencyTable | None:
    """A table that was kept; None where there is none, or one that another program wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] != key:
            return None
        table = dict(found["table"])
        return LatencyTable(**{**table, "inner": Prices(**table["inner"]), "last": Prices(**table["last"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, key: Mapping[str, Any], table: LatencyTable, measured: Sequence[tuple[Widths, float]]) -> None:
    """Keep a table; where nothing can be written it is measured again the next time."""
    found = {
        "key": key,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "table": asdict(table),
        "measured": [{**asdict(widths), "share": share} for widths, share in measured],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump(found, file, indent=1)
        os.replace(file.name, path)
    except OSError:
        return
