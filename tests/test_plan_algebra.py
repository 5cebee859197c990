from __future__ import annotations

import pytest

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
