"""Small tables and files of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets

from prunekit.data import Rows

TEXTS = [f"sentence number {i}" for i in range(40)]
LABELS = [i % 2 for i in range(40)]


def table(n: int = 40, **columns: list[Any]) -> dict[str, list[Any]]:
    return {"text": TEXTS[:n], "label": LABELS[:n], **columns}


def write(path: Path, columns: dict[str, list[Any]], sep: str = ",") -> Path:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix in (".csv", ".tsv"):
        lines = [sep.join(columns), *(sep.join(str(value) for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        datasets.Dataset.from_dict(columns).to_parquet(str(path))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def splits(**sizes: int) -> dict[str, dict[str, list[Any]]]:
    return {name: table(n) for name, n in sizes.items()}


def labels_of(rows: Rows) -> list[Any]:
    return [label.tolist() for label in rows.labels]
