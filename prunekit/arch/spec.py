"""Description of an architecture family as data: one record per family, no torch.

A record names the *role* of every axis of every parameter. Equal size does not mean equal role (the inner attention
width of a BERT equals its hidden size, and is something else), so roles are stated here and never guessed from shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["hidden", "heads", "ffn", "vocabulary", "embedding"]
Unit = Literal["layers", "heads", "ffn", "hidden", "vocabulary"]


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter whose entries belong to units that can be removed.

    The axis is laid out as `repeat` runs of all units, each unit `width` entries wide; the width follows from the live
    size, so a head axis may hold heads x head_dim entries, heads alone, or key/value groups of several query heads.

    Attributes
    ----------
    role : str
        Which units; "embedding" means the embedding width, which is the hidden width unless a projection follows.
    repeat : int
        Runs of all units: 3 for a fused query-key-value projection, 2 for a fused gated FFN.
    when : str
        Name of a config flag that must be true for the role to hold; empty for always.
    """

    role: Role
    repeat: int = 1
    when: str = ""


HIDDEN = Axis("hidden")
HEADS = Axis("heads")
FFN = Axis("ffn")
VOCABULARY = Axis("vocabulary")
EMBEDDING = Axis("embedding")

Axes = tuple[Axis | None, ...]
Parameters = Mapping[str, Axes]


def linear(path: str, out: Axis | None, into: Axis | None) -> dict[str, Axes]:
    """Return the roles of an `nn.Linear`: weight (out, in), bias (out,)."""
    return {f"{path}.weight": (out, into), f"{path}.bias": (out,)}


def conv1d(path: str, out: Axis | None, into: Axis | None) -> dict[str, Axes]:
    """Return the roles of the transposed linear layer of GPT-2: weight (in, out), bias (out,)."""
    return {f"{path}.weight": (into, out), f"{path}.bias": (out,)}


def norm(path: str, over: Axis | None = HIDDEN) -> dict[str, Axes]:
    """Return the roles of a normalisation layer."""
    return {f"{path}.weight": (over,), f"{path}.bias": (over,)}


def embedding(path: str, rows: Axis | None = None, width: Axis | None = HIDDEN) -> dict[str, Axes]:
    """Return the roles of an embedding table: (rows, width)."""
    return {f"{path}.weight": (rows, width)}


@dataclass(frozen=True)
class Stub:
    """Replacement of a module when its sub-block is removed.

    Attributes
    ----------
    at : str
        Path inside the block.
    kind : str
        "identity": returns its input. "pass": returns (input, None), as an attention module would.
        "bias": returns the bias of the output projection. "bias_pass": returns (that bias, None).
        "residual": returns (norm(input + that bias), None), where the module held residual and norm itself.
    norm : str
        Path inside the block of the norm that a "residual" stub keeps.
    """

    at: str
    kind: Literal["identity", "pass", "bias", "bias_pass", "residual"]
    norm: str = ""


@dataclass(frozen=True)
class SubBlock:
    """The attention or the FFN of a block.

    Attributes
    ----------
    output : str
        Path inside the block of the projection back into the residual stream, a module or a raw parameter.
    removal : tuple of Stub
        Stubs that remove the entire sub-block; the bias of the output projection stays.
    sizes : tuple of (path, attribute)
        Module attributes that hold a size proportional to the units kept.
    sum : str
        Path inside the block of the module whose input is the residual sum behind this sub-block; empty: the sum is the
        block's own output.
    reads : tuple of str
        Paths of the linear layers by which this sub-block reads the residual stream, all with the same input; empty
        where their weights also read something else, and must not be transformed.
    method : str
        Where the output projection is a raw parameter: path inside the block of the method that applies it, called with
        (residual, output of the units).
    """

    output: str
    removal: tuple[Stub, ...]
    sizes: tuple[tuple[str, str], ...] = ()
    sum: str = ""
    reads: tuple[str, ...] = ()
    method: str = ""


@dataclass(frozen=True)
class HeadBias:
    """A table outside the blocks, one column a head, that the attention of every block adds to its scores.

    The table keeps the columns of the heads that any block keeps; a block that keeps fewer reads those of its own.

    Attributes
    ----------
    table : str
        Path inside the body of the embedding.
    reader, argument, axis
        Path inside the block of the module that receives the biases, the keyword that passes them, and the axis of
        the heads there.
    sizes : tuple of (path, attribute)
        Module attributes of the body that hold the number of columns.
    """

    table: str
    reader: str
    argument: str
    axis: int
    sizes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Limit:
    """A restriction of a family.

    Attributes
    ----------
    unit : str
        The unit concerned; "all" for the whole model, "inner layers" for dropping any but the topmost blocks.
    key, allowed
        The limit holds if the config's `key` is present and differs from `allowed`; an empty key always holds.
    sentence : str
        Message of the UnsupportedError.
    """

    unit: Unit | Literal["all", "inner layers"]
    key: str
    allowed: object
    sentence: str


@dataclass(frozen=True)
class ArchSpec:
    """One family of encoders.

    Attributes
    ----------
    name : str
        The family's name.
    model_types : tuple of str
        `config.model_type` values that this record describes.
    blocks : str
        Path from the body to the list of blocks.
    attention, ffn : SubBlock
    block : mapping
        Roles of a block's parameters, by path inside the block.
    outer : mapping
        Roles of the body's other parameters, by path inside the body.
    embeddings : tuple of str
        Paths inside the body that count as embeddings.
    heads : mapping
        {task head, as its class is named: linear layers that read the last hidden state, by path inside the model}.
    refused_heads : mapping
        {class whose head cannot be exported: why, and what can}.
    scores_tokens : bool
        The head of a sequence scores every token, and then selects one of them.
    ffn_key : str
        The config's name of the FFN width.
    inputs : tuple of str
        Tensors that the body takes from a tokenizer; `token_type_ids` only if the config has token types.
    cls : {"first", "last"}
        Where the [CLS] token stands.
    final_norm : str
        Path inside the body of a norm that only the last hidden state passes; empty if none.
    pooler : str
        Attribute of the body that may be None, and is not needed by a readout; empty if none.
    projection : str
        Path inside the body of the layer from the embedding width to the hidden width; it may be absent in a model.
    shared_blocks : str
        Why all blocks share one set of weights; empty if they do not.
    head_bias : HeadBias, optional
    pad_positions : bool
        Positions are counted from the padding id, which must therefore keep its number.
    padding : int, optional
        That id, where the family's classes fix it regardless of the config.
    free_head_dim : bool
        The config has a separate head size, so that stock classes load narrower models.
    needs_block : bool
        The body cannot run on an empty list of blocks.
    time_first : bool
        Blocks take and return (length, batch, H) instead of (batch, length, H).
    depth_sizes, hidden_sizes : tuple of (path, attribute)
        Module attributes that hold the depth (path in the body), or the hidden size (path in the block).
    flags : mapping
        Arguments of every forward call of the body.
    row_rate : mapping
        {block parameter: rows that it multiplies per token, if not 1}.
    full_attention : (str, int), optional
        The config's key for "every n-th block attends to all tokens", which is all that transformers 4 reads, and its default.
    torch_export : bool
        torch.export can take the family's models.
    limits : tuple of Limit
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str
    attention: SubBlock
    ffn: SubBlock
    block: Parameters
    outer: Parameters
    embeddings: tuple[str, ...]
    heads: Mapping[str, tuple[str, ...]]
    refused_heads: Mapping[str, str] = field(default_factory=dict)
    scores_tokens: bool = False
    ffn_key: str = "intermediate_size"
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    cls: Literal["first", "last"] = "first"
    final_norm: str = ""
    pooler: str = ""
    projection: str = ""
    shared_blocks: str = ""
    head_bias: HeadBias | None = None
    pad_positions: bool = False
    padding: int | None = None
    free_head_dim: bool = False
    needs_block: bool = False
    time_first: bool = False
    depth_sizes: tuple[tuple[str, str], ...] = ()
    hidden_sizes: tuple[tuple[str, str], ...] = ()
    flags: Mapping[str, bool] = field(default_factory=dict)
    row_rate: Mapping[str, float] = field(default_factory=dict)
    full_attention: tuple[str, int] | None = None
    torch_export: bool = True
    limits: tuple[Limit, ...] = ()


TYPED_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SEQUENCE, TOKEN, QUESTION = "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"
