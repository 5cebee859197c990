"""Text embeddings: an encoder with pooling, an output projection and normalisation, as sentence-transformers defines them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunekit.arch import SPECS
from prunekit.arch.folder import TOKENIZER
from prunekit.arch.view import Embedder, ModelView, pool_states
from prunekit.errors import ModelError, ParameterError, UnsupportedError
from prunekit.validation.escape import reason
from prunekit.validation.limits import CONFIG_BYTES, WIDTH
from prunekit.validation.reading import ReadError, check_regular, read_json, shown

Pooling = Literal["mean", "cls", "last", "max"]
POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "last", "max")
#: Poolings by their flags and names in the configs of sentence-transformers.
_FLAGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
    "lasttoken": "last",
}
MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
#: Files that hold the length of the encoder's longest row; sentence-transformers has used several names.
LENGTHS = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"))
WEIGHTS = "model.safetensors"
#: What describes an embedder, beside its encoder's files; patterns of names.
FILES = (MODULES, PROMPTS, *LENGTHS, TOKENIZER, "?_*/config.json", f"?_*/{WEIGHTS}")
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_LONGEST_PROMPT = 4096
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


@dataclass(frozen=True)
class Embedding:
    """Description of the steps from a text to its vector.

    Attributes
    ----------
    pooling : {"mean", "cls", "last", "max"}
        Over the real tokens.
    normalize : bool
        Whether the vector has length 1.
    prompts : mapping
        {name: text that goes before the text}.
    default_prompt : str or None
        Prompt that is used where none is named; None: none.
    include_prompt : bool
        Whether the tokens of the prompt are pooled too.
    max_length : int or None
        Tokens after which a text is truncated; None: not stated.
    dense : str
        Folder of an output projection in the checkpoint; empty for none.
    similarity : {"cosine", "dot", "euclidean", "manhattan"}
        What sentence-transformers compares vectors by.
    """

    pooling: Pooling = "mean"
    normalize: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
    max_length: int | None = None
    dense: str = ""
    similarity: str = "cosine"

    def prompt(self, name: str | None) -> str:
        """Return the text of a prompt; for None the default one, or an empty string.

        Raises
        ------
        ParameterError
            If there is no prompt of that name.
        UnsupportedError
            If the tokens of the prompt are left out of the pooling.
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


def embedding_of(folder: Path | None, pooling: str | None, *, of: str = "export") -> Embedding:
    """Return what the sentence-transformers files of a checkpoint describe; the normalised mean where there are none.

    Parameters
    ----------
    folder : Path or None
        The checkpoint; None where there are no files, as of a model in memory.
    pooling : str, optional
        Pooling that the user asks for instead.
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
    embedding = Embedding() if folder is None else _read_embedding(folder, ours=of == "load")
    if pooling is None:
        return embedding
    if pooling not in POOLINGS:
        raise ParameterError("pooling", of, f"one of {', '.join(map(repr, POOLINGS))}", pooling)
    return replace(embedding, pooling=pooling)


def _read_embedding(folder: Path, *, ours: bool) -> Embedding:
    """Read the files of a checkpoint, `ours` where prunekit wrote it."""
    if not (folder / MODULES).is_file():
        return Embedding()
    kinds = dict(_modules(folder))
    if "Pooling" not in kinds and len(kinds) > 1:
        raise UnsupportedError(f"The modules of {str(folder)!r} have no Pooling: models with a vector for each token are not supported.")
    embedding = Embedding() if "Pooling" not in kinds else _pooling(folder, _object(folder / kinds["Pooling"] / "config.json"))
    encoder = next((_object(folder / name) for name in LENGTHS if (folder / name).is_file()), {})
    tokenizer = _object(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else {}
    length = encoder.get("max_seq_length")
    if encoder.get("do_lower_case") and tokenizer.get("do_lower_case") is not True:
        raise UnsupportedError(f"The encoder of {str(folder)!r} lower-cases texts outside of its tokenizer, which is not supported.")
    if length is None:
        # sentence-transformers 6 states it there alone; a huge number is none.
        stated = tokenizer.get("model_max_length")
        length = stated if type(stated) is int and 1 <= stated < 2**31 else None
    if length is not None and (type(length) is not int or not 1 <= length < 2**31):
        raise ModelError(f"The max_seq_length of {str(folder)!r} must be a whole number above 0. Got {str(length)[:40]!r} instead.")
    prompts, default, similarity = _prompts(folder, ours=ours)
    return replace(
        embedding,
        normalize="Normalize" in kinds,
        prompts=prompts,
        default_prompt=default,
        max_length=length,
        dense=kinds.get("Dense", ""),
        similarity=similarity,
    )


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (kind, folder) of each module, in order."""
    path = folder / MODULES
    modules = _json(path)
    if not isinstance(modules, list) or not modules or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{str(path)!r} must hold a list of modules.")
    last = -1
    for module in modules:
        kind, subfolder = str(module.get("type", "")).rpartition(".")[2], module.get("path", "")
        if kind not in _ORDER:
            raise UnsupportedError(f"The module {shown(kind)} of {str(folder)!r} is not supported; {', '.join(_ORDER)} are.")
        if _ORDER.index(kind) <= last:
            raise UnsupportedError(f"The modules of {str(folder)!r} must be {', '.join(_ORDER)}, in this order and once each.")
        last = _ORDER.index(kind)
        if not isinstance(subfolder, str) or PurePosixPath(subfolder).is_absolute() or ".." in PurePosixPath(subfolder).parts:
            raise ModelError(f"{str(path)!r} names a path outside the model: {str(subfolder)[:60]!r}.")
        if kind == "Transformer" and subfolder not in ("", "."):
            raise UnsupportedError(f"The encoder of {str(folder)!r} must stand in the directory itself; it is in {shown(subfolder)}.")
        if kind == "Dense" and subfolder in ("", "."):
            raise ModelError(f"{str(path)!r} names no folder of the module Dense.")
        yield kind, subfolder


def _pooling(folder: Path, config: dict[str, Any]) -> Embedding:
    named = config.get("pooling_mode")
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    names: list[str] = [named] if isinstance(named, str) else modes
    poolings = [_FLAGS.get(name, name) for name in names]
    for known in POOLINGS:
        if poolings == [known]:
            return Embedding(known, include_prompt=config.get("include_prompt", True) is not False)
    listed = ", ".join(map(shown, poolings)) or "none"
    raise UnsupportedError(f"The pooling {listed} of {str(folder)!r} is not supported; one of {', '.join(POOLINGS)} is.")


def _prompts(folder: Path, *, ours: bool) -> tuple[dict[str, str], str | None, str]:
    """Return the prompts, the name of the default one, and the similarity."""
    if not (folder / PROMPTS).is_file():
        return {}, None, _SIMILARITIES[0]
    config = _object(folder / PROMPTS)
    similarity = config.get("similarity_fn_name") or _SIMILARITIES[0]
    if similarity not in _SIMILARITIES:
        raise ModelError(f"The similarity_fn_name of {str(folder / PROMPTS)!r} must be one of {', '.join(_SIMILARITIES)}.")
    if config.get("truncate_dim") is not None and not ours:
        remedy = f"remove it from {PROMPTS}, and give --dims for shorter vectors"
        raise UnsupportedError(f"The vectors of {str(folder)!r} are truncated (truncate_dim), which is not supported: {remedy}.")
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    fits = isinstance(prompts, dict) and all(isinstance(text, str) and len(text) <= _LONGEST_PROMPT for text in prompts.values())
    if not fits or not isinstance(default, str | None):
        raise ModelError(f"The prompts of {str(folder / PROMPTS)!r} must be texts of at most {_LONGEST_PROMPT:,} characters by name.")
    if default is not None and default not in prompts:
        raise ModelError(f"The default prompt {shown(default)!r} of {str(folder / PROMPTS)!r} is not among its prompts.")
    return dict(prompts), default, similarity


def _object(path: Path) -> dict[str, Any]:
    value = _json(path)
    if not isinstance(value, dict):
        raise ModelError(f"{str(path)!r} must hold a JSON object.")
    return value


def _json(path: Path) -> object:
    try:
        value: object = read_json(path, CONFIG_BYTES)
    except ReadError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error}.") from None
    return value


def _projection(folder: Path, width: int) -> nn.Linear:
    """Load the output projection from a folder of the checkpoint, and check that it takes vectors of a given width."""
    config = _object(folder / "config.json")
    sizes = config.get("in_features"), config.get("out_features")
    activation = str(config.get("activation_function", "")).rpartition(".")[2]
    if activation != "Identity":
        raise UnsupportedError(f"The Dense module {str(folder)!r} has the activation {shown(activation)}; only Identity is supported.")
    if sizes[0] != width or type(sizes[1]) is not int or not 1 <= sizes[1] <= WIDTH:
        raise ModelError(
            f"The Dense module {str(folder)!r} must take {width} dimensions. It maps {str(sizes[0])[:20]} to {str(sizes[1])[:20]}."
        )
    biased = bool(config.get("bias", True))
    wanted = {"weight": [sizes[1], width], **({"bias": [sizes[1]]} if biased else {})}
    try:
        check_regular(folder / WEIGHTS)
        # The sizes in the file's header are looked at before anything of these sizes is made.
        with safe_open(str(folder / WEIGHTS), framework="pt") as file:
            stored = {name.removeprefix("linear."): file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        if stored != wanted:
            raise ReadError("they are not of the sizes that its config.json states")
        state = {name.removeprefix("linear."): tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
        if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
            raise ReadError("they hold NaN or infinity")
        projection = nn.Linear(width, sizes[1], bias=biased)
        projection.load_state_dict(state)
    except (ReadError, SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"The weights {str(folder / WEIGHTS)!r} cannot be read: {reason(error)}.") from None
    return projection


class Embedded(NamedTuple):
    """Outputs of an `EmbeddingModel`: (batch, length, H), and (batch, D)."""

    last_hidden_state: Tensor
    sentence_embedding: Tensor


class EmbeddingModel(Embedder):
    """A bare encoder that returns the vector of the text beside its last hidden state.

    Parameters
    ----------
    body : PreTrainedModel
    embedding : Embedding
    project : nn.Linear, optional
        Projection of the pooled vector before its normalisation.
    """

    def __init__(self, body: nn.Module, embedding: Embedding, project: nn.Linear | None = None) -> None:
        super().__init__()
        view = ModelView.of(body)
        self.body, self.config, self.embedding, self.project = body, view.config, embedding, project
        self.spec, self.averages = SPECS[view.config.model_type], embedding.pooling == "mean"

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, *, return_dict: bool = True
    ) -> Embedded:
        """Return states and vectors; all inputs are (batch, length), int64, and in the mask 1 marks real tokens."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        output = self.body(**{name: tensor for name, tensor in inputs.items() if tensor is not None}, **self.spec.flags)
        states: Tensor = output.last_hidden_state
        return Embedded(states, self.finish(self.pooled(states, attention_mask)))

    def finish(self, pooled: Tensor) -> Tensor:
        """Project and normalise pooled states, (batch, H) to (batch, D)."""
        if self.project is not None:
            pooled = self.project(pooled)
        return nn.functional.normalize(pooled, dim=-1) if self.embedding.normalize else pooled

    def pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool states (batch, length, H) over the tokens that a mask (batch, length) marks."""
        return pool_states(states, mask, self.embedding.pooling, self.spec)


def embedder(body: nn.Module, folder: Path | None, pooling: str | None, *, of: str = "export") -> EmbeddingModel:
    """Return an encoder with the steps that its sentence-transformers files describe; raises the errors of `embedding_of`."""
    embedding = embedding_of(folder, pooling, of=of)
    project = _projection(folder / embedding.dense, ModelView.of(body).hidden_size) if folder is not None and embedding.dense else None
    return EmbeddingModel(body, embedding, project).eval()


def save_modules(model: EmbeddingModel, folder: Path) -> None:
    """Write the files beside an encoder's checkpoint with which sentence-transformers loads it; its weights are in the folder itself.

    Parameters
    ----------
    model : EmbeddingModel
    folder : Path
        Folder of the encoder's config.json.
    """
    embedding = model.embedding
    width = ModelView.of(model).width if model.project is None else model.project.in_features
    modes = {key: name == embedding.pooling for key, name in _FLAGS.items() if key.startswith("pooling_mode_")}
    files: dict[str, dict[str, Any]] = {
        LENGTHS[0]: {"max_seq_length": embedding.max_length, "do_lower_case": False},
        PROMPTS: {
            "prompts": dict(embedding.prompts),
            "default_prompt_name": embedding.default_prompt,
            "similarity_fn_name": embedding.similarity,
        },
        "1_Pooling/config.json": {"word_embedding_dimension": width, **modes, "include_prompt": embedding.include_prompt},
    }
    kinds = ["Transformer", "Pooling"]
    if model.project is not None:
        dense_folder = folder / f"{len(kinds)}_Dense"
        dense_folder.mkdir(exist_ok=True)
        state = {f"linear.{name}": tensor.detach().contiguous().cpu() for name, tensor in model.project.state_dict().items()}
        save_file(state, dense_folder / WEIGHTS, metadata={"format": "pt"})
        sizes = {"in_features": width, "out_features": model.project.out_features, "bias": model.project.bias is not None}
        files[f"{dense_folder.name}/config.json"] = {**sizes, "activation_function": "torch.nn.modules.linear.Identity"}
        kinds.append("Dense")
    if embedding.normalize:
        kinds.append("Normalize")
    for name, fields in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    modules = [
        {"idx": at, "name": str(at), "path": f"{at}_{kind}" if at else "", "type": f"sentence_transformers.models.{kind}"}
        for at, kind in enumerate(kinds)
    ]
    (folder / MODULES).write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
