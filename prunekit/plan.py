"""`Plan`: what is kept of a model, in the model's own numbering; the interface between analyzers and transforms.

It holds no scores and no weights, needs no torch, and is plain versioned JSON that can be read, reviewed,
diffed, composed, and applied to another checkpoint of the same architecture. Index sets are written as
ranges ("0-3,7") so that a person can read them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prunekit.errors import OutputError, PlanError
from prunekit.validation.arguments import Place, checked
from prunekit.validation.indices import Indices, Kept, count_indices, format_indices
from prunekit.validation.limits import HEADS, LAYERS, PLAN_BYTES, VOCABULARY, WIDTH
from prunekit.validation.reading import ReadError, parse_json, read_text, shown

VERSION = 1
#: Most indices in all sets of one plan together; a short text such as "0-99999999999" can name more than fit into memory.
MOST = 2 * VOCABULARY
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SHOWN = 60  # characters of a key that an error repeats


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            location = ".".join(shown(part) for part in first["loc"] if part != "[key]") or type(self).__name__.lower()
            raise PlanError(f"{location}: {first['msg'].removeprefix('Value error, ')}") from None


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
        """The highest layer read; every block above it is removed."""
        return max(layer for layer, dims in self.neurons.items() if dims)


class Plan(_Frozen):
    """Units that are kept. `None`, or a layer that is not named, means all.

    Attributes
    ----------
    layers
        Blocks kept, of 0..L-1.
    heads
        {block: heads kept}; an empty set removes the attention block.
    ffn
        {block: FFN neurons kept}; an empty set removes the FFN block.
    affine
        Blocks whose FFN is replaced by an affine map of its input.
    hidden
        Dimensions of the residual stream kept.
    vocabulary
        Token ids kept.
    components
        Number of principal components of the last state that the model's own head reads, instead of all dimensions.
    readout
        Neurons read by the classifier that replaces the model's own head.
    provenance
        Origin of the plan (tool versions, recipe, seed, data); not part of the digest.
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
        """Count the indices that ranges name before any of them is expanded."""
        if isinstance(fields, Mapping):
            sets = [fields.get(name) for name in ("layers", "heads", "ffn", "affine", "hidden", "vocabulary")]
            readout = fields.get("readout")
            sets.append(readout.get("neurons") if isinstance(readout, Mapping) else None)
            texts = [text for kept in sets for text in (kept.values() if isinstance(kept, Mapping) else (kept,)) if isinstance(text, str)]
            if sum(map(count_indices, texts)) > MOST:
                raise ValueError(f"more than {MOST:,} indices are named")
        return fields

    @model_validator(mode="after")
    def _in_range(self) -> Plan:
        source = self.source
        _check_range("layers", self.layers, source.layers)
        _check_range("hidden", self.hidden, source.hidden)
        _check_range("vocabulary", self.vocabulary, source.vocabulary)
        for name, kept, size in (("heads", self.heads, source.heads), ("ffn", self.ffn, source.ffn)):
            for layer, indices in kept.items():
                _check_range(f"{name}, block {layer}", indices, size, may_be_empty=True)
                _check_range(f"{name}, blocks", (layer,), source.layers)
        _check_range("affine, blocks", self.affine, source.layers)
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
                _check_range("readout, layers", (layer,), source.layers + 1)
                _check_range(f"readout, layer {layer}", indices, source.hidden, may_be_empty=True)
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
        """sha256 of the canonical JSON of everything but the provenance."""
        body = self.model_dump(mode="json", exclude={"provenance"}, exclude_none=True)
        return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> str:
        """Return indented JSON with the digest, which `from_json` parses."""
        body = self.model_dump(mode="json", exclude_none=True)
        return json.dumps({**body, "digest": self.digest}, indent=2, sort_keys=True) + "\n"

    @classmethod
    @checked("Plan.from_json")
    def from_json(cls, text: str, *, name: str = "plan") -> Plan:
        """Parse a plan; raises PlanError with a one-line reason."""
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

    @checked("Plan.save")
    def save(self, path: Place) -> None:
        """Write `to_json` to a file; raise OutputError where that fails."""
        try:
            Path(path).expanduser().write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"The plan {str(path)!r} cannot be written: {error.strerror or error}.") from error

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


def _check_range(name: str, indices: tuple[int, ...] | None, size: int, *, may_be_empty: bool = False) -> None:
    if indices is None:
        return
    if not indices and not may_be_empty:
        raise ValueError(f"{name}: nothing is kept")
    if indices and indices[-1] >= size:
        raise ValueError(f"{name}: index {indices[-1]} is out of range, the model has {size}")


def kept_blocks(plan: Plan) -> tuple[int, ...]:
    """Return the blocks that exist after the plan: those kept, below the highest layer that a readout reads."""
    if plan.readout is None:
        return plan.kept_layers
    return tuple(block for block in plan.kept_layers if block < plan.readout.top)


def ffn_units(plan: Plan) -> dict[int, Indices]:
    """Return {block: FFN neurons kept} of the blocks that a plan names; an affine map leaves none."""
    return {**plan.ffn, **dict.fromkeys(plan.affine or (), ())}


def slim_layer(plan: Plan, layer: int) -> int:
    """Return the number in the slim model of layer `layer` (0 the embedding output, k the output of block k-1); raises PlanError."""
    if layer == 0:
        return 0
    blocks = kept_blocks(plan)
    if layer - 1 not in blocks:
        raise PlanError(f"The readout reads layer {layer}, whose block {layer - 1} is removed; keep the block or do not read it.")
    return blocks.index(layer - 1) + 1


def slim_source(plan: Plan) -> Source:
    """Return the shape of the slim model, as a second plan has to state it.

    FFN and heads are those of the source where the plan leaves blocks uneven, since a Source has one number for all.
    """
    blocks = kept_blocks(plan)

    def width(kept: Mapping[int, Indices], full: int) -> int:
        widths = {len(kept[block]) if block in kept else full for block in blocks}
        return widths.pop() if len(widths) == 1 else full

    source = plan.source
    return Source(
        model_type=source.model_type,
        layers=len(blocks),
        hidden=source.hidden if plan.hidden is None else len(plan.hidden),
        heads=width(plan.heads, source.heads),
        ffn=width(ffn_units(plan), source.ffn),
        vocabulary=source.vocabulary if plan.vocabulary is None else len(plan.vocabulary),
    )


def _compose_indices(first: Indices | None, second: Indices | None, unit: str) -> Indices | None:
    """Return `second`, which numbers the units that `first` keeps, in the original numbering."""
    if second is None or first is None:
        return first if second is None else second
    if second and second[-1] >= len(first):
        raise PlanError(f"The second plan keeps {unit} {second[-1]}, of which the first leaves only {len(first)}.")
    return tuple(first[index] for index in second)


def _compose_affine(first: Plan, second: Plan, blocks: Indices) -> Indices:
    """Return the blocks whose FFN either plan replaces by an affine map, in the original numbering."""
    own = first.affine or ()
    later = tuple(blocks[block] for block in second.affine or ())
    removed = next((block for block in later if first.ffn.get(block) == ()), None)
    if removed is not None:
        raise PlanError(f"The second plan puts an affine map in the place of the FFN of block {removed}, which the first removes.")
    kept = (block for block in own if block in blocks and blocks.index(block) not in second.ffn)
    return tuple(sorted({*kept, *later}))


def compose(first: Plan, second: Plan) -> Plan:
    """Return one plan that is equivalent to `first` followed by `second`.

    Parameters
    ----------
    first : Plan
        In the numbering of the dense model.
    second : Plan
        In the numbering of the slim model that `first` leaves.

    Returns
    -------
    Plan
        In the numbering of the dense model, with the provenance of both.

    Raises
    ------
    PlanError
        If `second` was not made for what `first` leaves.
    """
    expected = slim_source(first)
    for name in ("model_type", "layers", "hidden", "vocabulary"):
        ours, theirs = getattr(expected, name), getattr(second.source, name)
        if ours != theirs:
            raise PlanError(f"The plans do not compose: the first leaves {name} = {ours}, the second was made for {theirs}.")
    if first.readout is not None and second.readout is not None:
        raise PlanError("The plans do not compose: both choose a readout, and the first one's has taken the head's place.")
    if first.components is not None and (second.components is not None or second.readout is not None):
        raise PlanError("The plans do not compose: the first one's head reads principal components, the second has it read otherwise.")
    blocks = kept_blocks(first)

    def units(ours: Mapping[int, Indices], theirs: Mapping[int, Indices], name: str) -> dict[int, Indices]:
        composed = {block: ours[block] for block in blocks if block in ours}
        for slim, kept in theirs.items():
            combined = _compose_indices(ours.get(blocks[slim]), kept, f"{name} of block {slim}:")
            assert combined is not None
            composed[blocks[slim]] = combined
        return composed

    ffn = units(ffn_units(first), second.ffn, "ffn")
    affine = _compose_affine(first, second, blocks)
    layers = _compose_indices(blocks, second.layers, "block")
    hidden = _compose_indices(first.hidden, second.hidden, "hidden dimension")
    readout = first.readout
    if second.readout is not None:
        neurons = {
            0 if layer == 0 else blocks[layer - 1] + 1: _compose_indices(first.hidden, dims, "hidden dimension") or ()
            for layer, dims in second.readout.neurons.items()
        }
        readout = ReadoutPlan(pooling=second.readout.pooling, neurons=neurons)
    return Plan(
        source=first.source,
        layers=None if layers == tuple(range(first.source.layers)) else layers,
        heads=units(first.heads, second.heads, "heads"),
        ffn={block: kept for block, kept in ffn.items() if block not in affine},
        affine=affine or None,
        hidden=hidden,
        vocabulary=_compose_indices(first.vocabulary, second.vocabulary, "token id"),
        components=second.components if first.components is None else first.components,
        readout=readout,
        provenance={"composed": [first.provenance, second.provenance]},
    )


def _table(plan: Plan) -> dict[str, tuple[int, int, str]]:
    """Return {unit: (kept, total, indices)} of everything that a plan names."""
    source, rows = plan.source, {}
    if plan.layers is not None:
        rows["blocks"] = (len(plan.layers), source.layers, format_indices(plan.layers))
    for name, kept, size in (("heads", plan.heads, source.heads), ("FFN neurons", plan.ffn, source.ffn)):
        for block in sorted(kept):
            rows[f"{name} of block {block}"] = (len(kept[block]), size, format_indices(kept[block]) or "none")
    if plan.affine is not None:
        rows["FFN blocks turned into affine maps"] = (len(plan.affine), source.layers, format_indices(plan.affine))
    if plan.hidden is not None:
        rows["hidden dimensions"] = (len(plan.hidden), source.hidden, format_indices(plan.hidden))
    if plan.components is not None:
        width = source.hidden if plan.hidden is None else len(plan.hidden)
        rows["principal components that the head reads"] = (plan.components, width, f"the first {plan.components}")
    if plan.vocabulary is not None:
        rows["vocabulary"] = (len(plan.vocabulary), source.vocabulary, format_indices(plan.vocabulary))
    if plan.readout is not None:
        rows["pooling of the readout"] = (1, 1, plan.readout.pooling)
        for layer in sorted(plan.readout.neurons):
            dims = plan.readout.neurons[layer]
            rows[f"neurons read of layer {layer}"] = (len(dims), source.hidden, format_indices(dims) or "none")
    return rows


def describe(plan: Plan) -> list[tuple[str, str, str]]:
    """Return rows (unit, "kept of all", indices) of a table for people; units that are not named are all kept."""
    return [(unit, f"{kept} of {size}", indices) for unit, (kept, size, indices) in _table(plan).items()]


def _format_row(row: tuple[int, int, str] | None) -> str:
    return "all" if row is None else f"{row[0]} of {row[1]} ({row[2]})"


def diff(a: Plan, b: Plan) -> str:
    """Return the differences between two plans, one line each; the empty string if there are none."""
    lines = [f"source {name}: {x} | {y}" for name, x in a.source for y in [getattr(b.source, name)] if x != y]
    ours, theirs = _table(a), _table(b)
    for unit in sorted(ours.keys() | theirs.keys()):
        if ours.get(unit) != theirs.get(unit):
            lines.append(f"{unit}: {_format_row(ours.get(unit))} | {_format_row(theirs.get(unit))}")
    return "\n".join(lines)
