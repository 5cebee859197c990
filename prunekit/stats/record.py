"""The `Statistics` record: the results of one run of the model, as one safetensors file (waist 1)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from prunekit.errors import OutputError, StatisticsError
from prunekit.plan import Source
from prunekit.stats.collected import Collected, Labels, Pooling
from prunekit.stats.header import KEY, VERSION, Header, Shard
from prunekit.stats.moments import Moments
from prunekit.stats.rows import Ids, RowStore
from prunekit.stats.sample import Sample
from prunekit.validation.arguments import Place, checked
from prunekit.validation.escape import reason
from prunekit.validation.reading import ReadError, check_regular

#: More than any neuron is, and little enough for products of two in float32.
_LARGEST = 1e18


@dataclass(frozen=True, eq=False)
class Labelled:
    """A sample of rows, and their labels.

    Attributes
    ----------
    sample : Sample
        Rows of the neurons alone, D columns.
    labels : (k,) int64 class ids, or float64 targets; or (k, C) bool, label sets
    """

    sample: Sample
    labels: Labels

    def __post_init__(self) -> None:
        if self.labels.shape[:1] != self.sample.ids.shape or self.labels.ndim > 1 + (self.labels.dtype == bool):
            raise StatisticsError(f"A sample of {len(self.sample.ids)} rows has labels of shape {self.labels.shape}.")

    @classmethod
    def of(cls, found: Collected, size: int, seed: int, ids: Ids | None = None) -> Labelled:
        """Return at most `size` of the rows of a split; `ids` are the row numbers, ascending, where the rows are a part of a split's."""
        numbers = np.arange(len(found.rows)) if ids is None else ids
        sample = Sample.empty(size, found.rows.width, seed=seed)
        for start, chunk in found.rows.chunks():
            sample = sample.add(numbers[start : start + len(chunk)], chunk)
        return cls(sample, found.labels[np.searchsorted(numbers, sample.ids)])

    def merge(self, other: Labelled) -> Labelled:
        """Return the sample of both parts; raise StatisticsError as `Sample.merge` does, and for labels of different kinds."""
        if (self.labels.dtype, self.labels.shape[1:]) != (other.labels.dtype, other.labels.shape[1:]):
            raise StatisticsError("Samples with labels of different kinds cannot be merged.")
        sample = self.sample.merge(other.sample)
        ids, labels = np.concatenate([self.sample.ids, other.sample.ids]), np.concatenate([self.labels, other.labels])
        order = np.argsort(ids)
        return Labelled(sample, labels[order[np.searchsorted(ids[order], sample.ids)]])


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments over [neurons | labels] and samples of rows, with what they describe.

    Attributes
    ----------
    moments : Moments
        Over [neurons | one-hot labels or target] of train, D + outputs columns.
    train : Labelled
        Rows of train.
    source : Source
        Shape of the model.
    outputs : int
        Label columns at the end of the moments.
    pooling : str
    provenance : dict
        Where the statistics come from; plain JSON.
    validation : Labelled or None
        Rows of validation, where they were read.
    shard : Shard or None
        Part of the data that they cover; None: all.
    """

    moments: Moments
    train: Labelled
    source: Source
    outputs: int
    pooling: Pooling
    provenance: Mapping[str, Any] = field(default_factory=dict)
    validation: Labelled | None = None
    shard: Shard | None = None

    def __post_init__(self) -> None:
        neurons = (self.source.layers + 1) * self.source.hidden
        for part in (self.train, self.validation):
            if part is not None and (self.moments.width != neurons + self.outputs or part.sample.rows.shape[1] != neurons):
                raise StatisticsError(
                    f"The model has {neurons} neurons and the task {self.outputs} outputs. "
                    f"Got moments of {self.moments.width} and a sample of {part.sample.rows.shape[1]} columns instead."
                )

    def split(self, name: Literal["train", "validation"], directory: str | Path | None = None) -> Collected:
        """Return a split as a run of the model would have collected it; raise StatisticsError for one that was not read.

        Of train, the moments are those of all rows that were read, however many of them are in the sample.
        """
        part = self.train if name == "train" else self.validation
        if part is None:
            raise StatisticsError(f"The statistics hold no rows of {name}.")
        rows = RowStore.of(part.sample.rows, directory=directory)
        return Collected(rows, part.labels, self.outputs, self.pooling, known=self.moments if name == "train" else None)

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of both parts of the data; raise StatisticsError where they describe different things."""
        if (self.source, self.outputs, self.pooling) != (other.source, other.outputs, other.pooling):
            raise StatisticsError("Statistics of different models, tasks or poolings cannot be merged.")
        if self.shard is not None or other.shard is not None:
            raise StatisticsError("Parts that `prunekit collect` wrote are merged all at once: prunekit.merge.")
        validation = None if self.validation is None or other.validation is None else self.validation.merge(other.validation)
        moments, train = self.moments.merge(other.moments), self.train.merge(other.train)
        return Statistics(moments, train, self.source, self.outputs, self.pooling, self.provenance, validation)

    @property
    def _parts(self) -> dict[str, Labelled]:
        return {"train": self.train} if self.validation is None else {"train": self.train, "validation": self.validation}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; raise OutputError where that fails."""
        meta = {
            "version": VERSION,
            "count": self.moments.count,
            "source": self.source.model_dump(),
            "outputs": self.outputs,
            "pooling": self.pooling,
            "samples": {name: {"size": part.sample.size, "seed": part.sample.seed} for name, part in self._parts.items()},
            "provenance": dict(self.provenance),
            **({} if self.shard is None else {"shard": self.shard.model_dump()}),
        }
        tensors: dict[str, Shaped[NDArray[Any], " ..."]] = {
            "mean": self.moments.mean,
            "comoment": np.ascontiguousarray(self.moments.comoment),
        }
        for name, part in self._parts.items():
            tensors |= {
                f"{name}.ids": part.sample.ids,
                f"{name}.rows": np.ascontiguousarray(part.sample.rows),
                f"{name}.labels": np.ascontiguousarray(part.labels),
            }
        try:
            save_file(tensors, str(path), metadata={KEY: json.dumps(meta, sort_keys=True)})
        except (OSError, SafetensorError) as error:
            raise OutputError(f"The statistics cannot be written to {str(path)!r}: {error}") from None

    @classmethod
    @checked("Statistics.load")
    def load(cls, path: Place) -> Statistics:
        """Read a file of `save`; raise StatisticsError for anything else, a newer version included."""
        place = os.fspath(path)
        with _opened(place) as (header, file):
            tensors = {name: file.get_tensor(name) for name in header.tensors}
        reason = _fault(header, tensors)
        if reason is not None:
            raise StatisticsError(f"The statistics {place!r} cannot be read: {reason}.")
        parts = {
            name: Labelled(Sample(drawn.size, drawn.seed, tensors[f"{name}.ids"], tensors[f"{name}.rows"]), tensors[f"{name}.labels"])
            for name, drawn in header.samples.items()
        }
        moments = Moments(header.count, tensors["mean"], tensors["comoment"])
        validation = parts.get("validation")
        return cls(moments, parts["train"], header.source, header.outputs, header.pooling, header.provenance, validation, header.shard)


def _fault(header: Header, tensors: Mapping[str, Shaped[NDArray[Any], " ..."]]) -> str | None:
    """Return why the values of a file's tensors cannot be those of a model's neurons and labels; None where they can."""
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name} holds NaN or infinity"
    mean, comoment = tensors["mean"], tensors["comoment"]
    if np.abs(mean).max() > _LARGEST or max(comoment.max(), -comoment.min()) > header.count * (2 * _LARGEST) ** 2:
        return "its moments are larger than those of any neurons"
    if (comoment.diagonal() < 0).any():
        return "a variance is below 0"
    for split in header.samples:
        ids, rows, labels = (tensors[f"{split}.{name}"] for name in ("ids", "rows", "labels"))
        if max(rows.max(), -rows.min()) > _LARGEST:
            return f"the rows of {split} are larger than any neurons"
        if not (np.diff(ids) > 0).all():
            return f"the row numbers of {split} do not increase"
        if labels.dtype.kind == "i" and not ((labels >= 0) & (labels < header.outputs)).all():
            return f"the labels of {split} are outside its {header.outputs} outputs"
    return None


@checked("read_header")
def read_header(path: Place) -> Header:
    """Return the header of a file of `Statistics.save`; raise StatisticsError for anything else. No tensor is read."""
    with _opened(os.fspath(path)) as (header, _):
        return header


@contextmanager
def _opened(place: str) -> Iterator[tuple[Header, Any]]:
    try:
        check_regular(place)
        with safe_open(place, framework="numpy") as file:
            yield Header.of(file.metadata(), {name: file.get_slice(name) for name in file.keys()}), file  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, ReadError) as error:
        raise StatisticsError(f"The statistics {place!r} cannot be read: {reason(error)}.") from None
