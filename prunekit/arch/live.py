"""Models that are already in memory, in the form of a loaded checkpoint."""

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

#: Prefix of the name of a model that was in memory; its fingerprint follows.
MEMORY = "memory:"


def given_model(model: Any, tokenizer: object, *, of: str) -> tuple[Any, LoadedModel | None]:
    """Return the location of a model, and the model if it is already in memory: then its location is its fingerprint.

    Raises
    ------
    ParameterError
        If a tokenizer is passed for a model that is named; and as in `live_model`, like all other errors.
    """
    if isinstance(model, nn.Module):
        live = live_model(model, tokenizer, of=of)
        return live.name, live
    if tokenizer is not None:
        raise ParameterError("tokenizer", of, "left out for a model that is named, which has its own", f"a {type(tokenizer).__name__}")
    return model, None


def live_model(model: nn.Module, tokenizer: object, *, of: str = "compress") -> LoadedModel:
    """Copy a live model to the CPU in float32; the original is not changed.

    Parameters
    ----------
    model : PreTrainedModel
        Of a supported family. A head for sequence or token classification or for question answering is kept, the body of any other is
        taken without it.
    tokenizer : PreTrainedTokenizerBase
    of : str
        Name of the command, for errors.

    Returns
    -------
    LoadedModel
        Its name is `MEMORY` and the sha256 of the weights.

    Raises
    ------
    ParameterError
        If it is not a model, or has no tokenizer.
    UnsupportedError
        If the family is not supported.
    ModelError
        If the tokenizer has more tokens than the model embeds.
    """
    if not isinstance(model, PreTrainedModel):
        raise ParameterError("model", of, "a directory, a hub name or a model of transformers", f"a {type(model).__name__}")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        got = None if tokenizer is None else f"a {type(tokenizer).__name__}"
        raise ParameterError("tokenizer", of, "the model's tokenizer, where the model is in memory", got)
    ModelView.of(model)  # raises if the family is not supported
    copied: Any = copy.deepcopy(model)
    copied = copied.to(device="cpu", dtype=torch.float32)
    head = head_named((type(model).__name__,))
    if head is None:
        copied = ModelView.of(copied).body
    tokenizer_copy = copy.deepcopy(tokenizer)
    name = f"{MEMORY}{digest_of(copied)}"
    agree("in memory", tokenizer_copy, copied.config, None, head is not None)
    return LoadedModel(copied.eval(), tokenizer_copy, copied.config, head is not None, head == "ForTokenClassification", name)
