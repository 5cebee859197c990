"""A Plan says what is kept of a model, in the model's own numbering (waist 2: between deciding and doing).

It holds no scores and no weights, needs no torch, and is plain versioned JSON that can be read, reviewed,
diffed, composed, and applied to another checkpoint of the same architecture. Index sets are written as
ranges ("0-3,7") so that a person can read them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from prunekit.errors import PlanError

VERSION = 1


def format_indices(indices: Iterable[int]) -> str:
    """Sorted indices as ranges: (0, 1, 2, 5) -> "0-2,5"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def parse_indices(text: str) -> tuple[int, ...]:
    """The inverse of `format_indices`; raises ValueError on anything else."""
    found: list[int] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)


def _indices(value: object) -> tuple[int, ...]:
    found = parse_indices(value) if isinstance(value, str) else tuple(int(v) for v in value)  # type: ignore[attr-defined]
    if any(b <= a for a, b in itertools.pairwise(found)):
        raise ValueError("indices must increase strictly (no duplicates)")
    if found and found[0] < 0:
        raise ValueError("indices must be >= 0")
    return found


Indices = Annotated[tuple[int, ...], BeforeValidator(_indices), PlainSerializer(format_indices, return_type=str)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """The shape of the model that a plan was made for; a plan fits every checkpoint of the same shape.

    `heads` counts the attention units that can be removed one by one (for grouped-query attention these are the
    key/value groups), `ffn` the intermediate neurons of each block.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocabulary: int


class ReadoutPlan(_Frozen):
    """The neurons that the classifier reads: {layer: dimensions}; layer 0 is the embedding output, layer k block k's output."""

    pooling: Literal["cls", "mean", "token", "last"]
    neurons: dict[int, Indices]

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
    heads: dict[int, Indices] = {}
    ffn: dict[int, Indices] = {}
    affine: Indices | None = None
    hidden: Indices | None = None
    vocabulary: Indices | None = None
    components: Annotated[int, Field(strict=True, ge=1)] | None = None
    readout: ReadoutPlan | None = None
    provenance: dict[str, Any] = {}

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
    def from_json(cls, text: str, *, name: str = "plan") -> Plan:
        """Read a plan; raises PlanError with one line that says what is wrong."""
        try:
            body = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"{name} is not JSON: {error}") from None
        if not isinstance(body, Mapping):
            raise PlanError(f"{name} must be a JSON object. Got {type(body).__name__} instead.")
        fields = dict(body)
        digest = fields.pop("digest", None)
        version = fields.get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise PlanError(f"{name} has version {version}; this prunekit reads up to {VERSION}. Upgrade prunekit.")
        try:
            plan = cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "plan"
            raise PlanError(f"{name} is not a valid plan: {where}: {first['msg']}") from None
        if digest is not None and digest != plan.digest:
            raise PlanError(
                f"{name} was edited: its digest is {digest[:12]}, its content has {plan.digest[:12]}. Remove 'digest' to accept the edit."
            )
        return plan

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan file, or the plan.json of a directory that prunekit wrote; raises PlanError."""
        path = Path(path)
        if path.is_dir():
            path = path / "plan.json"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"The plan {str(path)!r} cannot be read: {error}") from None
        return cls.from_json(text, name=str(path))


def _check(what: str, indices: tuple[int, ...] | None, size: int, *, may_be_empty: bool = False) -> None:
    if indices is None:
        return
    if not indices and not may_be_empty:
        raise ValueError(f"{what}: nothing is kept")
    if indices and indices[-1] >= size:
        raise ValueError(f"{what}: index {indices[-1]} is out of range, the model has {size}")
