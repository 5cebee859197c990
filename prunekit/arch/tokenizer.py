"""Checks of a tokenizer before it reads any row, on every printable ASCII character and on words that no vocabulary has."""

from __future__ import annotations

import base64
import binascii
import re
import string
from pathlib import Path
from typing import Any

from prunekit.errors import ModelError
from prunekit.validation.escape import reason

_TEXT = f"{string.printable} \u2603\u00e9\u4e2d\U0001f600 prunekit"
#: Most characters, or tokens, that one character may become.
_GROWTH = 64
_CHARSMAP = re.compile(rb'"precompiled_charsmap"\s*:\s*"([^"]*)"')


def try_out(name: str, tokenizer: Any, config: Any = None) -> None:
    """Refuse a tokenizer that fails on a text, expands it beyond a bound, or returns ids outside its own vocabulary.

    Parameters
    ----------
    name : str
        Name of the model in errors.
    tokenizer : PreTrainedTokenizerBase
    config : PretrainedConfig, optional
        Config of the model, which states how many token types it embeds.

    Raises
    ------
    ModelError
    """
    try:
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        if normalizer is not None and len(normalizer.normalize_str(_TEXT)) > _GROWTH * len(_TEXT):
            raise ModelError(f"The tokenizer of {name!r} makes more than {_GROWTH} characters of one, and is not used.")
        encoding = tokenizer(
            [_TEXT], truncation=False, padding=False, return_token_type_ids=True, return_attention_mask=False, verbose=False
        )
        ids, kinds = encoding["input_ids"][0], encoding["token_type_ids"][0]
    except ModelError:
        raise
    except Exception as error:
        # The tokenizers library raises Exception itself.
        raise ModelError(f"The tokenizer of {name!r} cannot read a text: {reason(error)}.") from None
    if len(ids) > _GROWTH * len(_TEXT):
        raise ModelError(f"The tokenizer of {name!r} makes more than {_GROWTH} tokens of one character, and is not used.")
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if ids and not 0 <= min(ids) <= max(ids) <= highest:
        raise ModelError(f"The tokenizer of {name!r} gives the id {max(ids, key=abs)}, and has ids up to {highest}.")
    types = getattr(config, "type_vocab_size", None)
    if types and kinds and not 0 <= min(kinds) <= max(kinds) < types:
        raise ModelError(f"The tokenizer of {name!r} gives tokens the type {max(kinds, key=abs)}, and the model has {types} types.")


def check_charsmap(path: Path, where: str) -> None:
    """Refuse a tokenizer.json with a truncated character map, on which the library panics and writes to the terminal.

    Raises
    ------
    ModelError
    """
    for match in _CHARSMAP.finditer(path.read_bytes()):
        try:
            table = base64.b64decode(match[1], validate=True)
        except binascii.Error:
            table = b""
        size = int.from_bytes(table[:4], "little")
        if len(table) < 4 or size % 4 or size > len(table) - 4:
            raise ModelError(f"{where} has a tokenizer that cannot be used: its precompiled_charsmap is broken.")
