"""Plans as values: what they keep in effect, how they compose, how they differ. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prunekit.errors import PlanError
from prunekit.plan import Indices, Plan, ReadoutPlan, Source, format_indices


def kept_blocks(plan: Plan) -> tuple[int, ...]:
    """Blocks that exist after the plan: those kept, below the highest layer that a readout reads."""
    if plan.readout is None:
        return plan.kept_layers
    return tuple(block for block in plan.kept_layers if block < plan.readout.top)


def ffn_units(plan: Plan) -> dict[int, Indices]:
    """{block: FFN neurons kept} of the blocks that a plan names; an affine map leaves none."""
    return {**plan.ffn, **dict.fromkeys(plan.affine or (), ())}


def slim_layer(plan: Plan, layer: int) -> int:
    """Number in the slim model of layer `layer` (0 the embedding output, k the output of block k-1); raises PlanError."""
    if layer == 0:
        return 0
    blocks = kept_blocks(plan)
    if layer - 1 not in blocks:
        raise PlanError(f"The readout reads layer {layer}, whose block {layer - 1} is removed; keep the block or do not read it.")
    return blocks.index(layer - 1) + 1


def slim_source(plan: Plan) -> Source:
    """Shape of the slim model, as a second plan has to state it.

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


def _through(first: Indices | None, second: Indices | None, what: str) -> Indices | None:
    """`second` numbers what `first` keeps; the same set in the original numbering."""
    if second is None or first is None:
        return first if second is None else second
    if second and second[-1] >= len(first):
        raise PlanError(f"The second plan keeps {what} {second[-1]}, of which the first leaves only {len(first)}.")
    return tuple(first[index] for index in second)


def _affine(first: Plan, second: Plan, blocks: Indices) -> Indices:
    """Blocks that either plan gives an affine map in the place of their FFN, in the original numbering."""
    own = first.affine or ()
    later = tuple(blocks[block] for block in second.affine or ())
    gone = next((block for block in later if first.ffn.get(block) == ()), None)
    if gone is not None:
        raise PlanError(f"The second plan puts an affine map in the place of the FFN of block {gone}, which the first removes.")
    kept = (block for block in own if block in blocks and blocks.index(block) not in second.ffn)
    return tuple(sorted({*kept, *later}))


def compose(first: Plan, second: Plan) -> Plan:
    """One plan that does what `first` and then `second` do.

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
        found = {block: ours[block] for block in blocks if block in ours}
        for slim, kept in theirs.items():
            combined = _through(ours.get(blocks[slim]), kept, f"{name} of block {slim}:")
            assert combined is not None
            found[blocks[slim]] = combined
        return found

    ffn = units(ffn_units(first), second.ffn, "ffn")
    affine = _affine(first, second, blocks)
    layers = _through(blocks, second.layers, "block")
    hidden = _through(first.hidden, second.hidden, "hidden dimension")
    readout = first.readout
    if second.readout is not None:
        neurons = {
            0 if layer == 0 else blocks[layer - 1] + 1: _through(first.hidden, dims, "hidden dimension") or ()
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
        vocabulary=_through(first.vocabulary, second.vocabulary, "token id"),
        components=second.components if first.components is None else first.components,
        readout=readout,
        provenance={"composed": [first.provenance, second.provenance]},
    )


def _table(plan: Plan) -> dict[str, tuple[int, int, str]]:
    """{unit: (kept, of, which)} of everything that a plan names."""
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
    """Rows (unit, "kept of all", which) for a table that a person reads; what is not named is kept whole."""
    return [(unit, f"{kept} of {size}", which) for unit, (kept, size, which) in _table(plan).items()]


def diff(a: Plan, b: Plan) -> str:
    """What differs between two plans, one line each; the empty string if they do the same."""
    lines = [f"source {name}: {x} | {y}" for name, x in a.source for y in [getattr(b.source, name)] if x != y]
    ours, theirs = _table(a), _table(b)
    shown: Callable[[tuple[int, int, str] | None], str] = lambda row: "all" if row is None else f"{row[0]} of {row[1]} ({row[2]})"  # noqa: E731
    for unit in sorted(ours.keys() | theirs.keys()):
        if ours.get(unit) != theirs.get(unit):
            lines.append(f"{unit}: {shown(ours.get(unit))} | {shown(theirs.get(unit))}")
    return "\n".join(lines)
