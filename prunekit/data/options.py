"""Options of `load_data` as other commands pass them on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from prunekit.errors import ParameterError
from prunekit.metrics import Metric

Column = Literal["text", "text_pair", "label", "tokens", "tags", "group", "config", "metric"]


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
