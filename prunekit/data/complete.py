"""Completion of the three splits: no row that is evaluated was trained on, as far as the data shows."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.data.duplicates import groups_of, keys_of
from prunekit.data.rows import Rows, TaskData
from prunekit.data.splits import Ids, divide
from prunekit.errors import DataError
from prunekit.metrics import Metric
from prunekit.tasks import Task

SHARE = 0.1  # of the rows, for a split that is cut from train
#: Least product of the rows set aside from validation and the largest loss that they are to detect: fewer hardly ever detect it.
ENOUGH = 10
#: Share of one class from which accuracy says little.
MAJORITY = 0.9


@dataclass(frozen=True, eq=False)
class GroupedRows:
    """Rows, and the named group of each (None: no group)."""

    rows: Rows
    names: tuple[Hashable, ...] | None = None


def complete(splits: Mapping[str, GroupedRows], seed: int, notes: list[str], *, fine_tuned: bool, single: bool) -> dict[str, Rows]:
    """Derive train, validation and test from the splits of the data.

    Three splits are taken as they are. Otherwise a split is cut, so that duplicates and rows of one named group stay together (see
    `groups_of`):

    ============================= ================================== ===========================================
    the data has                  a model that was not fine-tuned    a fine-tuned model
    ============================= ================================== ===========================================
    train and validation          test: validation as it came;       validation and test: halves of validation
                                  validation: 10% of train
    train and test                validation: 10% of train           validation and test: halves of test
    one table, named or not       validation and test: 10% each      the same of a table that is not named train,
                                                                     which the model may not have seen; train
                                                                     alone is refused
    ============================= ================================== ===========================================

    Parameters
    ----------
    splits : {"train", "validation", "test": GroupedRows}
        As far as they have labels.
    seed : int
    notes : list of str
        Decisions are appended.
    fine_tuned : bool
        Whether the model may have been trained on train.
    single : bool
        Whether train is a table that nobody named so.

    Returns
    -------
    {"train", "validation", "test": Rows}

    Raises
    ------
    DataError
        Too few rows, splits that share a named group, or a fine-tuned model with nothing but its train split.
    """
    _check_groups(splits)
    splits = {name: replace(part, rows=replace(part.rows, groups=part.names)) for name, part in splits.items()}
    result = {name: part.rows for name, part in splits.items()}
    train = splits["train"]
    held = [name for name in ("validation", "test") if name in splits]
    if len(held) < 2 and fine_tuned:
        if held:
            result |= _halve(splits[held[0]], held[0], seed, notes)
        elif single:
            result |= _cut(train, ("test", "validation"), seed, notes, of="the rows")
            notes.append("the model is fine-tuned: if it was trained on these rows, all figures are too good; give a test split")
        else:
            raise DataError(
                "The data has a train split alone, on which a fine-tuned model may have been trained: it cannot be judged on these rows. "
                "Add a validation or a test split with labels."
            )
    elif held == ["validation"]:
        result["test"] = result.pop("validation")
        notes.append("test: the validation split as it came, there is no test split")
        result |= _cut(train, ("validation",), seed, notes, of="train")
    elif len(held) < 2:
        result |= _cut(train, ("validation",) if held else ("test", "validation"), seed, notes, of="train")
    _note_shared(result, notes)
    return {name: result[name] for name in ("train", "validation", "test")}


def set_aside(data: TaskData, loss: float, seed: int) -> TaskData:
    """Move half of validation to a split of its own, "check", on which a loss is bounded and nothing else is chosen.

    Duplicates and rows of one named group stay on one side. Where half of the rows (of the queries of lists) is fewer than ten for
    one that may be lost, validation is left as it is: it then serves for choices and for the bound.

    Parameters
    ----------
    data : TaskData
    loss : float
        The largest loss, a share.
    seed : int
    """
    rows = data.validation
    if _count_samples(rows) * loss < 2 * ENOUGH:
        return data
    try:
        moved = divide(rows, len(rows) // 2, seed, name="check", groups=groups_of(rows, rows.groups))
    except DataError:
        # All rows are of one group.
        return data
    check = rows.take(np.flatnonzero(moved))
    # Large groups may not fit.
    if _count_samples(check) * loss < 0.9 * ENOUGH:
        return data
    return data.with_splits({**data.splits, "validation": rows.take(np.flatnonzero(~moved)), "check": check})


def _count_samples(rows: Rows) -> int:
    """Return the number of independent samples: rows, or of lists the queries that have a relevant row."""
    return len(rows) if rows.queries is None else len(np.unique(rows.queries[np.asarray(rows.labels) > 0]))


def _cut(source: GroupedRows, names: tuple[str, ...], seed: int, notes: list[str], *, of: str) -> dict[str, Rows]:
    """Return new splits of a tenth of the rows each, and the remaining rows as train."""
    rows, all_groups = source.rows, groups_of(source.rows, source.names)
    groups = all_groups
    count = max(1, round(SHARE * len(rows)))
    splits = {}
    for name in names:
        moved = divide(rows, count, seed, name=name, groups=groups)
        splits[name] = rows.take(np.flatnonzero(moved))
        rows, groups = rows.take(np.flatnonzero(~moved)), groups[~moved]
        notes.append(f"{name}: {SHARE:.0%} of {of}, seed {seed}")
    _note_groups(all_groups, notes)
    return {**splits, "train": rows}


def _halve(source: GroupedRows, name: str, seed: int, notes: list[str]) -> dict[str, Rows]:
    """Divide the one split that the model was not trained on into validation and test."""
    rows, groups = source.rows, groups_of(source.rows, source.names)
    if len(rows) < 2:
        raise DataError(f"The {name} split has one row: too few for validation and test of a fine-tuned model.")
    moved = divide(rows, len(rows) // 2, seed, name="validation", groups=groups)
    notes.append(f"validation and test: halves of the {name} split, seed {seed}, since a fine-tuned model may have been trained on train")
    _note_groups(groups, notes)
    return {"validation": rows.take(np.flatnonzero(moved)), "test": rows.take(np.flatnonzero(~moved))}


def _note_groups(groups: Ids, notes: list[str]) -> None:
    merged = len(groups) - len(np.unique(groups))
    if merged:
        notes.append(
            f"rows that say the same or are of one group were kept on one side: {len(np.unique(groups)):,} groups of {len(groups):,} rows"
        )


def _note_shared(splits: Mapping[str, Rows], notes: list[str]) -> None:
    """Note how many held-out rows are also in train; a split that came with the data is not changed for it."""
    keys = {name: keys_of(rows) for name, rows in splits.items()}
    known, choosing = set(keys["train"]), set(keys["validation"])
    shared = {name: sum(key in known for key in keys[name]) for name in ("validation", "test")}
    if any(shared.values()):
        counts = " and ".join(f"{count:,} of {len(splits[name]):,} rows of {name}" for name, count in shared.items() if count)
        notes.append(f"{counts} are rows of train too (case, space and punctuation apart)")
    both = sum(key in choosing for key in keys["test"])
    if both:
        rows = f"{both:,} of {len(splits['test']):,} rows of test"
        notes.append(f"{rows} are rows of validation too, by which choices are made (case, space and punctuation apart)")


def note_majority(task: Task, test: Rows, notes: list[str]) -> None:
    """Note that one class alone has most of the rows of test, which accuracy rewards."""
    if task.metric is not Metric.ACCURACY:
        return
    counts = np.bincount(np.concatenate(test.labels) if isinstance(test.labels, tuple) else test.labels)
    share = counts.max() / counts.sum()
    if share >= MAJORITY:
        name = task.labels[int(counts.argmax())]
        unit = "words" if task.per_token else "rows"
        notes.append(f"metric: accuracy, of which {name!r} for all {unit} of test gets {share:.1%} (--metric f1 counts each class alike)")


def check_defined(data: TaskData, given: Collection[str]) -> list[str]:
    """Refuse held-out labels on which the task's metric has no value, whatever a model answers; it would be reported as 0.

    Where both are splits of the data (`given`), they are refused one by one, halves of one of them only together; of any other a note is
    returned.
    """
    notes, known = [], len({"validation", "test"} & {*given})
    held = {name: data.splits[name].labels for name in ("validation", "test")}
    flat = {name: np.concatenate(labels) if isinstance(labels, tuple) else labels for name, labels in held.items()}
    together = _undefined(data.task.metric, data.task, np.concatenate(list(flat.values())))
    for name, labels in flat.items():
        fault = _undefined(data.task.metric, data.task, labels)
        if fault is None:
            continue
        rows = f"the {fault[0]} of the {len(held[name]):,} row{'s' * (len(held[name]) > 1)} of {name} {fault[1]}"
        if known == 0 or (known == 1 and together is None):
            notes.append(f"metric: {rows}, and any answers have the value 0 (another --seed cuts other rows)")
            continue
        metrics = data.task.kind.traits.metrics
        others = [each for each in metrics if each is not Metric.AGREEMENT and _undefined(each, data.task, labels) is None]
        cures = ["give more rows", *([f"another --metric ({', '.join(others)})"] if others else [])]
        cures += [f"leave {name} out"] if known == 2 else []
        raise DataError(f"T{rows[1:]}. {', or '.join(cures).capitalize()}.")
    return notes


def _undefined(metric: Metric, task: Task, labels: NDArray[Any]) -> tuple[str, str] | None:
    """Return what labels are like on which a metric has no value, and why it has none; None where it has one."""
    if metric.needs == "variation" and np.ptp(labels) == 0:
        value = f"{labels[0]:g}" if task.kind.traits.values else repr(task.labels[int(labels[0])])
        return "labels", f"are all {value}: nothing correlates with them"
    if metric.needs == "entities" and all(task.labels[tag] == "O" for tag in np.unique(labels)):
        return "tags", f"have no entity, of which {metric.label} is counted"
    if metric.needs == "labels" and task.many and not labels.any():
        return "label sets", f"are all empty, of whose labels {metric.label} is counted"
    return None


def _check_groups(splits: Mapping[str, GroupedRows]) -> None:
    owner: dict[Hashable, str] = {}
    for split, part in splits.items():
        for name in {name for name in part.names or () if name is not None}:
            if owner.setdefault(name, split) != split:
                raise DataError(f"The group {name!r} has rows in {owner[name]} and in {split}: a group must be in one split.")
