"""Tasks of models' heads, by the names of the hub's pipelines."""

from __future__ import annotations

from typing import Literal

from torch import nn

from prunekit.arch.view import Embedder, ModelView, Reader
from prunekit.errors import UnsupportedError

Head = Literal["feature-extraction", "text-classification", "token-classification", "question-answering"]
_HEADS: dict[str, Head] = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForQuestionAnsweringSimple": "question-answering",
}


def head_of(model: nn.Module) -> Head:
    """Return the task of a model's head.

    Raises
    ------
    UnsupportedError
        A head of another kind.
    """
    if isinstance(model, Reader):
        return "token-classification" if model.per_token else "text-classification"
    name = type(model).__name__
    if name == "XLNetForQuestionAnswering":
        raise UnsupportedError(
            "XLNetForQuestionAnswering answers by a beam search, not by logits; XLNetForQuestionAnsweringSimple can be exported."
        )
    if isinstance(model, Embedder) or ModelView.of(model).body is model:
        return "feature-extraction"
    for suffix, head in _HEADS.items():
        if name.endswith(suffix):
            return head
    raise UnsupportedError(f"The head of {name} cannot be exported; a bare encoder and {', '.join(_HEADS)} can.")
