from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prunekit.arch.view import ModelView
from prunekit.errors import ModelError, OutputError, PlanError, PrunekitError
from prunekit.exporters.checkpoint import is_stock, load, save_checkpoint
from prunekit.plan import Plan, ReadoutPlan
from prunekit.transforms.apply import apply
from prunekit.transforms.readout_head import set_readout
from tests.models import batch_of, build
from tests.plans import UNITS, random_plan


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = build("bert", "ForSequenceClassification")
    plan = Plan(
        source=ModelView.of(model).source, ffn={0: (1, 2)}, heads={1: ()}, readout=ReadoutPlan(pooling="mean", neurons={1: (0, 3), 3: (4,)})
    )
    slim = apply(model, plan)
    set_readout(slim, torch.arange(9.0).reshape(3, 3), torch.ones(3))
    save_checkpoint(slim, None, plan, tmp_path)
    with torch.no_grad():
        save_file({"logits": slim(**batch_of()).logits, **batch_of()}, tmp_path / "expected.safetensors")
    return tmp_path


def test_a_fresh_process_reads_it(saved: Path) -> None:
    code = (
        "import sys, torch, prunekit\n"
        "from safetensors.torch import load_file\n"
        "model = prunekit.load(sys.argv[1])\n"
        "batch = load_file(sys.argv[1] + '/expected.safetensors')\n"
        "logits = batch.pop('logits')\n"
        "with torch.no_grad():\n"
        "    assert torch.equal(model(**batch).logits, logits)\n"
        "assert not model.training\n"
    )
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True, cwd=Path(__file__).parents[2])


def test_loading_leaves_the_random_state_alone(saved: Path) -> None:
    before = torch.random.get_rng_state()
    load(saved)
    assert torch.equal(before, torch.random.get_rng_state())


def test_loaded_models_train_and_are_saved_again(saved: Path, tmp_path: Path) -> None:
    model = load(saved)
    model(**batch_of(), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(parameter.requires_grad for parameter in model.parameters())
    again = tmp_path / "again"
    save_checkpoint(model, None, Plan.load(saved / "plan.json"), again)
    for path in again.iterdir():
        assert path.read_bytes() == (saved / path.name).read_bytes(), path.name


def test_half_precision_is_kept(tmp_path: Path) -> None:
    model = build("bert").to(torch.bfloat16)
    plan = random_plan(ModelView.of(model), UNITS, random.Random(1))
    slim = apply(model, plan)
    save_checkpoint(slim, None, plan, tmp_path)
    assert {parameter.dtype for parameter in load(tmp_path).parameters()} == {torch.bfloat16}


def test_label_names_travel(saved: Path) -> None:
    fields = json.loads((saved / "config.json").read_text())
    fields["id2label"] = {"0": "no", "1": "maybe", "2": "yes"}
    (saved / "config.json").write_text(json.dumps(fields))
    assert load(saved).config.id2label == {0: "no", 1: "maybe", 2: "yes"}


def test_a_body_without_a_pooler(tmp_path: Path) -> None:
    model = build("bert")
    model.pooler = None
    plan = Plan(source=ModelView.of(model).source, hidden=(0, 1, 2, 5))
    save_checkpoint(apply(model, plan), None, plan, tmp_path)
    assert load(tmp_path).pooler is None


def test_stale_weights_are_not_left_behind(saved: Path) -> None:
    model = build("bert", "ForSequenceClassification")
    plan = Plan(source=ModelView.of(model).source, layers=(0, 1))
    assert save_checkpoint(apply(model, plan), None, plan, saved).name == "model.safetensors"
    assert not (saved / "pruned.safetensors").exists()
    assert "dense_config" not in json.loads((saved / "config.json").read_text())
    assert len(load(saved).bert.encoder.layer) == 2


@pytest.mark.parametrize("kept", [{"heads": {1: ()}}, {"hidden": (0, 1, 2, 3)}, {"ffn": {1: (0,)}}])
def test_what_a_stock_config_cannot_say_is_not_called_stock(kept: dict[str, object]) -> None:
    model = build("bert", "ForSequenceClassification")
    source = ModelView.of(model).source
    assert is_stock(apply(model, Plan(source=source, layers=(1, 3))))
    assert not is_stock(apply(model, Plan(source=source, **kept)))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _edit_plan(path: Path) -> None:
    fields = json.loads(path.read_text())
    del fields["digest"]
    fields["ffn"]["0"] = "1,3"
    path.write_text(json.dumps(fields))


def _rename_weight(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    state["body.surplus"] = state.pop("readout.bias").clone()
    save_file(state, path, metadata=metadata)


@pytest.mark.parametrize(
    ("name", "damage", "error", "message"),
    [
        ("plan.json", Path.unlink, PlanError, "no plan.json"),
        ("plan.json", lambda path: path.write_text("{"), PlanError, "not JSON"),
        ("plan.json", _edit_plan, PlanError, "was written for the plan"),
        ("pruned.safetensors", Path.unlink, ModelError, "neither pruned.safetensors nor model.safetensors"),
        ("pruned.safetensors", _cut, ModelError, "cannot be read"),
        ("pruned.safetensors", _rename_weight, ModelError, "does not fit"),
        ("config.json", Path.unlink, ModelError, "cannot be read"),
        ("config.json", lambda path: path.write_text("[]"), ModelError, "JSON object"),
        ("config.json", lambda path: path.write_text("{}"), ModelError, "dense_config"),
        ("config.json", lambda path: path.write_text('{"dense_config": {"model_type": "t5"}}'), ModelError, "'t5'"),
        (
            "config.json",
            lambda path: path.write_text('{"dense_config": {"model_type": "bert", "architectures": ["Trainer2"]}}'),
            ModelError,
            "Trainer2",
        ),
    ],
)
def test_damage_is_one_line(saved: Path, name: str, damage: object, error: type[PrunekitError], message: str) -> None:
    damage(saved / name)
    with pytest.raises(error, match=message) as caught:
        load(saved)
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    model = build("bert")
    plan = Plan(source=ModelView.of(model).source, layers=(0,))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_checkpoint(apply(model, plan), None, plan, tmp_path / "file")
