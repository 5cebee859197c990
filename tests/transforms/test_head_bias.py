"""MPNet's blocks share one table of position biases, a column a head: each reads those of the heads that it keeps."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from prunekit.arch.view import ModelView
from prunekit.errors import ModelError
from prunekit.exporters.checkpoint import load, save_checkpoint
from prunekit.exporters.onnx import export_onnx, sample_space
from prunekit.exporters.parity import check_parity
from prunekit.pipeline.pruned import load_pruned
from prunekit.plan import Plan, compose
from prunekit.stats.blocks import Site
from prunekit.transforms.apply import apply, completed
from prunekit.transforms.cut import cut
from prunekit.transforms.head_bias import narrow_table
from prunekit.transforms.stubs import IndexSelect
from tests.lines import tokenizer_of
from tests.masking import masked
from tests.models import batch_of, build

HEAD = "ForSequenceClassification"
TABLE = "mpnet.encoder.relative_attention_bias.weight"


def plan_of(model: nn.Module, *kept: tuple[int, ...]) -> Plan:
    return Plan(source=ModelView.of(model).source, heads=dict(enumerate(kept)))


def logits(model: Any) -> torch.Tensor:
    batch = batch_of()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return found


def chosen(model: nn.Module) -> list[list[int] | None]:
    """The columns that each block picks of the table; None: it reads the whole table."""
    found = []
    for block in ModelView.of(model).blocks:
        picks = [module.index.tolist() for module in block.modules() if isinstance(module, IndexSelect)]
        found.append(picks[0] if picks else None)
    return found


def test_the_table_keeps_what_any_block_reads() -> None:
    model = build("mpnet", HEAD)
    slim = apply(model, plan_of(model, (1, 3), (3,), (), (1,)))
    table = slim.state_dict()[TABLE]
    assert torch.equal(table, model.state_dict()[TABLE][:, [1, 3]])
    assert ModelView.of(slim).body.encoder.n_heads == 2
    # The third block has no attention, the first reads all that is left.
    assert chosen(slim) == [None, [1], None, [0]]
    assert not [name for name in slim.state_dict() if "index" in name]
    torch.testing.assert_close(logits(slim), logits(masked(model, plan_of(model, (1, 3), (3,), (), (1,)))), atol=1e-5, rtol=1e-4)


def test_equal_heads_are_the_model_that_they_were_before_heads_could_differ() -> None:
    model = build("mpnet", HEAD)
    slim = apply(model, plan_of(model, *[(0, 2)] * 4))
    assert chosen(slim) == [None] * 4
    assert slim.state_dict()[TABLE].shape == (32, 2)
    assert {name for name, _ in slim.named_modules()} == {name for name, _ in model.named_modules()}


def test_without_any_attention_the_table_stays() -> None:
    model = build("mpnet", HEAD)
    slim = apply(model, plan_of(model, (), (), (), ()))
    assert slim.state_dict()[TABLE].shape == (32, 4)
    assert chosen(slim) == [None] * 4


def test_cutting_step_by_step_is_cutting_at_once() -> None:
    model = build("mpnet", HEAD)
    live = copy.deepcopy(model)
    view = ModelView.of(live)
    for block, stay, units in ((0, (1, 2, 3), 4), (1, (0, 3), 4), (0, (0, 2), 3), (2, (2,), 4), (2, (), 1), (3, (1, 3), 4)):
        cut(view, Site(block, "heads"), stay, units)
    plan = plan_of(model, (1, 3), (0, 3), (), (1, 3))
    expected = logits(apply(model, plan))
    torch.testing.assert_close(logits(live), expected, atol=1e-5, rtol=1e-4)
    narrow_table(view)
    narrow_table(view)
    assert chosen(live) == chosen(apply(model, plan)) == [[1, 2], [0, 2], None, [1, 2]]
    assert torch.equal(logits(live), expected)
    # A copy reads its own choice and not the first one's.
    twin = copy.deepcopy(live)
    next(module for module in live.modules() if isinstance(module, IndexSelect)).index.fill_(0)
    assert torch.equal(logits(twin), expected)


def test_the_exported_file_computes_it(tmp_path: Path) -> None:
    model = build("mpnet", HEAD)
    slim = apply(model, plan_of(model, (0, 1, 2), (1,), (), (0, 2, 3)))
    view = ModelView.of(slim)
    shown: dict[str, Any] = {"inputs": view.inputs, "space": sample_space(view.config)}
    path = export_onnx(slim, tmp_path / "model.onnx", **shown).path
    assert check_parity(path, slim, **shown).max_abs_difference < 2e-5
    # The biases are the same for all texts of a batch, and are not repeated before they are added.
    assert "Expand" not in {node.op_type for node in onnx.load(str(path)).graph.node}


# Blocks with no head in common, too: numbered anew, both have "the first two".
@pytest.mark.parametrize("first", [((0, 1), (2, 3), (1, 2, 3), (2, 3)), ((1, 2), (1, 2), (1, 2), ()), ((3,), (3,), (1, 3), (0, 1, 2, 3))])
def test_pruned_twice_it_is_what_one_plan_would_have_made(
    first: tuple[tuple[int, ...], ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunekit.pipeline.pruned.agree", lambda *_: None)
    model = build("mpnet", HEAD)
    before, plan = model, plan_of(model, *first)
    whole = plan
    for turn in range(3):
        slim = apply(model, plan)
        save_checkpoint(slim, tokenizer_of(), plan, tmp_path / str(turn))
        assert "pruned_columns" not in json.loads((tmp_path / str(turn) / "config.json").read_text())
        assert torch.equal(logits(load(tmp_path / str(turn))), logits(slim))
        if turn:
            whole = compose(whole, plan)
            assert torch.equal(logits(slim), logits(apply(before, whole)))
        model = load_pruned(tmp_path / str(turn), "slim").model
        view = ModelView.of(model)
        units = view.units("heads", turn)
        plan = completed(view, Plan(source=view.source, heads={turn: tuple(range(1, units))}))


@pytest.mark.parametrize(
    "columns",
    [
        "all",
        [[0, 1]],
        [[0, 1], [1, 0], [0, 1, 2], [1, 2]],
        [[0, 1], [0, 0], [0, 1, 2], [1, 2]],
        [[0, 1], [2, 9], [0, 1, 2], [1, 2]],
        [[0, 1], [-1, 0], [0, 1, 2], [1, 2]],
        [[0, 1], [2.0, 3.0], [0, 1, 2], [1, 2]],
        [[1, 2], [2, 3], [1, 2], [1, 2]],
        [[], [], [], []],
        # The plan keeps more heads of the second block than this.
        [[0, 1], [2], [1, 2, 3], [2, 3]],
    ],
)
def test_columns_that_no_model_has_are_refused(columns: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunekit.pipeline.pruned.agree", lambda *_: None)
    model = build("mpnet", HEAD)
    plan = plan_of(model, (0, 1), (2, 3), (1, 2, 3), (2, 3))
    save_checkpoint(apply(model, plan), tokenizer_of(), plan, tmp_path / "one")
    again = load_pruned(tmp_path / "one", "slim").model
    view = ModelView.of(again)
    plan = completed(view, Plan(source=view.source, ffn={0: (1, 2)}))
    save_checkpoint(apply(again, plan), None, plan, tmp_path / "two")
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert config["dense_config"]["pruned_columns"] == [[0, 1], [2, 3], [1, 2, 3], [2, 3]]
    config["dense_config"]["pruned_columns"] = columns
    (tmp_path / "two" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"'pruned_columns' in the config must name, for each of 4 blocks") as caught:
        load(tmp_path / "two")
    assert "\n" not in str(caught.value)
