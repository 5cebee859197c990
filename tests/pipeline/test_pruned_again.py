"""A model that was pruned to layers that differ is pruned again; what comes is what one plan would have made of the dense model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunekit
from prunekit import cli
from prunekit.arch.view import ModelView
from prunekit.errors import ModelError, ParameterError, PlanError
from prunekit.exporters.checkpoint import is_stock, load, save_checkpoint
from prunekit.pipeline.compress import make_plan
from prunekit.pipeline.pruned import load_pruned
from prunekit.plan import Plan, compose
from prunekit.transforms.apply import apply, completed
from tests.lines import checkpoint, data, dense, line, quick, tokenizer_of
from tests.models import CASES, batch_of, build


def uneven(view: ModelView) -> Plan:
    """A plan that leaves blocks of different widths, one without an FFN and one with an affine map, as far as the family can say so."""
    source, shared = view.source, bool(view.spec.shared_blocks)
    blocks = range(source.layers)
    one = source.heads > 1 and not shared
    heads = {0: tuple(range(1, source.heads))} if one else {block: tuple(range(1, source.heads)) for block in blocks if source.heads > 1}
    if shared:
        return Plan(source=source, heads=heads, ffn={block: (0, 3, 4, 7) for block in blocks})
    return Plan(source=source, heads=heads, ffn={0: (0, 3, 4, 7), 2: ()}, affine=(3,))


def further(view: ModelView) -> Plan:
    """A second plan: fewer units of what is left."""
    named = {block: tuple(range(0, view.units("ffn", block), 2)) for block in range(view.num_layers) if view.units("ffn", block)}
    return Plan(source=view.source, ffn=named)


def logits(model: nn.Module, batch: dict[str, Any]) -> Any:
    view = ModelView.of(model)
    with torch.no_grad():
        return model(**{name: tensor for name, tensor in batch.items() if name in view.inputs or name == "attention_mask"}).logits


@pytest.mark.parametrize("case", CASES)
def test_two_plans_are_their_composition_after_a_checkpoint_between_them(case: str, tmp_path: Path, monkeypatch: Any) -> None:
    model, batch = build(case, "ForSequenceClassification"), batch_of(4)
    first = uneven(ModelView.of(model))
    slim = apply(model, first)
    weights = save_checkpoint(slim, tokenizer_of(), first, tmp_path / "slim")
    if weights.name != "pruned.safetensors":
        # Stock classes hold it: it is pruned as any other model is.
        assert is_stock(slim)
        return
    # The families' own vocabularies are smaller than this tokenizer's.
    monkeypatch.setattr("prunekit.pipeline.pruned.agree", lambda *_: None)
    loaded = load_pruned(tmp_path / "slim", "slim")
    assert torch.equal(logits(loaded.model, batch), logits(slim, batch))
    view = ModelView.of(loaded.model)
    second = completed(view, further(view))
    both = apply(loaded.model, second)
    whole = compose(first, second)
    assert torch.equal(logits(both, batch), logits(apply(model, whole), batch))
    again = ModelView.of(both)
    assert [again.units("ffn", block) for block in range(again.num_layers)] == [
        len(range(0, view.units("ffn", block), 2)) for block in range(view.num_layers)
    ]
    if save_checkpoint(both, None, second, tmp_path / "slimmer").name == "pruned.safetensors":
        assert torch.equal(logits(load(tmp_path / "slimmer"), batch), logits(both, batch))
        assert "pruned_units" not in (tmp_path / "slimmer" / "config.json").read_text()


def again(case: str, rows: str, out: Path, *options: str) -> dict[str, Any]:
    """The report of a second compression of a slim model."""
    words = ["compress", str(line(case).path), "--data", str(data(rows)), *options, "--dtype", "fp32", "--out", str(out)]
    with quick():
        assert cli.main(words) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


@pytest.mark.parametrize(
    ("case", "rows", "options"),
    [
        ("sequence", "text", ["--keep", "60%", "--recover", "none"]),
        ("sequence", "text", ["--keep", "60% params", "--recover", "1epochs"]),
        ("sequence", "text", ["--layers", "0-1", "--keep", "60% params", "--recover", "none"]),
        ("pairs", "pair", ["--keep", "60% macs", "--recover", "none"]),
        ("everything", "topics", ["--keep", "60% params", "--recover", "none"]),
        ("everything", "topics", ["--keep", "60%", "--recover", "1epochs"]),
    ],
)
def test_a_slim_model_is_pruned_again(tmp_path: Path, case: str, rows: str, options: list[str]) -> None:
    before, out = line(case).path, tmp_path / "slimmer"
    report = again(case, rows, out, *options)
    first = json.loads((before / "report.json").read_text())
    assert report["dense"]["params_layers"] == first["slim"]["params_layers"]
    counted = "macs" if "60% macs" in options else "params_layers"
    assert report["slim"][counted] <= 0.6 * first["slim"][counted]
    scores = {row["name"]: row["value"] for row in report["rows"]}
    assert scores["dense"] == pytest.approx({row["name"]: row["value"] for row in first["rows"]}["slim"])
    words = tokenizer_of()("banal dupos moriktef", return_tensors="pt") if case != "everything" else None
    slim = load(out)
    assert sum(parameter.numel() for parameter in slim.parameters()) < sum(parameter.numel() for parameter in load(before).parameters())
    plan, earlier = Plan.load(out), Plan.load(before)
    if words is not None and case == "sequence":
        # What the plan leaves of the dense model has the shapes of what was written.
        shapes = {name: tensor.shape for name, tensor in prunekit.apply(dense("sequence"), compose(earlier, plan)).state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in slim.state_dict().items()}


def test_the_plan_that_comes_fits_the_slim_model_and_no_other(tmp_path: Path) -> None:
    again("sequence", "text", tmp_path / "slimmer", "--keep", "60% params", "--recover", "none")
    with quick():
        words = ["apply", str(line("sequence").path), "--plan", str(tmp_path / "slimmer" / "plan.json"), "--dtype", "fp32"]
        assert cli.main([*words, "--out", str(tmp_path / "sliced")]) == 0
    shapes = [{name: tensor.shape for name, tensor in load(tmp_path / name).state_dict().items()} for name in ("slimmer", "sliced")]
    assert shapes[0] == shapes[1]


def test_a_plan_that_names_little_of_a_slim_model_is_written_whole(tmp_path: Path) -> None:
    slim = line("sequence").path
    view = ModelView.of(load_pruned(slim, "slim").model)
    block = max(range(view.num_layers), key=lambda block: view.units("ffn", block))
    plan = Plan(source=view.source, ffn={block: tuple(range(view.units("ffn", block) - 1))})
    plan.save(tmp_path / "plan.json")
    words = ["apply", str(slim), "--plan", str(tmp_path / "plan.json"), "--dtype", "fp32", "--out", str(tmp_path / "sliced")]
    with quick():
        assert cli.main(words) == 0
    report = json.loads((tmp_path / "sliced" / "report.json").read_text())
    assert Plan.load(tmp_path / "sliced").digest == report["plan_digest"] == completed(view, plan).digest != plan.digest
    again = ModelView.of(load_pruned(tmp_path / "sliced", "slim").model)
    left = [view.units("ffn", at) - (at == block) for at in range(view.num_layers)]
    assert [again.units("ffn", at) for at in range(again.num_layers)] == left


def test_a_plan_for_units_that_are_gone_is_refused() -> None:
    view = ModelView.of(load_pruned(line("sequence").path, "slim").model)
    block = next(block for block in range(view.num_layers) if view.units("ffn", block) < view.source.ffn)
    plan = Plan(source=view.source, ffn={block: (view.source.ffn - 1,)})
    with pytest.raises(PlanError, match=f"of block {block}; of those the model was left"):
        apply(view.model, plan)


@pytest.mark.parametrize("option", [["--layers", "0"], ["--keep", "50% neurons"]])
def test_a_classifier_on_chosen_neurons_keeps_its_layers_and_neurons(tmp_path: Path, option: list[str], capsys: Any) -> None:
    words = ["compress", str(line("everything").path), "--data", str(data("topics")), *option, "--out", str(tmp_path / "slim")]
    assert cli.main(words) == 2
    assert "whose classifier reads chosen neurons" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_classifier_on_one_block_is_loaded_again(tmp_path: Path) -> None:
    with quick():
        options: dict[str, Any] = {"layers": "0", "keep": ["60% neurons", "15% params"], "recover": "none", "dtype": "fp32"}
        made = prunekit.compress(checkpoint("base"), data("topics"), out=tmp_path / "slim", **options)
    # One block has one width, which the config names.
    assert len(made.plan.ffn[0]) == load(tmp_path / "slim").config.intermediate_size
    assert load_pruned(tmp_path / "slim", "slim").config.intermediate_size == len(made.plan.ffn[0])


def test_what_no_config_says_is_not_pruned_again(tmp_path: Path) -> None:
    view = ModelView.of(build("bert", "ForSequenceClassification"))
    plan = Plan(source=view.source, hidden=tuple(range(0, view.hidden_size, 2)), ffn={0: (0,)})
    save_checkpoint(apply(view.model, plan), tokenizer_of(), plan, tmp_path / "slim")
    with pytest.raises(ModelError, match="has lost hidden dimensions and is not pruned again"):
        load_pruned(tmp_path / "slim", "slim")


def pruned(folder: Path) -> Path:
    """A classifier without the attention of one block, whose FFNs differ in width."""
    model = dense("sequence")
    plan = Plan(source=ModelView.of(model).source, heads={0: ()}, ffn={1: tuple(range(8))})
    save_checkpoint(apply(model, plan), tokenizer_of(), plan, folder)
    return folder


@pytest.mark.parametrize("named", [{"heads": {0: (0, 1)}}, {"ffn": {1: tuple(range(8))}}])
def test_widths_that_differ_are_not_made_equal(tmp_path: Path, named: dict[str, Any]) -> None:
    model = dense("sequence")
    plan = Plan(source=ModelView.of(model).source, **named)
    save_checkpoint(apply(model, plan), tokenizer_of(), plan, tmp_path / "slim")
    slim = tmp_path / "slim"
    with pytest.raises(ParameterError, match="'uniform' parameter of compress must be left out for a model whose layers already differ"):
        prunekit.compress(slim, data("text"), uniform=True, keep="50% params", recover="none", out=tmp_path / "slimmer")


def test_a_sub_block_that_is_gone_leaves_the_others_their_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))
    with quick():
        plan = make_plan(pruned(tmp_path / "slim"), data("text"), keep="60% latency")
    (table,) = (tmp_path / "cache" / "latency").iterdir()
    widths = {tuple(each["heads"]) for each in json.loads(table.read_text())["measured"]}
    assert len(widths) > 1
    assert plan.heads[0] == ()
