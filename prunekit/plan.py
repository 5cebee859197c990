"""A Plan says what is kept of a model, in the model's own numbering (waist 2: between deciding and doing).

It holds no scores and no weights, needs no torch, and is plain versioned JSON that can be read, reviewed,
diffed, composed, and applied to another checkpoint of the same architecture. Index sets are written as
ranges ("0-3,7") so that a person can read them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from prunekit.arguments import Place, checked
from prunekit.errors import PlanError
from prunekit.limits import HEADS, LAYERS, PLAN_BYTES, VOCABULARY, WIDTH
from prunekit.reading import ReadError, parse_json, read_text, shown

VERSION = 1
#: Indices that all sets of one plan may hold together; a few letters, "0-99999999999", can name more than fit into memory.
MOST = 2 * VOCABULARY
_RANGE = re.compile(r"\s*([0-9]{1,12})(?:-([0-9]{1,12}))?\s*", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SHOWN = 60  # characters of a key that an error repeats


def format_indices(indices: Iterable[int]) -> str:
    """Sorted indices as ranges: (0, 1, 2, 5) -> "0-2,5"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    """(first, last) of each range of a text; raises ValueError for what is none."""
    for part in text.split(",") if text.strip() else ():
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"{part.strip()[:_SHOWN]!r} is neither an index nor a range such as 0-3")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part.strip()!r} ends before it begins")
        yield first, last


def _count(text: str) -> int:
    """How many indices a text names; 0 for what names none, whose own field says so."""
    try:
        return sum(last - first + 1 for first, last in _ranges(text))
    except ValueError:
        return 0


def parse_indices(text: str) -> tuple[int, ...]:
    """The inverse of `format_indices`; raises ValueError on anything else, and on more than `VOCABULARY` indices."""
    ranges = list(_ranges(text))
    if sum(last - first + 1 for first, last in ranges) > VOCABULARY:
        raise ValueError(f"more than {VOCABULARY:,} indices are named")
    return tuple(itertools.chain.from_iterable(range(first, last + 1) for first, last in ranges))


def _indices(value: object) -> tuple[int, ...]:
    if isinstance(value, str):
        found = parse_indices(value)
    elif not isinstance(value, Iterable) or isinstance(value, (Mapping, bytes)):
        raise ValueError("must be ranges such as '0-3,7', or a list of indices")
    else:
        found = tuple(_index(item) for item in value)
    if any(b <= a for a, b in itertools.pairwise(found)):
        raise ValueError("indices must increase strictly (no duplicates)")
    if found and found[0] < 0:
        raise ValueError("indices must be >= 0")
    return found


def _index(value: object) -> int:
    """A whole number as it is: 0.9 is none, nor is True."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError("indices must be whole numbers") from None


def _block(value: object) -> int:
    """The number of a block as a key, which JSON writes as text."""
    if isinstance(value, str):
        if not re.fullmatch("0|[1-9][0-9]{0,8}", value, re.ASCII):
            raise ValueError("the key must be the number of a block")
        return int(value)
    return _index(value)


Indices = Annotated[tuple[int, ...], BeforeValidator(_indices), PlainSerializer(format_indices, return_type=str)]


Block = Annotated[int, BeforeValidator(_block)]
Kept = dict[Block, Indices]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(shown(part) for part in first["loc"] if part != "[key]") or type(self).__name__.lower()
            raise PlanError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


class Source(_Frozen):
    """The shape of the model that a plan was made for; a plan fits every checkpoint of the same shape.

    `heads` counts the attention units that can be removed one by one (for grouped-query attention these are the
    key/value groups), `ffn` the intermediate neurons of each block.
    """

    model_type: Annotated[str, Field(min_length=1, max_length=_SHOWN)]
    layers: Annotated[int, Field(strict=True, ge=0, le=LAYERS)]
    hidden: Annotated[int, Field(strict=True, ge=1, le=WIDTH)]
    heads: Annotated[int, Field(strict=True, ge=0, le=HEADS)]
    ffn: Annotated[int, Field(strict=True, ge=0, le=WIDTH)]
    vocabulary: Annotated[int, Field(strict=True, ge=1, le=VOCABULARY)]


class ReadoutPlan(_Frozen):
    """The neurons that the classifier reads: {layer: dimensions}; layer 0 is the embedding output, layer k block k's output."""

    pooling: Literal["cls", "mean", "token", "last"]
    neurons: Kept

    @property
    def size(self) -> int:
        """Number of neurons read."""
        return sum(len(dims) for dims in self.neurons.values())

    @property
    def top(self) -> int:
        """The highest layer read; every block above it is gone."""
        return max(layer for layer, dims in self.neurons.items() if dims)


class Plan(_Frozen):
    """What is kept. `None`, or a layer that is not named, means everything.

    Attributes
    ----------
    layers
        Blocks kept, of 0..L-1.
    heads
        {block: heads kept}; an empty set removes the attention block.
    ffn
        {block: FFN neurons kept}; an empty set removes the FFN block.
    affine
        Blocks whose FFN an affine map of its input takes the place of.
    hidden
        Dimensions of the residual stream kept.
    vocabulary
        Token ids kept.
    components
        How many principal components of the last state the model's own head reads, in the place of all dimensions.
    readout
        Neurons read by the classifier, which takes the place of the model's own head.
    provenance
        Where the plan comes from (tool versions, recipe, seed, data); not part of the digest.
    """

    version: Literal[1] = 1
    source: Source
    layers: Indices | None = None
    heads: Kept = {}
    ffn: Kept = {}
    affine: Indices | None = None
    hidden: Indices | None = None
    vocabulary: Indices | None = None
    components: Annotated[int, Field(strict=True, ge=1, le=WIDTH)] | None = None
    readout: ReadoutPlan | None = None
    provenance: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, fields: Any) -> Any:
        """Count what ranges name before any of them is written out."""
        if isinstance(fields, Mapping):
            named = [fields.get(name) for name in ("layers", "heads", "ffn", "affine", "hidden", "vocabulary")]
            readout = fields.get("readout")
            named.append(readout.get("neurons") if isinstance(readout, Mapping) else None)
            texts = [text for each in named for text in (each.values() if isinstance(each, Mapping) else (each,)) if isinstance(text, str)]
            if sum(map(_count, texts)) > MOST:
                raise ValueError(f"more than {MOST:,} indices are named")
        return fields

    @model_validator(mode="after")
    def _in_range(self) -> Plan:
        source = self.source
        _check("layers", self.layers, source.layers)
        _check("hidden", self.hidden, source.hidden)
        _check("vocabulary", self.vocabulary, source.vocabulary)
        for name, kept, size in (("heads", self.heads, source.heads), ("ffn", self.ffn, source.ffn)):
            for layer, indices in kept.items():
                _check(f"{name}, block {layer}", indices, size, may_be_empty=True)
                _check(f"{name}, blocks", (layer,), source.layers)
        _check("affine, blocks", self.affine, source.layers)
        for layer in self.affine or ():
            if layer in self.ffn:
                raise ValueError(f"affine: block {layer} is also in 'ffn'; an affine map leaves no FFN neurons")
        if self.components is not None:
            if self.readout is not None:
                raise ValueError("components: the readout's classifier is one linear layer of its own; name one of the two")
            width = source.hidden if self.hidden is None else len(self.hidden)
            if self.components >= width:
                raise ValueError(f"components: {self.components} of {width} dimensions are not fewer")
        if self.readout is not None:
            for layer, indices in self.readout.neurons.items():
                _check("readout, layers", (layer,), source.layers + 1)
                _check(f"readout, layer {layer}", indices, source.hidden, may_be_empty=True)
            if not self.readout.size:
                raise ValueError("the readout keeps no neuron")
            if self.layers is not None and any(b not in self.layers for b in range(self.readout.top)):
                missing = sorted(set(range(self.readout.top)) - set(self.layers))
                if self.readout.top - 1 in missing:
                    raise ValueError(f"the readout reads layer {self.readout.top}, whose block {missing[-1]} is removed")
        return self

    @property
    def kept_layers(self) -> tuple[int, ...]:
        """Blocks kept, always explicit."""
        return tuple(range(self.source.layers)) if self.layers is None else self.layers

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON of everything but the provenance."""
        body = self.model_dump(mode="json", exclude={"provenance"}, exclude_none=True)
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> str:
        """Indented JSON with the digest, for people and for `from_json`."""
        body = self.model_dump(mode="json", exclude_none=True)
        return json.dumps({**body, "digest": self.digest}, indent=2, sort_keys=True) + "\n"

    @classmethod
    @checked("Plan.from_json")
    def from_json(cls, text: str, *, name: str = "plan") -> Plan:
        """Read a plan; raises PlanError with one line that says what is wrong."""
        try:
            body = parse_json(text, unique=True)
        except ReadError as error:
            raise PlanError(f"{name} cannot be read: {error}") from None
        if not isinstance(body, Mapping):
            raise PlanError(f"{name} must be a JSON object. Got {type(body).__name__} instead.")
        fields = dict(body)
        digest = fields.pop("digest", None)
        version = fields.get("version", VERSION)
        if type(version) is not int or version > VERSION:
            raise PlanError(f"{name} has version {ascii(version)[:_SHOWN]}; this prunekit reads up to {VERSION}. Upgrade prunekit.")
        if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            raise PlanError(f"{name} is not a valid plan: digest: must be 64 hexadecimal digits")
        try:
            plan = cls(**fields)
        except PlanError as error:
            raise PlanError(f"{name} is not a valid plan: {error}") from None
        if digest is not None and digest != plan.digest:
            raise PlanError(
                f"{name} was edited: its digest is {digest[:12]}, its content has {plan.digest[:12]}. Remove 'digest' to accept the edit."
            )
        return plan

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    @checked("Plan.load")
    def load(cls, path: Place) -> Plan:
        """Read a plan file, or the plan.json of a directory that prunekit wrote; raises PlanError."""
        place = Path(path).expanduser()
        if place.is_dir():
            place = place / "plan.json"
        try:
            text = read_text(place, PLAN_BYTES)
        except ReadError as error:
            raise PlanError(f"The plan {str(place)!r} cannot be read: {error}.") from None
        return cls.from_json(text, name=str(place))


def _check(what: str, indices: tuple[int, ...] | None, size: int, *, may_be_empty: bool = False) -> None:
    if indices is None:
        return
    if not indices and not may_be_empty:
        raise ValueError(f"{what}: nothing is kept")
    if indices and indices[-1] >= size:
        raise ValueError(f"{what}: index {indices[-1]} is out of range, the model has {size}")
