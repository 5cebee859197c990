from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prunekit.errors import PlanError
from prunekit.plan import Plan, ReadoutPlan, Source
from prunekit.validation.indices import format_indices, parse_indices

SOURCE = Source(model_type="bert", layers=4, hidden=8, heads=2, ffn=16, vocabulary=30)


def plan(**kept: Any) -> Plan:
    return Plan(source=SOURCE, **kept)


def full() -> Plan:
    return plan(
        layers=(0, 1, 3),
        heads={0: (1,), 1: ()},
        ffn={0: (0, 1, 2, 9), 3: ()},
        hidden=(0, 2, 3, 4, 7),
        vocabulary=tuple(range(10)),
        readout=ReadoutPlan(pooling="cls", neurons={0: (1, 2), 2: (0, 7)}),
        provenance={"seed": 0},
    )


@given(st.sets(st.integers(0, 5000)).map(sorted))
def test_indices_round_trip(indices: list[int]) -> None:
    text = format_indices(indices)
    assert parse_indices(text) == tuple(indices)
    # As short as ranges can be: no two neighbours are left apart.
    ends = [tuple(int(end) for end in part.split("-")) for part in text.split(",") if part]
    assert all(b[0] > a[-1] + 1 for a, b in itertools.pairwise(ends))


def test_json_round_trip() -> None:
    again = Plan.from_json(full().to_json())
    assert again == full()
    assert again.to_json() == full().to_json()


def test_file_round_trip(tmp_path: Path) -> None:
    full().save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == full()


def test_the_file_is_for_people() -> None:
    body = json.loads(full().to_json())
    assert body["version"] == 1
    assert body["ffn"]["0"] == "0-2,9"
    assert body["digest"] == full().digest


def test_the_digest_is_of_what_is_kept() -> None:
    assert full().model_copy(update={"provenance": {"seed": 1}}).digest == full().digest
    assert plan(layers=(0, 1)).digest != plan(layers=(0, 2)).digest
    assert plan(layers=(0, 1, 2, 3)).digest != plan().digest


def test_the_digest_does_not_depend_on_the_order_of_the_blocks() -> None:
    assert plan(heads={0: (0,), 2: (1,)}).digest == plan(heads={2: (1,), 0: (0,)}).digest


def test_plans_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        plan().layers = (0,)  # type: ignore[misc]


def test_nothing_named_means_everything() -> None:
    assert plan().kept_layers == (0, 1, 2, 3)
    assert plan(layers=(1,)).kept_layers == (1,)


def test_readout_counts() -> None:
    readout = full().readout
    assert readout is not None
    assert readout.size == 4
    assert readout.top == 2
    assert ReadoutPlan(pooling="mean", neurons={0: (1,), 3: ()}).top == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"version": 2}, "version 2; this prunekit reads up to 1. Upgrade"),
        ({"version": 0}, "version"),
        ({"layers": "0,0"}, "increase strictly"),
        ({"layers": "3,1"}, "increase strictly"),
        ({"layers": [1, 1]}, "increase strictly"),
        ({"layers": [-1]}, "must be >= 0"),
        ({"layers": "0-4"}, "index 4 is out of range, the model has 4"),
        ({"layers": ""}, "nothing is kept"),
        ({"layers": "a-b"}, "layers"),
        ({"hidden": "8"}, "index 8 is out of range"),
        ({"hidden": []}, "nothing is kept"),
        ({"vocabulary": "30"}, "index 30 is out of range"),
        ({"heads": {"0": "2"}}, "heads, block 0: index 2"),
        ({"heads": {"4": "0"}}, "heads, blocks: index 4"),
        ({"ffn": {"0": "16"}}, "ffn, block 0: index 16"),
        ({"readout": {"pooling": "cls", "neurons": {"5": "0"}}}, "readout, layers: index 5"),
        ({"readout": {"pooling": "cls", "neurons": {"4": "8"}}}, "readout, layer 4: index 8"),
        ({"readout": {"pooling": "cls", "neurons": {"4": ""}}}, "keeps no neuron"),
        ({"readout": {"pooling": "max", "neurons": {"4": "0"}}}, "pooling"),
        ({"layers": "0-1", "readout": {"pooling": "cls", "neurons": {"3": "0"}}}, "reads layer 3, whose block 2 is removed"),
        ({"colour": "red"}, "colour"),
        ({"source": None}, "source"),
    ],
)
def test_a_wrong_plan_is_one_line(changes: dict[str, Any], match: str) -> None:
    body = {**json.loads(plan().to_json()), **changes}
    del body["digest"]
    with pytest.raises(PlanError, match=match) as caught:
        Plan.from_json(json.dumps(body), name="plan.json")
    assert "\n" not in str(caught.value)
    assert "plan.json" in str(caught.value)


def test_an_edit_is_noticed_and_can_be_accepted() -> None:
    body = {**json.loads(plan(layers=(0, 1)).to_json()), "layers": "0-2"}
    with pytest.raises(PlanError, match=r"was edited.*Remove 'digest' to accept the edit"):
        Plan.from_json(json.dumps(body))
    del body["digest"]
    assert Plan.from_json(json.dumps(body)).kept_layers == (0, 1, 2)


@pytest.mark.parametrize(("text", "match"), [("{", "not JSON"), ("[]", "must be a JSON object. Got list"), ("3", "Got int")])
def test_not_a_plan_at_all(text: str, match: str) -> None:
    with pytest.raises(PlanError, match=match):
        Plan.from_json(text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.load(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.load(tmp_path / "binary.json")
