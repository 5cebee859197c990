"""The latency table of this machine: measured once for a model's shape, then read from a file that records how it was measured.

A few slim copies of the model, at widths from which all prices can be estimated, each alternate with the dense file, as in the
measurement that a budget is checked against. The table is cached in ``~/.cache/prunekit``, or in the directory that
``PRUNEKIT_CACHE`` names.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
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
from prunekit.runtime.timing import compare, load_files, stopwatch
from prunekit.stats.blocks import sites
from prunekit.transforms.apply import apply
from prunekit.transforms.cut import prunable
from prunekit.validation.limits import CONFIG_BYTES
from prunekit.validation.reading import read_json
from prunekit.validation.scratch import temporary

CACHE = "PRUNEKIT_CACHE"
#: Fields of a config that its class and its sizes do not tell, and that change how long it takes.
_FIELDS = (
    *("hidden_act", "activation", "hidden_activation", "activation_function", "ff_activation"),
    *("head_dim", "embedding_size", "classifier_pooling", "local_attention", "pos_att_type", "position_buckets"),
)
_VERSION = 5
_LENGTHS = 8
#: Most seconds for which a file alternates with the dense one.
_SECONDS = 2.0


@dataclass(frozen=True, eq=False)
class Timed:
    """Models, inputs and settings of a latency measurement.

    Attributes
    ----------
    model : nn.Module
        The model that plans are applied to.
    dense : nn.Module
        The model that it is deployed as, whose time is the reference.
    base : Plan
        The part of the plan that all slim models share: blocks and readout.
    inputs : tuple of str
        Names of the inputs of the ONNX files.
    space : InputSpace
    lengths : ndarray of int
        Lengths of rows as they occur in use, in tokens, without padding.
    threads : int
        Number of processor threads.
    dense_file : callable, optional
        Returns the file of `dense`, where others need it too; by default it is exported for the table alone.
    """

    model: nn.Module
    dense: nn.Module
    base: Plan
    inputs: tuple[str, ...]
    space: InputSpace
    lengths: NDArray[np.integer]
    threads: int = 1
    dense_file: Callable[[], Path] | None = None

    def shapes(self, batch: int) -> tuple[tuple[int, int], ...]:
        """Return (rows, length) of the batches that are timed: lengths at even quantiles of the data's."""
        quantiles = (np.arange(_LENGTHS) + 0.5) / _LENGTHS
        return tuple((batch, int(length)) for length in np.quantile(self.lengths, quantiles, method="nearest"))

    def plan_of(self, widths: Widths) -> Plan:
        """Return a plan with these widths; which units it keeps does not change the time."""
        blocks, source = kept_blocks(self.base), self.base.source
        heads = {block: tuple(range(kept)) for block, kept in zip(blocks, widths.heads, strict=True) if kept < source.heads}
        affine = self.base.affine or ()
        ffn = {
            block: tuple(range(kept)) for block, kept in zip(blocks, widths.ffn, strict=True) if kept < source.ffn and block not in affine
        }
        return Plan.model_validate({**dict(self.base), "heads": heads, "ffn": ffn})

    def possible(self, widths: Widths) -> Widths:
        """Return the widths, limited to what is left of the sub-blocks that have lost units."""
        blocks, left = kept_blocks(self.base), (self.base.heads, ffn_units(self.base))
        heads, ffn = (
            tuple(min(kept, len(units[block])) if block in units else kept for block, kept in zip(blocks, counts, strict=True))
            for counts, units in zip((widths.heads, widths.ffn), left, strict=True)
        )
        return Widths(heads, ffn)

    def export(self, model: nn.Module, path: Path) -> Path:
        """Export a model to a file."""
        return export_onnx(model, path, inputs=self.inputs, space=self.space).path

    def share(self, dense: Path, slim: Path, batch: int) -> float:
        """Return the time of a file as a share of the dense one's; the two alternate."""
        shapes = self.shapes(batch)
        batches = [self.space.batch(rows, length, seed=0, names=self.inputs) for rows, length in shapes]
        comparison = compare(
            load_files({"dense": dense, "slim": slim}, {"dense": batches, "slim": batches}, self.threads),
            range(len(shapes)),
            baseline="dense",
            shapes=shapes,
            min_rounds=3 * len(shapes) if batch == 1 else len(shapes),
            max_seconds=_SECONDS,
            warmup=1,
            threads=self.threads,
            lap=stopwatch(self.threads),
        )
        return 1 / comparison.ratio("slim").value


def latency_table(timed: Timed, batch: int, *, progress: Callable[[int, int], None] | None = None) -> LatencyTable:
    """Return the table for one batch size: from the cache, or measured and then cached.

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
    cached = _read(path, key)
    if cached is not None:
        return cached
    view = ModelView.of(timed.model)
    blocks, source = len(kept_blocks(timed.base)), timed.base.source
    # A sub-block that is gone already cannot be cut, whatever the family can.
    can_cut = {role: any(prunable(view, site) for site in sites(view) if site.role == role) for role in ("heads", "ffn")}
    design = probes(
        blocks, source.heads, source.ffn, cut_heads=can_cut["heads"], cut_ffn=can_cut["ffn"], even=bool(view.spec.shared_blocks)
    )
    full = Widths((source.heads,) * blocks, (source.ffn,) * blocks)
    measured: list[tuple[Widths, float]] = []
    with temporary() as folder:
        dense = timed.export(timed.dense, folder / "dense.onnx") if timed.dense_file is None else timed.dense_file()
        for widths in map(timed.possible, (full, *design)):
            slim = timed.export(apply(timed.model, timed.plan_of(widths)), folder / "slim.onnx")
            measured.append((widths, timed.share(dense, slim, batch)))
            if progress is not None:
                progress(len(measured), len(design) + 1)
    table = fit_table(measured, batch=batch)
    _write(path, key, table, measured)
    return table


def cache_folder() -> Path:
    """Return the directory in which measurements of this machine are kept."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "prunekit")


def _key(timed: Timed, batch: int) -> dict[str, Any]:
    """Return the cache key: everything that the times depend on."""
    machine = environment()
    config: Any = getattr(timed.model, "config")  # noqa: B009 - nn.Module types attributes as tensors
    return {
        "version": _VERSION,
        "model": type(timed.model).__name__,
        "dense": type(timed.dense).__name__,
        "source": timed.base.source.model_dump(),
        "attention_heads": config.num_attention_heads,
        "config": {name: str(getattr(config, name, None)) for name in _FIELDS},
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
    """Return a cached table; None if there is none, or its key or format differs."""
    try:
        entry = read_json(path, CONFIG_BYTES)
        if entry["key"] != key:
            return None
        table = dict(entry["table"])
        return LatencyTable(**{**table, "inner": Prices(**table["inner"]), "last": Prices(**table["last"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, key: Mapping[str, Any], table: LatencyTable, measured: Sequence[tuple[Widths, float]]) -> None:
    """Cache a table; if nothing can be written it is measured again the next time."""
    entry = {
        "key": key,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "table": asdict(table),
        "measured": [{**asdict(widths), "share": share} for widths, share in measured],
    }
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            partial = file.name
            json.dump(entry, file, indent=1)
        os.replace(partial, path)
    except OSError:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
