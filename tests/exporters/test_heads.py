from __future__ import annotations

import pytest

from prunekit.arch import SPECS
from prunekit.errors import UnsupportedError
from prunekit.exporters.heads import head_of
from prunekit.exporters.routes import routes_of
from tests.models import build


@pytest.mark.parametrize(
    ("case", "name", "head"),
    [
        ("bert", "Model", "feature-extraction"),
        ("bert", "ForSequenceClassification", "text-classification"),
        ("llama", "ForTokenClassification", "token-classification"),
        ("deberta", "ForQuestionAnswering", "question-answering"),
        ("xlnet", "ForQuestionAnsweringSimple", "question-answering"),
    ],
)
def test_a_head_is_known_by_its_class(case: str, name: str, head: str) -> None:
    assert head_of(build(case, name)) == head


def test_heads_without_logits_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"^XLNetForQuestionAnswering answers by a beam search, .*Simple can be exported\.$"):
        head_of(build("xlnet", "ForQuestionAnswering"))
    with pytest.raises(UnsupportedError, match="The head of BertForMaskedLM cannot be exported; a bare encoder and ForSequence"):
        head_of(build("bert", "ForMaskedLM"))


def test_a_family_that_torch_cannot_export_has_one_route() -> None:
    assert routes_of(SPECS["bert"]) == ("torchscript", "dynamo")
    assert routes_of(SPECS["xlnet"]) == ("torchscript",)
