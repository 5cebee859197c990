"""Completing the three splits: what is judged is never what was learned from, as far as the data tells."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from prunekit.data.duplicates import groups_of, keys_of
from prunekit.data.rows import Rows, TaskData
from prunekit.data.splits import Ids, divide
from prunekit.errors import DataError

SHARE = 0.1  # of the rows, for a split that is cut from train
#: Rows that are set aside from validation, times the largest loss that they are to show: fewer hardly ever show it.
ENOUGH = 10


@dataclass(frozen=True, eq=False)
class Grouped:
    """Rows, and the named group of each (None: of none)."""

    rows: Rows
    names: tuple[Hashable, ...] | None = None


def complete(splits: Mapping[str, Grouped], seed: int, notes: list[str], *, fine_tuned: bool, single: bool) -> dict[str, Rows]:
    """Find train, validation and test in what the data has.

    Three splits are taken as they are. Otherwise a split is cut, so that rows which say the same or are of one named group stay
    together (see `groups_of`):

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
    splits : {"train", "validation", "test": Grouped}
        As far as they have labels.
    seed : int
    notes : list of str
        What was decided is added.
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
    found = {name: part.rows for name, part in splits.items()}
    train = splits["train"]
    held = [name for name in ("validation", "test") if name in splits]
    if len(held) < 2 and fine_tuned:
        if held:
            found |= _halved(splits[held[0]], held[0], seed, notes)
        elif single:
            found |= _cut(train, ("test", "validation"), seed, notes, of="the rows")
            notes.append("the model is fine-tuned: if it was trained on these rows, all figures are too good; give a test split")
        else:
            raise DataError(
                "The data has a train split alone, on which a fine-tuned model may have been trained: it cannot be judged on these rows. "
                "Add a validation or a test split with labels."
            )
    elif held == ["validation"]:
        found["test"] = found.pop("validation")
        notes.append("test: the validation split as it came, there is no test split")
        found |= _cut(train, ("validation",), seed, notes, of="train")
    elif len(held) < 2:
        found |= _cut(train, ("validation",) if held else ("test", "validation"), seed, notes, of="train")
    _say_shared(found, notes)
    return {name: found[name] for name in ("train", "validation", "test")}


def set_aside(data: TaskData, loss: float, seed: int) -> TaskData:
    """Half of validation as a split of its own, "check", for a bound of a loss on rows that choose nothing else.

    Rows that say the same or are of one named group stay on one side. Where half of the rows (of the queries of lists) is fewer than
    ten for one that may be lost, validation stays whole: it then chooses, and shows the loss as well.

    Parameters
    ----------
    data : TaskData
    loss : float
        The largest loss, a share.
    seed : int
    """
    rows = data.validation
    if _units(rows) * loss < 2 * ENOUGH:
        return data
    try:
        moved = divide(rows, len(rows) // 2, seed, name="check", groups=groups_of(rows, rows.groups))
    except DataError:
        # All rows belong together.
        return data
    check = rows.take(np.flatnonzero(moved))
    # Groups that are large may not fit in.
    if _units(check) * loss < 0.9 * ENOUGH:
        return data
    return data.with_splits({**data.splits, "validation": rows.take(np.flatnonzero(~moved)), "check": check})


def _units(rows: Rows) -> int:
    """What is drawn independently: rows, or the queries of lists."""
    return len(rows) if rows.queries is None else len(np.unique(rows.queries))


def _cut(source: Grouped, names: tuple[str, ...], seed: int, notes: list[str], *, of: str) -> dict[str, Rows]:
    """New splits of a tenth of the rows each, and what is left of train."""
    rows, groups = source.rows, groups_of(source.rows, source.names)
    count = max(1, round(SHARE * len(rows)))
    found = {}
    for name in names:
        moved = divide(rows, count, seed, name=name, groups=groups)
        found[name] = rows.take(np.flatnonzero(moved))
        rows, groups = rows.take(np.flatnonzero(~moved)), groups[~moved]
        notes.append(f"{name}: {SHARE:.0%} of {of}, seed {seed}")
    _say_groups(groups_of(source.rows, source.names), notes)
    return {**found, "train": rows}


def _halved(source: Grouped, name: str, seed: int, notes: list[str]) -> dict[str, Rows]:
    """Validation and test from the one split that the model was not trained on."""
    rows, groups = source.rows, groups_of(source.rows, source.names)
    if len(rows) < 2:
        raise DataError(f"The {name} split has one row: too few for validation and test of a fine-tuned model.")
    moved = divide(rows, len(rows) // 2, seed, name="validation", groups=groups)
    notes.append(f"validation and test: halves of the {name} split, seed {seed}, since a fine-tuned model may have been trained on train")
    _say_groups(groups, notes)
    return {"validation": rows.take(np.flatnonzero(moved)), "test": rows.take(np.flatnonzero(~moved))}


def _say_groups(groups: Ids, notes: list[str]) -> None:
    together = len(groups) - len(np.unique(groups))
    if together:
        notes.append(
            f"rows that say the same or are of one group were kept on one side: {len(np.unique(groups)):,} groups of {len(groups):,} rows"
        )


def _say_shared(splits: Mapping[str, Rows], notes: list[str]) -> None:
    """Tell how many held-out rows train holds too; a split that came with the data is not changed for it."""
    known = set(keys_of(splits["train"]))
    shared = {name: sum(key in known for key in keys_of(splits[name])) for name in ("validation", "test")}
    if any(shared.values()):
        what = " and ".join(f"{count:,} of {len(splits[name]):,} rows of {name}" for name, count in shared.items() if count)
        notes.append(f"{what} are rows of train too (case, space and punctuation apart)")


def _check_groups(splits: Mapping[str, Grouped]) -> None:
    owner: dict[Hashable, str] = {}
    for split, part in splits.items():
        for name in {name for name in part.names or () if name is not None}:
            if owner.setdefault(name, split) != split:
                raise DataError(f"The group {name!r} has rows in {owner[name]} and in {split}: a group must be in one split.")
