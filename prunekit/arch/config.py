"""Checks of config.json and of the tokenizer's files, before a library builds anything from them.

transformers trusts a config: a number of layers is a loop, a number of classes a table of names. Here the sizes are checked
against the bounds of `prunekit.validation.limits` and against the headers of the weights. No torch, no transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from prunekit.arch import SPECS
from prunekit.arch.tokenizer import check_charsmap
from prunekit.errors import ModelError, ParameterError, UnsupportedError
from prunekit.validation.escape import reason
from prunekit.validation.limits import CLASSES, CONFIG_BYTES, HEADS, LAYERS, POSITIONS, VOCABULARY, VOCABULARY_BYTES, WIDTH, memory
from prunekit.validation.reading import ReadError, check_regular, read_json, shown

#: Default length in tokens after which a row is truncated, for models with as many positions.
LENGTH = 128
#: Default length in tokens of a window of a context.
WINDOW = 384
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model")

_Layers = Annotated[int, Field(ge=0, le=LAYERS)] | None
_Heads = Annotated[int, Field(ge=0, le=HEADS)] | None
_Inner = Annotated[int, Field(ge=0, le=WIDTH)] | None
_Width = Annotated[int, Field(ge=1, le=WIDTH)] | None
_Positions = Annotated[int, Field(ge=-1, le=POSITIONS)] | None
_Id = Annotated[int, Field(ge=-1, lt=VOCABULARY)] | None
_Name = Annotated[str, Field(max_length=200)]


class _Fields(BaseModel):
    """Fields that sizes follow from, under the names that the families use; all others are left to the family."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model_type: Annotated[str, Field(min_length=1, max_length=60)]
    architectures: Annotated[list[_Name], Field(max_length=16)] | None = None
    num_hidden_layers: _Layers = None
    n_layers: _Layers = None
    n_layer: _Layers = None
    num_attention_heads: _Heads = None
    num_key_value_heads: _Heads = None
    n_heads: _Heads = None
    n_head: _Heads = None
    intermediate_size: _Inner = None
    hidden_dim: _Inner = None
    n_inner: _Inner = None
    d_inner: _Inner = None
    hidden_size: _Width = None
    embedding_size: _Width = None
    head_dim: _Width = None
    dim: _Width = None
    d_model: _Width = None
    n_embd: _Width = None
    vocab_size: Annotated[int, Field(ge=1, le=VOCABULARY)] | None = None
    type_vocab_size: Annotated[int, Field(ge=0, le=WIDTH)] | None = None
    max_position_embeddings: _Positions = None
    n_positions: _Positions = None
    num_labels: Annotated[int, Field(ge=0, le=CLASSES)] | None = None
    id2label: Annotated[dict[str, str | int], Field(max_length=CLASSES)] | None = None
    label2id: Annotated[dict[str, int | str], Field(max_length=CLASSES)] | None = None
    pad_token_id: _Id = None
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    dtype: _Name | None = None
    torch_dtype: _Name | None = None

    def size(self, *names: str) -> int | None:
        """Return the first of some fields that is set."""
        return next((value for name in names if (value := getattr(self, name)) is not None), None)


_LAYER_NAMES = ("num_hidden_layers", "n_layers", "n_layer")
_HEAD_NAMES = ("num_attention_heads", "n_heads", "n_head")
_INNER_NAMES = ("intermediate_size", "hidden_dim", "n_inner", "d_inner")
_WIDTH_NAMES = ("hidden_size", "dim", "d_model", "n_embd")


#: Fields that hold the sizes of a model.
SIZES = (
    *_LAYER_NAMES,
    *_HEAD_NAMES,
    *_INNER_NAMES,
    *_WIDTH_NAMES,
    "embedding_size",
    "vocab_size",
    "max_position_embeddings",
    "n_positions",
)


def layers_of(fields: Mapping[str, Any]) -> int:
    """Return the number of blocks in a checked config.json."""
    return _Fields.model_validate(dict(fields)).size(*_LAYER_NAMES) or 0


def check_config(fields: object, where: str, *, whole: bool = True) -> None:
    """Refuse a config whose sizes are not numbers, or out of bounds.

    Parameters
    ----------
    fields : object
        Contents of config.json.
    where : str
        Name of the config in errors.
    whole : bool
        Whether the model is dense; a slim one may have no layers, heads or FFN neurons left.

    Raises
    ------
    ModelError
    """
    if not isinstance(fields, Mapping) or not all(isinstance(name, str) for name in fields):
        raise ModelError(f"{where} must hold a JSON object.")
    if not isinstance(fields.get("model_type"), str):
        raise ModelError(f"{where} has no model_type.")
    try:
        config = _Fields.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(shown(part) for part in first["loc"][:2])
        raise ModelError(f"{where} cannot be used: {name}: {first['msg']}.") from None
    if config.id2label is not None and sorted(config.id2label) != sorted(map(str, range(len(config.id2label)))):
        raise ModelError(f"{where} cannot be used: the keys of id2label are not the numbers from 0 on.")
    for names in (_LAYER_NAMES, _HEAD_NAMES, _INNER_NAMES) if whole else ():
        for name in names:
            if getattr(config, name) == 0:
                raise ModelError(f"{where} cannot be used: {name} is 0.")


def read_config(path: Path, where: str) -> dict[str, Any]:
    """Return the object in a config.json, not yet checked; raises ModelError."""
    try:
        fields = read_json(path, CONFIG_BYTES)
    except ReadError as error:
        raise ModelError(f"{where} cannot be read: {error}.") from None
    if not isinstance(fields, dict):
        raise ModelError(f"{where} must hold a JSON object.")
    return fields


def check_type(name: str, model_type: object) -> str:
    """Return the model type if it is supported; raises UnsupportedError."""
    if not isinstance(model_type, str) or model_type not in SPECS:
        known = ", ".join(sorted(SPECS))
        raise UnsupportedError(f"The model {name!r} is of the type {model_type!r}, which prunekit does not know. It knows {known}.")
    return model_type


def check_tokenizer_files(folder: Path, where: str) -> None:
    """Refuse files of a tokenizer that are not JSON objects, or larger than any vocabulary; raises ModelError."""
    for name in _TOKENIZER_FILES:
        if (folder / name).exists():
            fields = read_config(folder / name, f"{where} has a tokenizer that cannot be used: {name}")
            _check_added(fields.get("added_tokens_decoder"), f"{where} has a tokenizer that cannot be used: {name}")
    for name in _VOCABULARY_FILES:
        if (folder / name).exists():
            try:
                check_regular(folder / name, VOCABULARY_BYTES)
            except ReadError as error:
                raise ModelError(f"{where} has a tokenizer that cannot be used: {name}: {error}.") from None
    if (folder / "tokenizer.json").exists():
        check_charsmap(folder / "tokenizer.json", where)


def _check_added(added: object, where: str) -> None:
    """Refuse added tokens with an id outside any vocabulary, which transformers drops silently; raises ModelError."""
    if added is not None and not isinstance(added, dict):
        raise ModelError(f"{where}: added_tokens_decoder must be an object; got {type(added).__name__}.")
    longest = len(str(VOCABULARY))
    for key in added or ():
        if not (key.isascii() and key.isdecimal() and len(key) <= longest and int(key) < VOCABULARY):
            raise ModelError(f"{where}: the ids of added_tokens_decoder must be from 0 to {VOCABULARY - 1}; got {key[:40]!r}.")


def stored_elements(folder: Path) -> tuple[int, int]:
    """Return (elements, bytes) of a directory's safetensors, from their headers; raises ModelError."""
    elements = size = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            check_regular(file)
            with safe_open(str(file), framework="np") as tensors:
                elements += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except (ReadError, OSError, SafetensorError) as error:
            raise ModelError(f"The weights {str(file)!r} cannot be loaded from safetensors: {reason(error)}.") from None
        size += file.stat().st_size
    return elements, size


def check_memory(fields: Mapping[str, Any], elements: int, where: str) -> None:
    """Refuse a model whose config describes more than its weights hold, or whose weights do not fit into memory.

    Parameters
    ----------
    fields : mapping
        Checked contents of config.json.
    elements : int
        Number of elements in the weights.
    where : str
        Name of the model in errors.

    Raises
    ------
    ModelError
    """
    config = _Fields.model_validate(dict(fields))
    layers, hidden = config.size(*_LAYER_NAMES) or 0, config.size(*_WIDTH_NAMES) or 0
    spec = SPECS.get(config.model_type)
    stored = 1 if spec is not None and spec.shared_blocks else layers
    # Common to all families: two matrices between hidden and FFN in each block, and a row for each token.
    minimum = 2 * stored * hidden * (config.size(*_INNER_NAMES) or 0)
    minimum += (config.vocab_size or 0) * min(config.embedding_size or hidden, hidden)
    if minimum > elements:
        raise ModelError(
            f"The model {where!r} is not complete: its config.json describes at least {minimum:,} parameters, "
            f"its safetensors hold {elements:,}."
        )
    available = memory()
    if 4 * elements > available:
        raise ModelError(
            f"The model {where!r} takes at least {4 * elements / 1e9:,.1f} GB in float32, this machine has {available / 1e9:,.1f} GB."
        )


def positions_of(config: Any, pad: int) -> int | None:
    """Return the tokens of the longest row that a model accepts, special tokens included; None for no limit.

    Parameters
    ----------
    config : PretrainedConfig, or the mapping in a config.json
    pad : int
        Id of the padding.
    """

    def field(name: str) -> Any:
        return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)

    # XLNet has -1 for no limit, and GPT-2's JSON a name of its own.
    length = field("max_position_embeddings") or field("n_positions") or 0
    if not isinstance(length, int) or length <= 0:
        return None
    spec = SPECS.get(field("model_type") or "")
    if spec is None or spec.pad_positions:
        # RoBERTa's family numbers positions from the padding id on, and has that many fewer.
        length -= (pad if spec is None or spec.padding is None else spec.padding) + 1
    return max(1, length)


def row_length(positions: int | None, asked: int | None, *, of: str, usual: int = LENGTH) -> int:
    """Return the tokens after which a row is truncated: as asked, else the usual number or all positions, whichever is less.

    Raises
    ------
    ParameterError
        If more are asked for than the model has positions.
    """
    if asked is None:
        return usual if positions is None else min(usual, positions)
    if positions is not None and asked > positions:
        raise ParameterError("max_length", of, f"at most {positions}, the longest row that the model takes", asked)
    return asked
