"""Tasks of models' heads, by the names of the hub's pipelines."""

from __future__ import annotations

from typing import Literal

from torch import nn

from prunekit.arch.head import QUESTIONS, TEXTS, TOKENS
from prunekit.arch.view import Embedder, ModelView, Reader
from prunekit.errors import UnsupportedError

Head = Literal["feature-extraction", "text-classification", "token-classification", "question-answering"]
_HEADS: dict[str, Head] = {
    TEXTS: "text-classification",
    TOKENS: "token-classification",
    **dict.fromkeys(QUESTIONS, "question-answering"),
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
    if isinstance(model, Embedder):
        return "feature-extraction"
    view, name = ModelView.of(model), type(model).__name__
    if name in view.spec.refused_heads:
        raise UnsupportedError(f"{name} {view.spec.refused_heads[name]}.")
    kind = view.head_kind
    if kind is None:
        raise UnsupportedError(f"The head of {name} cannot be exported; a bare encoder and {', '.join(_HEADS)} can.")
    return _HEADS[kind] if kind else "feature-extraction"
