"""Header of a file of statistics, checked before its tensors are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prunekit.plan import Source
from prunekit.stats.collected import Pooling
from prunekit.validation.limits import CLASSES, METADATA_BYTES, ROWS, SEEDS, SHARDS
from prunekit.validation.reading import ReadError, parse_json, shown

VERSION = 2
KEY = "prunekit.statistics"
Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Drawn(_Strict):
    """Size and seed of the sample of a split's rows: at most `size` of them."""

    size: Annotated[int, Field(ge=1, le=ROWS)]
    seed: Annotated[int, Field(ge=0, lt=SEEDS)]


class Shard(_Strict):
    """Part of the data that statistics cover.

    Attributes
    ----------
    index, of : int
        The part, from 1, and how many parts there are.
    rows, total : mapping
        {split: rows of this part} and {split: rows of all parts}.
    tokens : str
        sha256 of the rows of all parts as the model reads them.
    """

    index: Annotated[int, Field(ge=1, le=SHARDS)]
    of: Annotated[int, Field(ge=2, le=SHARDS)]
    rows: dict[Split, Annotated[int, Field(ge=0, le=ROWS)]]
    total: dict[Split, Annotated[int, Field(ge=1, le=ROWS)]]
    tokens: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def description(self) -> str:
        """The part in words."""
        return f"part {self.index} of {self.of} alone"


class Header(_Strict):
    """The metadata of a file of statistics.

    Attributes
    ----------
    version : 2
    count : int
        Rows in the moments.
    source : Source
        Shape of the model.
    outputs : int
        Label columns at the end of the moments.
    pooling : str
    samples : mapping
        {split: how its rows were drawn}; "train" is always there.
    provenance : mapping
    shard : Shard or None
        None where they cover all the data.
    """

    version: Literal[2]
    count: Annotated[int, Field(ge=1, le=ROWS)]
    source: Source
    outputs: Annotated[int, Field(ge=1, le=CLASSES)]
    pooling: Pooling
    samples: dict[Split, Drawn]
    provenance: dict[str, Any]
    shard: Shard | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that the file must hold."""
        return ("mean", "comoment", *(f"{split}.{name}" for split in self.samples for name in ("ids", "rows", "labels")))

    @classmethod
    def of(cls, metadata: Mapping[str, str] | None, slices: Mapping[str, Any]) -> Header:
        """Read and check the header of a safetensors file.

        Parameters
        ----------
        metadata : mapping or None
            Metadata of the file.
        slices : mapping
            {name: `safe_open(...).get_slice(name)`} of every tensor in it.

        Raises
        ------
        ReadError
            Metadata that are not prunekit's, or tensors of other shapes or types than the metadata state.
        """
        text = (metadata or {}).get(KEY)
        if text is None:
            raise ReadError("it holds no statistics of prunekit")
        if len(text) > METADATA_BYTES:
            raise ReadError(f"its metadata have more than {METADATA_BYTES:,} characters")
        fields = parse_json(text)
        if not isinstance(fields, dict):
            raise ReadError("its metadata must be a JSON object")
        version = fields.get("version")
        if version != VERSION:
            raise ReadError(f"it has version {str(version)[:20]}; this prunekit reads version {VERSION}. Collect again")
        try:
            header = cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ReadError(f"{'.'.join(shown(part, 40) for part in first['loc'])}: {first['msg']}") from None
        header._check(slices)
        return header

    def _check(self, slices: Mapping[str, Any]) -> None:
        if "train" not in self.samples:
            raise ReadError("it holds no rows of train")
        shard = self.shard
        if shard is not None and (
            shard.index > shard.of or shard.rows.keys() != shard.total.keys() or shard.rows.get("train") != self.count
        ):
            raise ReadError("shard: it says another number of rows than the moments, or is no part of as many")
        neurons = (self.source.layers + 1) * self.source.hidden
        width = neurons + self.outputs
        wanted: dict[str, tuple[list[int], tuple[str, ...]]] = {"mean": ([width], ("F64",)), "comoment": ([width, width], ("F64",))}
        train = slices.get("train.labels")
        label_sets = train is not None and train.get_dtype() == "BOOL"
        kind = "BOOL" if label_sets else "F64" if self.outputs == 1 else "I64"
        for split in self.samples:
            rows = slices[f"{split}.ids"].get_shape()[:1] if f"{split}.ids" in slices else []
            wanted |= {
                f"{split}.ids": (rows, ("I64",)),
                f"{split}.rows": ([*rows, neurons], ("F32",)),
                f"{split}.labels": ([*rows, self.outputs] if label_sets else rows, (kind,)),
            }
        for name, (shape, kinds) in wanted.items():
            if name not in slices:
                raise ReadError(f"the tensor {name} is not there")
            if slices[name].get_shape() != shape or slices[name].get_dtype() not in kinds or not shape or not shape[0]:
                raise ReadError(
                    f"the tensor {name} must be {' or '.join(kinds)} of shape {shape}, "
                    f"not {str(slices[name].get_dtype())[:40]} of {str(slices[name].get_shape())[:40]}"
                )
