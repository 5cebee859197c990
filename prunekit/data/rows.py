"""Rows of a split, and the three splits of a task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.metrics.spans import Reference
from prunekit.tasks import Task


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one split, in their order.

    Attributes
    ----------
    labels : ndarray of shape (n,), int64 class ids, float64 values or, of questions, references; or (n, C) bool, which labels each row
        has; or tuple of n int64 ndarrays, one id a word
    texts : tuple of str
        One text a row; empty for a token task.
    pairs : tuple of str, or None
        The second text of each row, where the task compares two.
    tokens : tuple of tuple of str
        The words of each row of a token task; empty otherwise.
    trees : tuple of (heads, relations), or None
        Dependency tree of each row of a token task whose data has one: the head of each word, from 1 (0 is the root), and its
        relation to it.
    queries : int64 ndarray of shape (n,), or None
        Of lists by query, the number of each row's; rows of one query are adjacent.
    silent : bool
        Of questions, whether "no answer" is an answer.
    groups : tuple, or None
        The named group of each row, such as its document (None: no group), where the data has them.
    """

    labels: NDArray[Any] | tuple[NDArray[np.int64], ...]
    texts: tuple[str, ...] = ()
    pairs: tuple[str, ...] | None = None
    tokens: tuple[tuple[str, ...], ...] = ()
    trees: tuple[tuple[tuple[int, ...], tuple[str, ...]], ...] | None = None
    queries: NDArray[np.int64] | None = None
    silent: bool = False
    groups: tuple[Hashable, ...] | None = None

    def __post_init__(self) -> None:
        assert not (self.texts and self.tokens)
        assert len(self.labels) == len(self)
        assert self.pairs is None or len(self.pairs) == len(self)

    def __len__(self) -> int:
        return len(self.tokens) if self.tokens else len(self.texts)

    @property
    def asks(self) -> bool:
        """Whether texts are questions, whose answers are in the pairs; labels are then `prunekit.metrics.spans.Reference`s."""
        return not isinstance(self.labels, tuple) and self.labels.dtype == object

    @property
    def references(self) -> list[Reference]:
        """Reference answers of questions."""
        assert self.asks
        return list(self.labels)

    @property
    def singles(self) -> Rows:
        """Both texts of each pair as rows of their own, one after the other, each with the pair's label."""
        if self.pairs is None:
            return self
        assert not isinstance(self.labels, tuple)
        texts = tuple(text for pair in zip(self.texts, self.pairs, strict=True) for text in pair)
        return Rows(labels=np.repeat(self.labels, 2), texts=texts)

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> Rows:
        """Return the rows at `indices`, in the order given."""
        positions = [int(index) for index in indices]
        labels = tuple(self.labels[i] for i in positions) if isinstance(self.labels, tuple) else self.labels[positions]
        return replace(
            self,
            labels=labels,
            texts=tuple(self.texts[i] for i in positions) if self.texts else (),
            pairs=None if self.pairs is None else tuple(self.pairs[i] for i in positions),
            tokens=tuple(self.tokens[i] for i in positions) if self.tokens else (),
            trees=None if self.trees is None else tuple(self.trees[i] for i in positions),
            queries=None if self.queries is None else self.queries[positions],
            groups=None if self.groups is None else tuple(self.groups[i] for i in positions),
        )


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task with its three splits.

    Attributes
    ----------
    task : Task
    train, validation, test : Rows
        Choices are made on train and validation alone; test is only measured.
    notes : tuple of str
        Decisions made while reading, one line each: "validation: 10% of train, seed 0".
    provenance : dict
        `source` as given, `rows` {split: count}, `sha256` of the rows.
    labelled : bool
        Whether the labels are those of the data, not a model's answers.
    check : Rows or None
        Rows that `set_aside` has moved from validation.
    """

    task: Task
    train: Rows
    validation: Rows
    test: Rows
    notes: tuple[str, ...]
    provenance: dict[str, Any]
    labelled: bool = True
    check: Rows | None = None

    @classmethod
    def of(cls, task: Task, splits: Mapping[str, Rows], notes: Iterable[str], provenance: Mapping[str, Any]) -> TaskData:
        """Put three splits together; the row counts and the fingerprint are added to the provenance."""
        counts = {name: len(rows) for name, rows in splits.items()}
        record = {**provenance, "rows": counts, "sha256": fingerprint(task, splits)}
        return cls(task, splits["train"], splits["validation"], splits["test"], tuple(notes), record)

    def with_splits(self, splits: Mapping[str, Rows]) -> TaskData:
        """Return the same task with other rows; counts and fingerprint remain those of the rows that were read."""
        return replace(self, train=splits["train"], validation=splits["validation"], test=splits["test"], check=splits.get("check"))

    @property
    def splits(self) -> dict[str, Rows]:
        """The splits by name; "check" where there is one."""
        extra = {} if self.check is None else {"check": self.check}
        return {"train": self.train, "validation": self.validation, "test": self.test, **extra}


def fingerprint(task: Task, splits: Mapping[str, Rows]) -> str:
    """Return the sha256 over the label space and every row of every split, whatever file format they came from."""
    digest = hashlib.sha256(json.dumps([task.kind.value, task.labels]).encode())
    for name, rows in splits.items():
        for index in range(len(rows)):
            label: Any = rows.labels[index]
            label = [label.texts, label.starts] if rows.asks else (np.flatnonzero(label) if label.dtype == bool else label).tolist()
            text = rows.tokens[index] if rows.tokens else rows.texts[index]
            pair = None if rows.pairs is None else rows.pairs[index]
            digest.update(json.dumps([name, text, pair, label]).encode() + b"\n")
    return digest.hexdigest()
