"""Removal of rows of the word embeddings; the tokenizer must be cut by `transforms.tokenizer.shrink_tokenizer` with the same token ids."""

from __future__ import annotations

from typing import final

from torch import nn

from prunekit.arch.view import ModelView, find
from prunekit.errors import PlanError
from prunekit.plan import Plan
from prunekit.transforms.base import Transform
from prunekit.transforms.layers import configs
from prunekit.transforms.surgery import slice_role
from prunekit.transforms.units import record

_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


@final
class DropVocabulary(Transform):
    """Removal of all token ids but those of `plan.vocabulary`, which are renumbered in their order."""

    def concerns(self, plan: Plan) -> bool:
        """Return whether a token is removed."""
        return plan.vocabulary is not None and len(plan.vocabulary) < plan.source.vocabulary

    def requires(self, view: ModelView, plan: Plan) -> None:
        """Check that the padding token is kept, and keeps its id where positions are counted from it."""
        assert plan.vocabulary is not None
        view.check("vocabulary")
        view.roles(blocks=False)
        pad = view.config.pad_token_id
        if pad is not None and pad >= 0 and pad not in plan.vocabulary:
            raise PlanError(f"The plan's 'vocabulary' drops token {pad}, which is the padding.")
        if view.spec.pad_positions and plan.vocabulary[: pad + 1] != tuple(range(pad + 1)):
            raise PlanError(
                f"Positions of {plan.source.model_type} models count from the padding id: the plan's 'vocabulary' must keep tokens 0-{pad}."
            )

    def call(self, view: ModelView, plan: Plan) -> nn.Module:
        """Cut the table, and renumber padding and special tokens."""
        assert plan.vocabulary is not None
        new = {old: index for index, old in enumerate(plan.vocabulary)}
        roles = view.roles(blocks=False)
        slice_role(view.model, roles, "vocabulary", plan.vocabulary, plan.source.vocabulary)
        for path, axes in roles.items():
            table = find(view.model, path.rpartition(".")[0])
            if any(axis is not None and axis.role == "vocabulary" for axis in axes) and isinstance(table, nn.Embedding):
                table.padding_idx = None if table.padding_idx is None else new.get(table.padding_idx)
        record(view, "vocab_size", len(plan.vocabulary))
        for config in configs(view.model):
            for key in _SPECIAL:
                old = getattr(config, key, None)
                if isinstance(old, int) and old >= 0:
                    setattr(config, key, new.get(old))
                elif isinstance(old, list):
                    setattr(config, key, [new[each] for each in old if each in new] or None)
        return view.model

    def ensures(self, model: nn.Module, view: ModelView, plan: Plan) -> None:
        """Check that the config states the number of rows."""
        assert plan.vocabulary is not None
        assert view.config.vocab_size == len(plan.vocabulary)


def drop_tokens(model: nn.Module, plan: Plan) -> nn.Module:
    """Cut the word embeddings of a model that is otherwise slim already, in place.

    Parameters
    ----------
    model : nn.Module
        Made by `apply` or a refit from a plan that equals `plan` except for its vocabulary.
    plan : Plan

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    PlanError, UnsupportedError
        As `DropVocabulary`.
    """
    transform = DropVocabulary()
    if transform.concerns(plan):
        transform(ModelView.of(model), plan)
    return model
