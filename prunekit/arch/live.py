"""A model that is in memory already, as a checkpoint would have been loaded."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prunekit.arch.load import LoadedModel, agree
from prunekit.arch.stated import head_named
from prunekit.arch.view import ModelView, digest_of
from prunekit.errors import ParameterError

#: What the name of a model that was in memory begins with; its fingerprint follows.
MEMORY = "memory:"


def given_model(model: Any, tokenizer: object, *, of: str) -> tuple[Any, LoadedModel | None]:
    """The place of a model, and the model where it is in memory already: then its place is its fingerprint.

    Raises
    ------
    ParameterError
        A tokenizer of a model that is named; and as in `live_model`, as are all others.
    """
    if isinstance(model, nn.Module):
        live = live_model(model, tokenizer, of=of)
        return live.name, live
    if tokenizer is not None:
        raise ParameterError("tokenizer", of, "left out for a model that is named, which has its own", f"a {type(tokenizer).__name__}")
    return model, None


def live_model(model: nn.Module, tokenizer: object, *, of: str = "compress") -> LoadedModel:
    """Copy a live model to the processor in float32; it is left as it is.

    Parameters
    ----------
    model : PreTrainedModel
        Of a supported family. A head for sequence or token classification or for question answering is kept, the body of any other is
        taken without it.
    tokenizer : PreTrainedTokenizerBase
    of : str
        Who asks, for errors.

    Returns
    -------
    LoadedModel
        Its name is `MEMORY` and the sha256 of the weights.

    Raises
    ------
    ParameterError
        What is no model, or has no tokenizer.
    UnsupportedError
        A family that prunekit does not know.
    ModelError
        A tokenizer with more tokens than the model embeds.
    """
    if not isinstance(model, PreTrainedModel):
        raise ParameterError("model", of, "a directory, a hub name or a model of transformers", f"a {type(model).__name__}")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        got = None if tokenizer is None else f"a {type(tokenizer).__name__}"
        raise ParameterError("tokenizer", of, "the model's tokenizer, where the model is in memory", got)
    ModelView.of(model)  # raises where the family is not known
    made: Any = copy.deepcopy(model)
    made = made.to(device="cpu", dtype=torch.float32)
    head = head_named((type(model).__name__,))
    if head is None:
        made = ModelView.of(made).body
    text = copy.deepcopy(tokenizer)
    name = f"{MEMORY}{digest_of(made)}"
    agree("in memory", text, made.config, None, head is not None)
    return LoadedModel(made.eval(), text, made.config, head is not None, head == "ForTokenClassification", name)
