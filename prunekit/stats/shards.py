"""Merging of parts of statistics that several processes collected: all parts, each once, and of the same model, data and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prunekit.errors import StatisticsError
from prunekit.stats.header import Header, Shard, Split
from prunekit.stats.record import Labelled, Statistics, read_header
from prunekit.stats.rows import Ids


def merge_parts(paths: Sequence[str | Path]) -> Statistics:
    """Return the statistics of all the data from those of its parts.

    Parts are merged in the order of their numbers, whatever the order of `paths`, so that the result is always the same.

    Raises
    ------
    StatisticsError
        A file that is no part, parts of different models, data or options, one that is named twice or missing.
    """
    ordered = check_parts({str(path): read_header(path) for path in dict.fromkeys(map(str, paths))}, list(map(str, paths)))
    shards, merged = [], None
    for path in ordered:
        part = Statistics.load(path)
        assert part.shard is not None
        shards.append(part.shard)
        statistics = replace(part, shard=None)
        merged = statistics if merged is None else _merged(merged, statistics)
    assert merged is not None
    splits: dict[Split, Labelled | None] = {"train": merged.train, "validation": merged.validation}
    for name, total in shards[0].total.items():
        ids, rows = _ids(splits[name]), splits[name]
        most = total if rows is None else min(total, rows.sample.size)
        if sum(shard.rows[name] for shard in shards) != total or len(ids) != most or (ids >= total).any() or (ids < 0).any():
            raise StatisticsError(f"The parts do not hold the {total:,} rows of {name} that they name. Collect again.")
    return merged


def _ids(part: Labelled | None) -> Ids:
    return np.empty(0, dtype=np.int64) if part is None else part.sample.ids


def _merged(one: Statistics, other: Statistics) -> Statistics:
    """Return the statistics of both parts; a part may be so small that it has no rows of validation."""
    validation = one.validation or other.validation
    if one.validation is None or other.validation is None:
        return replace(replace(one, validation=None).merge(replace(other, validation=None)), validation=validation)
    return one.merge(other)


def check_parts(headers: Mapping[str, Header], named: Sequence[str]) -> list[str]:
    """Return the files in the order of their parts; raise StatisticsError where they are not all parts of one data set."""
    duplicate = next((path for path in named if named.count(path) > 1), None)
    if duplicate is not None:
        raise StatisticsError(f"The part {duplicate!r} is named twice.")
    shards: dict[str, Shard] = {}
    for path, header in headers.items():
        if header.shard is None:
            raise StatisticsError(f"The statistics {path!r} are no part: they are of all the data. Leave them out.")
        shards[path] = header.shard
    first = next(iter(headers))
    for path in headers:
        ours, theirs = (_common_fields(headers[part], shards[part]) for part in (first, path))
        differing = next((name for name in ours if ours[name] != theirs[name]), None)
        if differing is not None:
            shown = ", ".join(str(value)[:40] for value in (ours[differing], theirs[differing]))
            raise StatisticsError(f"The parts {first!r} and {path!r} are of different {differing} ({shown}). Collect all parts alike.")
    by_number: dict[int, str] = {}
    for path, shard in shards.items():
        if shard.index in by_number:
            raise StatisticsError(f"The parts {by_number[shard.index]!r} and {path!r} overlap: both are part {shard.index} of {shard.of}.")
        by_number[shard.index] = path
    missing = [number for number in range(1, shards[first].of + 1) if number not in by_number]
    if missing:
        numbers = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise StatisticsError(f"Of {shards[first].of} parts {len(missing)} {'is' if len(missing) == 1 else 'are'} missing: {numbers}.")
    return [by_number[number] for number in sorted(by_number)]


def _common_fields(header: Header, shard: Shard) -> dict[str, Any]:
    """Return what all parts must have in common, by its name in an error message. Paths may differ from machine to machine."""
    known = header.provenance
    data = known.get("data")
    return {
        "numbers of parts": shard.of,
        "models": (known.get("weights"), header.source),
        "data": (data.get("sha256") if isinstance(data, Mapping) else None, shard.total),
        "tokens": shard.tokens,
        "tasks": header.outputs,
        "pooling": header.pooling,
        "max_length": known.get("max_length"),
        "seeds": known.get("seed"),
        "samples": {name: drawn for name, drawn in header.samples.items() if name == "train"},
        "versions of prunekit": known.get("prunekit"),
    }
