from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunekit.errors import PlanError
from prunekit.plan import Plan, ReadoutPlan, Source, compose, describe, diff, kept_blocks, slim_layer, slim_source

SOURCE = Source(model_type="bert", layers=4, hidden=6, heads=3, ffn=5, vocabulary=9)
FIRST = Plan(source=SOURCE, layers=(0, 2, 3), heads={2: (0, 2)}, ffn={3: (1, 2, 4)}, hidden=(0, 2, 3, 5))


def test_kept_blocks_end_below_the_readout() -> None:
    readout = ReadoutPlan(pooling="cls", neurons={0: (1,), 3: (2,)})
    plan = Plan(source=SOURCE, layers=(0, 2, 3), readout=readout)
    assert kept_blocks(plan) == (0, 2)
    assert [slim_layer(plan, layer) for layer in (0, 1, 3)] == [0, 1, 2]
    with pytest.raises(PlanError, match="layer 2, whose block 1"):
        slim_layer(plan, 2)


def test_slim_source() -> None:
    assert slim_source(FIRST) == Source(model_type="bert", layers=3, hidden=4, heads=3, ffn=5, vocabulary=9)
    uniform = Plan(source=SOURCE, layers=(1,), ffn={1: (0, 4), 2: (1,)})
    assert slim_source(uniform).ffn == 2


def test_composition_speaks_of_the_dense_model() -> None:
    slim = slim_source(FIRST)
    readout = ReadoutPlan(pooling="mean", neurons={0: (0,), 3: (1, 3)})
    second = Plan(source=slim, layers=(0, 2), heads={1: (1,)}, ffn={2: (0, 2)}, hidden=(1, 3), readout=readout)
    both = compose(FIRST, second)
    assert both.layers == (0, 3)
    assert both.heads == {2: (2,)}
    assert both.ffn == {3: (1, 4)}
    assert both.hidden == (2, 5)
    assert both.readout is not None
    assert both.readout.neurons == {0: (0,), 4: (2, 5)}
    assert both.source == SOURCE


def test_composition_with_nothing_is_the_plan_itself() -> None:
    assert compose(FIRST, Plan(source=slim_source(FIRST))).digest == FIRST.digest
    assert compose(Plan(source=SOURCE), FIRST).digest == FIRST.digest


def test_composition_is_associative() -> None:
    second = Plan(source=slim_source(FIRST), layers=(1, 2), hidden=(0, 1, 3), heads={1: (1,)})
    third = Plan(source=slim_source(second), layers=(1,), hidden=(2,))
    assert compose(compose(FIRST, second), third).digest == compose(FIRST, compose(second, third)).digest


def test_what_does_not_compose_is_refused() -> None:
    with pytest.raises(PlanError, match="leaves layers = 3, the second was made for 4"):
        compose(FIRST, FIRST)
    readout = Plan(source=SOURCE, readout=ReadoutPlan(pooling="cls", neurons={4: (0,)}))
    with pytest.raises(PlanError, match="both choose a readout"):
        compose(readout, readout)
    with pytest.raises(PlanError, match="heads of block 1: 2, of which the first leaves only 2"):
        compose(FIRST, Plan(source=slim_source(FIRST), heads={1: (2,)}))


def test_describe_and_diff() -> None:
    assert describe(FIRST) == [
        ("blocks", "3 of 4", "0,2-3"),
        ("heads of block 2", "2 of 3", "0,2"),
        ("FFN neurons of block 3", "3 of 5", "1-2,4"),
        ("hidden dimensions", "4 of 6", "0,2-3,5"),
    ]
    assert diff(FIRST, FIRST) == ""
    other = Plan(source=SOURCE, layers=(0, 2, 3), heads={2: ()}, ffn={3: (1, 2, 4)})
    assert diff(FIRST, other).splitlines() == [
        "heads of block 2: 2 of 3 (0,2) | 0 of 3 (none)",
        "hidden dimensions: 4 of 6 (0,2-3,5) | all",
    ]
    read = Plan(source=SOURCE, readout=ReadoutPlan(pooling="cls", neurons={1: (0, 1)}))
    assert ("neurons read of layer 1", "2 of 6", "0-1") in describe(read)


@dataclass(frozen=True)
class Block:
    """A block whose parts are called by their numbers in the dense model; an affine map has taken the place of no, or one, FFN."""

    name: int
    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    affine: bool = False


@dataclass(frozen=True)
class Model:
    """All that a plan can cut, by name."""

    blocks: tuple[Block, ...]
    hidden: tuple[int, ...]
    vocabulary: tuple[int, ...]
    read: frozenset[tuple[int, int]] | None = None


DENSE = Model(tuple(Block(name, (0, 1, 2), tuple(range(5))) for name in range(4)), tuple(range(6)), tuple(range(9)))


def cut(model: Model, plan: Plan) -> Model:
    """Carry out a plan on the model for which it was made, by position, without any help of `prunekit.plan`."""
    blocks = []
    for place, block in enumerate(model.blocks):
        if plan.layers is not None and place not in plan.layers:
            continue
        if plan.readout is not None and place >= max(layer for layer, dims in plan.readout.neurons.items() if dims):
            continue
        found = replace(block, heads=tuple(block.heads[at] for at in plan.heads.get(place, range(len(block.heads)))))
        if place in plan.ffn:
            found = replace(found, ffn=tuple(block.ffn[at] for at in plan.ffn[place]), affine=False)
        if place in (plan.affine or ()):
            found = replace(found, ffn=(), affine=True)
        blocks.append(found)
    take = lambda kept, names: names if kept is None else tuple(names[at] for at in kept)  # noqa: E731
    read = model.read
    if plan.readout is not None:
        # A neuron is of the output of a block, or of the embeddings (-1).
        names = (-1, *(block.name for block in model.blocks))
        read = frozenset((names[layer], model.hidden[at]) for layer, dims in plan.readout.neurons.items() for at in dims)
    return Model(tuple(blocks), take(plan.hidden, model.hidden), take(plan.vocabulary, model.vocabulary), read)


def some(draw: st.DrawFn, size: int, least: int = 1) -> tuple[int, ...]:
    return tuple(sorted(draw(st.sets(st.integers(0, size - 1), min_size=min(least, size)))))


def plan_for(draw: st.DrawFn, model: Model, source: Source, *, readout: bool = False) -> Plan:
    """A plan of whatever can be cut of a model: blocks, and parts of some of all its blocks."""
    count = len(model.blocks)
    places = st.sets(st.integers(0, count - 1))
    chosen: dict[str, Any] = {
        "layers": some(draw, count) if draw(st.booleans()) else None,
        "heads": {at: some(draw, len(block.heads), 0) for at, block in enumerate(model.blocks) if block.heads and draw(st.booleans())},
        "ffn": {at: some(draw, len(block.ffn), 0) if block.ffn else () for at, block in enumerate(model.blocks) if draw(st.booleans())},
        "hidden": some(draw, len(model.hidden)) if draw(st.booleans()) else None,
        "vocabulary": some(draw, len(model.vocabulary)) if draw(st.booleans()) else None,
    }
    affine = {at for at in draw(places) if at not in chosen["ffn"] and (model.blocks[at].ffn or model.blocks[at].affine)}
    chosen["affine"] = tuple(sorted(affine)) or None
    if readout and draw(st.booleans()):
        kept = range(count) if chosen["layers"] is None else chosen["layers"]
        layers = draw(st.sets(st.sampled_from([0, *(block + 1 for block in kept)]), min_size=1))
        hidden = tuple(range(len(model.hidden))) if chosen["hidden"] is None else chosen["hidden"]
        dims = {layer: draw(st.sets(st.sampled_from(hidden), min_size=1)) for layer in layers}
        chosen["readout"] = ReadoutPlan(pooling="cls", neurons={layer: tuple(sorted(each)) for layer, each in dims.items()})
    return Plan(source=source, **chosen)


@settings(max_examples=200)
@given(st.data())
def test_a_composition_cuts_what_both_cut_in_turn(data: st.DataObject) -> None:
    first = plan_for(data.draw, DENSE, SOURCE)
    once = cut(DENSE, first)
    assert tuple(block.name for block in once.blocks) == kept_blocks(first)
    second = plan_for(data.draw, once, slim_source(first), readout=True)
    both = compose(first, second)
    left, shape = cut(once, second), slim_source(both)
    assert cut(DENSE, both) == left
    assert (shape.layers, shape.hidden, shape.vocabulary) == (len(left.blocks), len(left.hidden), len(left.vocabulary))


def test_an_affine_map_cannot_take_the_place_of_an_ffn_that_is_gone() -> None:
    first = Plan(source=SOURCE, layers=(1, 3), ffn={3: ()})
    with pytest.raises(PlanError, match="FFN of block 3, which the first removes"):
        compose(first, Plan(source=slim_source(first), affine=(1,)))
