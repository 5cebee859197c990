"""The `Statistics` record: what a run of the model left behind, as one safetensors file (waist 1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from prunekit.errors import OutputError, StatisticsError
from prunekit.plan import Source
from prunekit.stats.moments import Moments
from prunekit.stats.sample import Sample

VERSION = 1
_KEY = "prunekit.statistics"


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments over [neurons | labels] and a sample of rows, with what they describe.

    Attributes
    ----------
    moments : Moments
        Over [neurons | one-hot labels or target], D + outputs columns.
    sample : Sample
        Rows of the neurons alone, D columns.
    source : Source
        Shape of the model.
    outputs : int
        Label columns at the end of the moments.
    pooling : str
    provenance : dict
        Where the statistics come from; plain JSON.
    """

    moments: Moments
    sample: Sample
    source: Source
    outputs: int
    pooling: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        neurons = (self.source.layers + 1) * self.source.hidden
        if self.moments.width != neurons + self.outputs or self.sample.rows.shape[1] != neurons:
            raise StatisticsError(
                f"The model has {neurons} neurons and the task {self.outputs} outputs. "
                f"Got moments of {self.moments.width} and a sample of {self.sample.rows.shape[1]} columns instead."
            )

    def merge(self, other: Statistics) -> Statistics:
        """Statistics of both parts of the data; raises StatisticsError where they describe different things."""
        if (self.source, self.outputs, self.pooling) != (other.source, other.outputs, other.pooling):
            raise StatisticsError("Statistics of different models, tasks or poolings cannot be merged.")
        return Statistics(
            self.moments.merge(other.moments), self.sample.merge(other.sample), self.source, self.outputs, self.pooling, self.provenance
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; raises OutputError."""
        meta = {
            "version": VERSION,
            "count": self.moments.count,
            "source": self.source.model_dump(),
            "outputs": self.outputs,
            "pooling": self.pooling,
            "sample": {"size": self.sample.size, "seed": self.sample.seed},
            "provenance": dict(self.provenance),
        }
        tensors: dict[str, NDArray[Any]] = {
            "mean": self.moments.mean,
            "comoment": np.ascontiguousarray(self.moments.comoment),
            "sample.ids": self.sample.ids,
            "sample.rows": np.ascontiguousarray(self.sample.rows),
        }
        try:
            save_file(tensors, str(path), metadata={_KEY: json.dumps(meta, sort_keys=True)})
        except (OSError, SafetensorError) as error:
            raise OutputError(f"The statistics cannot be written to {str(path)!r}: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read a file of `save`; raises StatisticsError for anything else, a newer version included."""
        try:
            with safe_open(str(path), framework="numpy") as file:
                text = (file.metadata() or {}).get(_KEY)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise StatisticsError(f"The statistics {str(path)!r} cannot be read: {error}") from None
        if text is None:
            raise StatisticsError(f"{str(path)!r} holds no statistics of prunekit.")
        meta = json.loads(text)
        if meta["version"] != VERSION:
            raise StatisticsError(f"{str(path)!r} has version {meta['version']}; this prunekit reads version {VERSION}. Collect again.")
        sample = Sample(meta["sample"]["size"], meta["sample"]["seed"], tensors["sample.ids"], tensors["sample.rows"])
        moments = Moments(meta["count"], tensors["mean"], tensors["comoment"])
        return cls(moments, sample, Source(**meta["source"]), meta["outputs"], meta["pooling"], meta["provenance"])
