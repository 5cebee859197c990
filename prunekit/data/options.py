"""Options of `load_data` as other commands pass them on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from prunekit.errors import ParameterError
from prunekit.metrics import Metric
from prunekit.tasks import TaskKind

Column = Literal["text", "text_pair", "label", "tokens", "tags", "group", "config", "metric"]


@dataclass(frozen=True)
class Asked:
    """What `load_data` was asked for; the parameters are its own.

    Attributes
    ----------
    columns : mapping
        Columns that the user named, by option.
    kind : TaskKind or None
    labels : tuple of str or None
        Of the model.
    metric : Metric or None
    answers : TaskKind or None
        Task of the model's head.
    fine_tuned : bool
    seed : int
    """

    columns: Mapping[str, str | None]
    kind: TaskKind | None
    labels: tuple[str, ...] | None
    metric: Metric | None
    answers: TaskKind | None
    fine_tuned: bool
    seed: int


def check_columns(columns: Mapping[Column, str | None], data: object, *, of: str) -> None:
    """Refuse what is no option of the data, and options of data that are not given.

    Raises
    ------
    ParameterError
    """
    for name, value in columns.items():
        if name not in get_args(Column):
            raise ParameterError("columns", of, f"of {', '.join(get_args(Column))}", name)
        if value is None:
            continue
        if not value:
            raise ParameterError(name, of, "left out, or not empty", value)
        if data is None:
            raise ParameterError(name, of, "left out where no data are given", value)
        if name == "metric" and value not in list(Metric):
            raise ParameterError(name, of, f"one of {', '.join(Metric)}", value)
