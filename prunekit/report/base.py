"""Names of a report's rows, and the base class of its parts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

RowName = Literal["dense", "oracle", "dense-low", "slim", "slim-low", "untrained", "random", "magnitude", "bag", "tuned"]
Reference = Literal["dense", "oracle"]
Baseline = Literal["random", "magnitude"]
REFERENCES: tuple[Reference, ...] = ("dense", "oracle")
BASELINES: tuple[Baseline, ...] = ("random", "magnitude")


class Frozen(BaseModel):
    """Immutable model that rejects unknown fields, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
