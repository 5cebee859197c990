"""The vector of a whole text: an encoder with pooling, an output projection and normalisation, as sentence-transformers states them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunekit.arch import SPECS
from prunekit.arch.view import Embedder, ModelView, cls_positions, last_positions
from prunekit.errors import ModelError, ParameterError, UnsupportedError
from prunekit.validation.limits import CONFIG_BYTES, WIDTH
from prunekit.validation.reading import ReadError, check_regular, read_json, shown

Pooling = Literal["mean", "cls", "last", "max"]
POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "last", "max")
#: How the configs of sentence-transformers call them, by flag and by name.
_FLAGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
    "lasttoken": "last",
}
MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
#: Where the longest row of the encoder stands; sentence-transformers has called it by several names.
LENGTHS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_xlm-roberta_config.json",
)
WEIGHTS = "model.safetensors"
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_LONGEST_PROMPT = 4096


@dataclass(frozen=True)
class Embedding:
    """How a text becomes its vector.

    Attributes
    ----------
    pooling : {"mean", "cls", "last", "max"}
        Over the real tokens.
    normalize : bool
        Whether the vector has length 1.
    prompts : mapping
        {name: text that goes before the text}.
    default_prompt : str or None
        Which one where none is named; None: none.
    include_prompt : bool
        Whether the tokens of the prompt are pooled too.
    max_length : int or None
        Tokens after which a text is cut; None: not stated.
    dense : str
        Folder of an output projection in the checkpoint; empty for none.
    """

    pooling: Pooling = "mean"
    normalize: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
    max_length: int | None = None
    dense: str = ""

    def prompt(self, name: str | None) -> str:
        """The text of a prompt; of None the default one, or nothing.

        Raises
        ------
        ParameterError
            No prompt of that name.
        UnsupportedError
            A prompt whose tokens are left out of the pooling.
        """
        asked = self.default_prompt if name is None else name
        if asked is None:
            return ""
        if asked not in self.prompts:
            known = ", ".join(map(shown, self.prompts)) or "none"
            raise ParameterError("prompt", "compress", f"one of the model's prompts ({known})", asked)
        if not self.include_prompt and self.prompts[asked]:
            raise UnsupportedError("The model leaves the tokens of its prompt out of the pooling (include_prompt), which is not supported.")
        return self.prompts[asked]


def embedding_of(folder: Path, pooling: str | None, *, of: str = "export") -> Embedding:
    """What the sentence-transformers files of a checkpoint say; the mean, normalised, where there are none.

    Parameters
    ----------
    folder : Path
        The checkpoint; it need not exist.
    pooling : str, optional
        What the user wants in place of it.
    of : str
        The command, for errors.

    Raises
    ------
    ParameterError
        If `pooling` is no pooling.
    UnsupportedError
        If the checkpoint has modules that are not an encoder, a pooling, a linear projection and a normalisation, in this order.
    ModelError
        If the files cannot be read.
    """
    found = _stated(folder)
    if pooling is None:
        return found
    if pooling not in POOLINGS:
        raise ParameterError("pooling", of, f"one of {', '.join(map(repr, POOLINGS))}", pooling)
    return replace(found, pooling=pooling)


def _stated(folder: Path) -> Embedding:
    if not (folder / MODULES).is_file():
        return Embedding()
    kinds = dict(_modules(folder))
    stated = Embedding() if "Pooling" not in kinds else _pooling(folder, _object(folder / kinds["Pooling"] / "config.json"))
    encoder = next((_object(folder / name) for name in LENGTHS if (folder / name).is_file()), {})
    length = encoder.get("max_seq_length")
    if encoder.get("do_lower_case"):
        raise UnsupportedError(f"The encoder of {str(folder)!r} lower-cases texts outside of its tokenizer, which is not supported.")
    if length is not None and (type(length) is not int or not 1 <= length < 2**31):
        raise ModelError(f"The max_seq_length of {str(folder)!r} must be a whole number above 0. Got {str(length)[:40]!r} instead.")
    prompts, default = _prompts(folder)
    return replace(
        stated,
        normalize="Normalize" in kinds,
        prompts=prompts,
        default_prompt=default,
        max_length=length,
        dense=kinds.get("Dense", ""),
    )


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    """(kind, folder) of each module, in their order."""
    path = folder / MODULES
    modules = _json(path)
    if not isinstance(modules, list) or not modules or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{str(path)!r} must hold a list of modules.")
    last = -1
    for module in modules:
        kind, place = str(module.get("type", "")).rpartition(".")[2], module.get("path", "")
        if kind not in _ORDER:
            raise UnsupportedError(f"The module {shown(kind)} of {str(folder)!r} is not supported; {', '.join(_ORDER)} are.")
        if _ORDER.index(kind) <= last:
            raise UnsupportedError(f"The modules of {str(folder)!r} must be {', '.join(_ORDER)}, in this order and once each.")
        last = _ORDER.index(kind)
        if not isinstance(place, str) or PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
            raise ModelError(f"{str(path)!r} names a path outside the model: {str(place)[:60]!r}.")
        if kind == "Transformer" and place not in ("", "."):
            raise UnsupportedError(f"The encoder of {str(folder)!r} must stand in the directory itself; it is in {shown(place)}.")
        yield kind, place


def _pooling(folder: Path, stated: dict[str, Any]) -> Embedding:
    named = stated.get("pooling_mode")
    modes = [key for key, value in stated.items() if key.startswith("pooling_mode_") and value is True]
    names: list[str] = [named] if isinstance(named, str) else modes
    found = [_FLAGS.get(name, name) for name in names]
    for known in POOLINGS:
        if found == [known]:
            return Embedding(known, include_prompt=stated.get("include_prompt", True) is not False)
    said = ", ".join(map(shown, found)) or "none"
    raise UnsupportedError(f"The pooling {said} of {str(folder)!r} is not supported; one of {', '.join(POOLINGS)} is.")


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    if not (folder / PROMPTS).is_file():
        return {}, None
    stated = _object(folder / PROMPTS)
    prompts, default = stated.get("prompts") or {}, stated.get("default_prompt_name")
    fits = isinstance(prompts, dict) and all(isinstance(text, str) and len(text) <= _LONGEST_PROMPT for text in prompts.values())
    if not fits or not isinstance(default, str | None):
        raise ModelError(f"The prompts of {str(folder / PROMPTS)!r} must be texts of at most {_LONGEST_PROMPT:,} characters by name.")
    if default is not None and default not in prompts:
        raise ModelError(f"The default prompt {shown(default)!r} of {str(folder / PROMPTS)!r} is not among its prompts.")
    return dict(prompts), default


def _object(path: Path) -> dict[str, Any]:
    found = _json(path)
    if not isinstance(found, dict):
        raise ModelError(f"{str(path)!r} must hold a JSON object.")
    return found


def _json(path: Path) -> object:
    try:
        found: object = read_json(path, CONFIG_BYTES)
    except ReadError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error}.") from None
    return found


def _projection(folder: Path, width: int) -> nn.Linear:
    """The output projection in a folder of the checkpoint, which takes vectors of a given width."""
    stated = _object(folder / "config.json")
    sizes = stated.get("in_features"), stated.get("out_features")
    activation = str(stated.get("activation_function", "")).rpartition(".")[2]
    if activation != "Identity":
        raise UnsupportedError(f"The Dense module {str(folder)!r} has the activation {shown(activation)}; only Identity is supported.")
    if sizes[0] != width or type(sizes[1]) is not int or not 1 <= sizes[1] <= WIDTH:
        raise ModelError(
            f"The Dense module {str(folder)!r} must take {width} dimensions. It maps {str(sizes[0])[:20]} to {str(sizes[1])[:20]}."
        )
    made = nn.Linear(width, sizes[1], bias=bool(stated.get("bias", True)))
    try:
        check_regular(folder / WEIGHTS)
        state = load_file(folder / WEIGHTS)
        made.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in state.items()})
    except (ReadError, SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"The weights {str(folder / WEIGHTS)!r} cannot be read: {' '.join(str(error).split())[:200]}.") from None
    return made


class Embedded(NamedTuple):
    """Outputs of an `EmbeddingModel`: (batch, length, H), and (batch, D)."""

    last_hidden_state: Tensor
    sentence_embedding: Tensor


class EmbeddingModel(Embedder):
    """A bare encoder, and the vector of the whole text beside its last hidden state.

    Parameters
    ----------
    body : PreTrainedModel
    embedding : Embedding
    project : nn.Linear, optional
        What the pooled vector passes before it is normalised.
    """

    def __init__(self, body: nn.Module, embedding: Embedding, project: nn.Linear | None = None) -> None:
        super().__init__()
        view = ModelView.of(body)
        self.body, self.config, self.embedding, self.project = body, view.config, embedding, project
        self.spec, self.averages = SPECS[view.config.model_type], embedding.pooling == "mean"

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, *, return_dict: bool = True
    ) -> Embedded:
        """All tensors are (batch, length), int64; 1 marks real tokens."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        found = self.body(**{name: tensor for name, tensor in given.items() if tensor is not None}, **self.spec.flags)
        states: Tensor = found.last_hidden_state
        return Embedded(states, self.finish(self.pooled(states, attention_mask)))

    def finish(self, pooled: Tensor) -> Tensor:
        """Project and normalise pooled states, (batch, H) to (batch, D)."""
        if self.project is not None:
            pooled = self.project(pooled)
        return nn.functional.normalize(pooled, dim=-1) if self.embedding.normalize else pooled

    def pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool states (batch, length, H) over the tokens that a mask (batch, length) marks."""
        if self.embedding.pooling == "mean":
            weights = mask.to(states.dtype)[:, :, None]
            return torch.sum(states * weights, dim=1) / weights.sum(dim=1)
        if self.embedding.pooling == "max":
            return states.masked_fill(mask[:, :, None] == 0, -1e9).amax(dim=1)
        if self.embedding.pooling == "cls" and self.spec.cls == "first":
            return states[:, 0]
        positions = last_positions(mask) if self.embedding.pooling == "last" else cls_positions(self.spec, mask)
        return states.gather(1, positions[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)


def embedder(body: nn.Module, folder: Path, pooling: str | None, *, of: str = "export") -> EmbeddingModel:
    """An encoder with what the sentence-transformers files of its checkpoint put behind it; see `embedding_of` for what is raised."""
    stated = embedding_of(folder, pooling, of=of)
    project = _projection(folder / stated.dense, ModelView.of(body).hidden_size) if stated.dense else None
    return EmbeddingModel(body, stated, project).eval()


def save_modules(model: EmbeddingModel, folder: Path) -> None:
    """Write beside an encoder's checkpoint what sentence-transformers needs to load it; its weights stand in the folder itself.

    Parameters
    ----------
    model : EmbeddingModel
    folder : Path
        That of the encoder's config.json.
    """
    stated = model.embedding
    width = ModelView.of(model).width if model.project is None else model.project.in_features
    modes = {key: name == stated.pooling for key, name in _FLAGS.items() if key.startswith("pooling_mode_")}
    files: dict[str, dict[str, Any]] = {
        LENGTHS[0]: {"max_seq_length": stated.max_length, "do_lower_case": False},
        PROMPTS: {"prompts": dict(stated.prompts), "default_prompt_name": stated.default_prompt, "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {"word_embedding_dimension": width, **modes, "include_prompt": stated.include_prompt},
    }
    kinds = ["Transformer", "Pooling"]
    if model.project is not None:
        place = folder / f"{len(kinds)}_Dense"
        place.mkdir(exist_ok=True)
        state = {f"linear.{name}": tensor.detach().contiguous().cpu() for name, tensor in model.project.state_dict().items()}
        save_file(state, place / WEIGHTS, metadata={"format": "pt"})
        sizes = {"in_features": width, "out_features": model.project.out_features, "bias": model.project.bias is not None}
        files[f"{place.name}/config.json"] = {**sizes, "activation_function": "torch.nn.modules.linear.Identity"}
        kinds.append("Dense")
    if stated.normalize:
        kinds.append("Normalize")
    for name, fields in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    modules = [
        {"idx": at, "name": str(at), "path": f"{at}_{kind}" if at else "", "type": f"sentence_transformers.models.{kind}"}
        for at, kind in enumerate(kinds)
    ]
    (folder / MODULES).write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
