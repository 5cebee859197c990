"""Models that are already in memory, in the form of a loaded checkpoint."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prunekit.arch.classes import settled
from prunekit.arch.config import check_config
from prunekit.arch.head import head_named
from prunekit.arch.load import LoadedModel, agree, check_finite
from prunekit.arch.view import DENSE, UNITS, ModelView, digest_of
from prunekit.errors import ModelError, ParameterError
from prunekit.validation.escape import reason
from prunekit.validation.fingerprint import place_of
from prunekit.validation.reading import shown

#: Name in errors.
_NAME = "in memory"


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
        Its name is the place of the sha256 of the weights, as `prunekit.validation.fingerprint` writes it.

    Raises
    ------
    ParameterError
        If it is not a model, or has no tokenizer.
    UnsupportedError
        If the family is not supported.
    ModelError
        If weights are not those that the config describes, or hold NaN; if the tokenizer has more tokens than the model embeds.
    """
    if not isinstance(model, PreTrainedModel):
        raise ParameterError("model", of, "a directory, a hub name or a model of transformers", f"a {type(model).__name__}")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        got = None if tokenizer is None else f"a {type(tokenizer).__name__}"
        raise ParameterError("tokenizer", of, "the model's tokenizer, where the model is in memory", got)
    ModelView.of(model)  # raises if the family is not supported
    head = head_named((type(model).__name__,))
    copied, tokenizer_copy = _copies(model, tokenizer, whole=head is not None)
    name = place_of(digest_of(copied))
    agree(_NAME, tokenizer_copy, copied.config, None, head is not None)
    return LoadedModel(copied.eval(), tokenizer_copy, copied.config, head is not None, head == "ForTokenClassification", name)


def check_weights(model: nn.Module, *, whole: bool = False) -> None:
    """Refuse a model in memory with weights that are no numbers, or that are not those that its config describes.

    The head is compared only where `whole`: what is written is built from its config again, what is copied is not.

    Raises
    ------
    ModelError
    """
    odd = next((name for name, weight in model.named_parameters() if weight.is_meta or not weight.is_floating_point()), None)
    if odd is not None:
        raise ModelError(f"The model {_NAME!r} has no numbers of its own in {shown(odd)}: load it on a device, and not quantised.")
    check_finite(_NAME, model)
    if not isinstance(model, PreTrainedModel):
        return
    _check_head(model)
    differing = _differing(model if whole else ModelView.of(model).body)
    if differing is not None:
        must = "Merge adapters, and let the config say how many layers there are and how wide they are"
        raise ModelError(f"The model {_NAME!r} has not the weights that its config describes, such as {shown(differing)}. {must}.")


def _copies(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, whole: bool) -> tuple[Any, Any]:
    """Return copies: of the model on the CPU in float32, of the body alone unless `whole`, none of it frozen."""
    try:
        fields = json.loads(model.config.to_json_string(use_diff=False))
        check_config(fields, f"The model {_NAME!r} has a config that", whole=DENSE not in fields)
        copied, tokenizer = copy.deepcopy((model, tokenizer))
    except (TypeError, RuntimeError) as error:
        raise ModelError(f"The model {_NAME!r} cannot be copied: {reason(error)}. Save it, and name that.") from None
    body: Any = copied if whole else ModelView.of(copied).body
    check_weights(body, whole=True)
    settled(body.config)
    return body.to(device="cpu", dtype=torch.float32).requires_grad_(True), tokenizer


def _check_head(model: PreTrainedModel) -> None:
    """Refuse a config without labels, and a model that has lost its head."""
    labels = getattr(model.config, "id2label", None)
    if not isinstance(labels, dict) or not labels:
        raise ModelError(f"The model {_NAME!r} has a config without labels: let id2label name one for each output.")
    lost = [name for name, part in model._modules.items() if part is None]
    if lost and ModelView.of(model).body is not model:
        raise ModelError(f"The model {_NAME!r} has lost its {shown(lost[0])}: load it again.")


def _differing(model: Any) -> str | None:
    """Return the name of a weight that the model's class, built from its config, has in another shape, or that only one of them has."""
    view = ModelView.of(model)
    if not type(model).__module__.startswith("transformers."):
        # A class of the user's own may take more than a config.
        return None
    if any(hasattr(view.config, name) for name in (UNITS, DENSE)):
        # Pruned: the widths of its blocks are not in the config.
        return None
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.device("meta"):
            warnings.simplefilter("ignore")
            stock = type(model)(copy.deepcopy(view.config))
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise ModelError(f"The model {_NAME!r} has a config that describes no model: {reason(error)}.") from None
    ours, theirs = ({name: weight.shape for name, weight in each.named_parameters()} for each in (model, stock))
    pooler = f"{view.prefix}{view.spec.pooler}."
    names = (name for name in (*ours, *theirs) if ours.get(name) != theirs.get(name))
    # A body may be without its pooler.
    return next((name for name in names if name in ours or not name.startswith(pooler)), None)
