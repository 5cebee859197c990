from __future__ import annotations

import copy

import pytest
import torch
import transformers

from prunekit.arch import SPECS
from prunekit.arch.view import ModelView, Reader, last_positions
from prunekit.errors import ModelError, UnsupportedError
from prunekit.plan import Plan
from prunekit.transforms.apply import apply
from tests.models import batch_of, build, config_of


def test_unknown_type_names_the_known_ones() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedError, match="type None") as caught:
        ModelView.of(model)
    assert all(name in str(caught.value) for name in SPECS)
    assert isinstance(caught.value, ModelError)
    config = transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=10)
    with pytest.raises(UnsupportedError, match="'t5'"):
        ModelView.of(transformers.T5EncoderModel(config))


def test_source_is_the_shape() -> None:
    source = ModelView.of(build("llama")).source
    # Two key/value groups are what can be removed, not four query heads.
    assert source.model_dump() == {"model_type": "llama", "layers": 4, "hidden": 24, "heads": 2, "ffn": 20, "vocabulary": 50}
    assert ModelView.of(build("gpt2", n_inner=None)).source.ffn == 96
    assert ModelView.of(build("distilbert", "ForSequenceClassification")).source.ffn == 20


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("bert", 3),
        ("roberta", 2),
        ("distilbert", 2),
        ("xlnet", 3),
        ("deberta", 3),
        ("deberta-v2", 2),
        ("modernbert", 2),
        ("llama", 2),
        ("mpnet", 2),
    ],
)
def test_inputs(case: str, names: int) -> None:
    assert ModelView.of(build(case)).inputs == ("input_ids", "attention_mask", "token_type_ids")[:names]


def test_cls_positions() -> None:
    right, left = batch_of()["attention_mask"], batch_of(left=True)["attention_mask"]
    bert, xlnet = ModelView.of(build("bert")), ModelView.of(build("xlnet"))
    assert bert.cls_positions(right).tolist() == [0, 0, 0]
    assert bert.cls_positions(right).dtype == torch.int64
    assert xlnet.cls_positions(right).tolist() == (right.sum(1) - 1).tolist()
    assert xlnet.cls_positions(left).tolist() == [8, 8, 8]
    assert last_positions(torch.tensor([[1, 1, 0], [0, 1, 1]])).tolist() == [1, 2]


def test_the_body_is_peeled_once() -> None:
    for case in ("bert", "llama", "xlnet", "modernbert"):
        model = build(case, "ForTokenClassification")
        view = ModelView.of(model)
        assert view.model is model
        assert type(view.body) is type(build(case))
        assert ModelView.of(view.body).body is view.body


def test_other_heads_run_but_are_not_cut_inside() -> None:
    with torch.random.fork_rng(devices=[]):
        model = transformers.BertForMaskedLM(config_of("bert")).eval()
    view = ModelView.of(model)
    batch = batch_of()
    with torch.no_grad():
        assert len(view.hidden_states(batch)) == 5
    with pytest.raises(UnsupportedError, match="BertForMaskedLM"):
        apply(model, Plan(source=view.source, hidden=(0, 1, 2)))
    assert len(ModelView.of(apply(model, Plan(source=view.source, layers=(0,)))).blocks) == 1


def test_cross_attention_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="cross-attention"):
        ModelView.of(build("bert", is_decoder=True, add_cross_attention=True))
    with pytest.raises(UnsupportedError, match="one group"):
        ModelView.of(build("albert", num_hidden_groups=2))


def test_an_undeclared_parameter_is_refused() -> None:
    model = copy.deepcopy(build("bert"))
    model.encoder.layer[0].adapter = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedError, match=r"encoder\.layer\.0\.adapter\.weight"):
        apply(model, Plan(source=ModelView.of(model).source, ffn={0: (1,)}))


def test_a_reader_says_what_its_outputs_are() -> None:
    class Silent(Reader):
        per_token = False

    with pytest.raises(TypeError, match=r"abstract method '?averaged"):
        Silent()  # type: ignore[abstract]  # what is tested
