"""The vector of a whole text, computed inside the deployed file: pooling and normalisation as the checkpoint states them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from prunekit.arch import SPECS
from prunekit.arch.view import ModelView, cls_positions, last_positions
from prunekit.errors import ModelError, ParameterError, UnsupportedError
from prunekit.validation.limits import CONFIG_BYTES
from prunekit.validation.reading import ReadError, read_json

Pooling = Literal["mean", "cls", "last"]
POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "last")
_FLAGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class Embedding:
    """How a text's tokens become its vector.

    Attributes
    ----------
    pooling : {"mean", "cls", "last"}
    normalize : bool
        Whether the vector has length 1.
    """

    pooling: Pooling = "mean"
    normalize: bool = True


def embedding_of(folder: Path, pooling: str | None) -> Embedding:
    """What the sentence-transformers files of a checkpoint say; the mean, normalised, where there are none.

    Parameters
    ----------
    folder : Path
        The checkpoint; it need not exist.
    pooling : str, optional
        What the user wants in place of it.

    Raises
    ------
    ParameterError
        If `pooling` is no pooling.
    UnsupportedError
        If the checkpoint has modules behind the encoder that are neither pooling nor normalisation.
    ModelError
        If the files cannot be read.
    """
    found = _stated(folder)
    if pooling is None:
        return found
    if pooling not in POOLINGS:
        raise ParameterError("pooling", "export", f"one of {', '.join(map(repr, POOLINGS))}", pooling)
    return Embedding(pooling, found.normalize)


def _stated(folder: Path) -> Embedding:
    if not (folder / "modules.json").is_file():
        return Embedding()
    modules = _json(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{str(folder / 'modules.json')!r} must hold a list of modules.")
    kinds = {str(module.get("type", "")).rpartition(".")[2]: str(module.get("path", "")) for module in modules}
    other = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
    if other:
        raise UnsupportedError(f"The module {min(other)} of {str(folder)!r} is not supported; Transformer, Pooling and Normalize are.")
    if "Pooling" not in kinds:
        return Embedding(normalize="Normalize" in kinds)
    stated = _json(folder / kinds["Pooling"] / "config.json")
    if not isinstance(stated, dict):
        raise ModelError(f"{str(folder / kinds['Pooling'] / 'config.json')!r} must hold a JSON object.")
    named = stated.get("pooling_mode")
    modes = [key for key, value in stated.items() if key.startswith("pooling_mode_") and value is True]
    poolings: list[str] = [named] if isinstance(named, str) else [_FLAGS.get(mode, mode) for mode in modes]
    poolings = ["last" if name == "lasttoken" else name for name in poolings]
    for known in POOLINGS:
        if poolings == [known]:
            return Embedding(known, "Normalize" in kinds)
    raise UnsupportedError(
        f"The pooling {', '.join(poolings) or 'none'} of {str(folder)!r} is not supported; one of mean, cls and last is."
    )


def _json(path: Path) -> object:
    try:
        found: object = read_json(path, CONFIG_BYTES)
    except ReadError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error}.") from None
    return found


class Embedded(NamedTuple):
    """Outputs of an `EmbeddingModel`: (batch, length, H), and (batch, H)."""

    last_hidden_state: Tensor
    sentence_embedding: Tensor


class EmbeddingModel(nn.Module):
    """A bare encoder, and the vector of the whole text beside its last hidden state.

    Parameters
    ----------
    body : PreTrainedModel
    embedding : Embedding
    """

    def __init__(self, body: nn.Module, embedding: Embedding) -> None:
        super().__init__()
        view = ModelView.of(body)
        self.body, self.config, self.embedding = body, view.config, embedding
        self.spec = SPECS[view.config.model_type]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Embedded:
        """All tensors are (batch, length), int64; 1 marks real tokens."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        found = self.body(**{name: tensor for name, tensor in given.items() if tensor is not None}, **self.spec.flags)
        states: Tensor = found.last_hidden_state
        pooled = self._pool(states, attention_mask)
        return Embedded(states, nn.functional.normalize(pooled, dim=-1) if self.embedding.normalize else pooled)

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        if self.embedding.pooling == "mean":
            weights = mask.to(states.dtype)[:, :, None]
            return torch.sum(states * weights, dim=1) / weights.sum(dim=1)
        if self.embedding.pooling == "cls" and self.spec.cls == "first":
            return states[:, 0]
        positions = last_positions(mask) if self.embedding.pooling == "last" else cls_positions(self.spec, mask)
        return states.gather(1, positions[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)
