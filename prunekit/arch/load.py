"""Loading of checkpoints; every failure is an error of one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import __version__ as transformers_version
from transformers.utils import logging
from transformers.utils.hub import cached_file

from prunekit.arch.classes import check_fields, check_tokenizer_class, settled
from prunekit.arch.config import (
    LENGTH,
    WINDOW,
    check_config,
    check_type,
    positions_of,
    read_config,
    row_length,
)
from prunekit.arch.embedding import FILES, MODULES, PROMPTS, EmbeddingModel
from prunekit.arch.folder import ADAPTER, INDEX, PRUNED, TOKENIZER, adapter_error, check_folder, local_folder
from prunekit.arch.head import MANY_LABELS, QUESTIONS, TEXTS, TOKENS, Stated, head_named
from prunekit.arch.tokenizer import try_out
from prunekit.arch.view import Reader, answers_by_span
from prunekit.errors import ModelError
from prunekit.tasks import Task, TaskKind
from prunekit.validation.escape import reason
from prunekit.validation.fingerprint import digest_at
from prunekit.validation.limits import VOCABULARY
from prunekit.validation.reading import shown

_AUTO_CLASSES = {
    TEXTS: AutoModelForSequenceClassification,
    TOKENS: AutoModelForTokenClassification,
    **dict.fromkeys(QUESTIONS, AutoModelForQuestionAnswering),
}
#: Ends of the names of buffers that older versions stored among the weights, and of what DeBERTa's pretraining leaves beside an embedding.
_BUFFERS = (".position_ids", ".token_type_ids", ".inv_freq", ".attn.bias", ".masked_bias", "_embeddings._weight")
#: First parts of the names of a task head's weights.
_HEADS = ("classifier", "score", "qa_outputs", "logits_proj")
# Errors that transformers raises on a broken checkpoint; their messages name no remedy.
_LOAD_ERRORS = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, ImportError, AssertionError,
    SafetensorError, StrictDataclassError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A loaded model and its tokenizer.

    Attributes
    ----------
    model : PreTrainedModel, EmbeddingModel or Reader
        In eval mode, float32, on the CPU; with its task head if it is fine-tuned, else the bare body, or an embedder.
        A classifier on selected neurons, as prunekit writes it, is a head.
    tokenizer : PreTrainedTokenizerBase
        With a padding token (the end-of-text token, where there was none).
    config : PretrainedConfig
        Config of the model.
    fine_tuned : bool
        Whether the checkpoint has a head for sequence or token classification, or for question answering.
    per_token : bool
        Whether that head reads each token.
    name : str
        Name of the model, as the user entered it; of one that was in memory, its fingerprint (`prunekit.validation.fingerprint`).
    """

    model: PreTrainedModel | EmbeddingModel | Reader
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    fine_tuned: bool
    per_token: bool
    name: str

    @property
    def in_memory(self) -> bool:
        """Whether the model was given as an object, so that there are no files beside its weights."""
        return digest_at(self.name) is not None

    @property
    def stated(self) -> Stated:
        """Description of the head."""
        many_labels = self.fine_tuned and self.config.problem_type == MANY_LABELS
        return Stated(
            self.fine_tuned, self.per_token, answers_by_span(self.model), many_labels, class_names(self.config) if self.fine_tuned else ()
        )

    @property
    def many_labels(self) -> bool:
        """Whether the checkpoint has a head for rows with any number of labels."""
        return self.stated.many_labels

    @property
    def spans(self) -> bool:
        """Whether the head answers questions by the start and the end of an answer."""
        return self.stated.spans

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of the head's outputs; None for a bare body, and for a head that answers questions."""
        return self.stated.labels

    @property
    def kind(self) -> TaskKind | None:
        """Task kind of the head; None for a bare body."""
        return self.stated.kind

    def reads(self, task: Task) -> bool:
        """Return whether the head fits a task: words, texts or questions, and any number of labels or one."""
        kinds = task.kind.traits
        return self.fine_tuned and (self.per_token, self.many_labels, self.spans) == (kinds.per_token, kinds.many, kinds.spans)

    def row_length(self, asked: int | None, *, of: str = "compress", usual: int | None = None) -> int:
        """Return the tokens after which a row is truncated: `asked`, else what an embedder states, else `usual`.

        Raises
        ------
        ParameterError
            If more are asked for than the model has positions.
        """
        stated = self.model.embedding.max_length if isinstance(self.model, EmbeddingModel) else None
        usual = stated or usual or (WINDOW if self.spans else LENGTH)
        return row_length(positions_of(self.config, int(self.tokenizer.pad_token_id or 0)), asked, of=of, usual=usual)


def class_names(config: Any) -> tuple[str, ...]:
    """Return the class names in the order of a head's outputs, from its config."""
    return tuple(str(name) for _, name in sorted((config.id2label or {}).items()))


def load_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    task_labels: Sequence[str] | None = None,
) -> LoadedModel:
    """Load a checkpoint from a directory or from the hub (from its cache alone where HF_HUB_OFFLINE is set).

    A checkpoint whose `config.architectures` names a sequence or token classifier or a head for question answering is loaded with its
    head, every other one without. A pooler that the checkpoint does not hold is left out: random weights are never part of a model.

    Parameters
    ----------
    name_or_path : str or Path
        A directory, or a hub id.
    revision : str, optional
        Branch, tag or commit on the hub.
    trust_remote_code : bool
        Whether code that comes with the checkpoint may run.
    task_labels : sequence of str, optional
        Class names in the order of their ids, written to the config in place of its own.

    Returns
    -------
    LoadedModel

    Raises
    ------
    ModelError
        If the checkpoint is missing, broken or without safetensors, tokenizer or some weights, or if the labels do not fit its head.
    UnsupportedError
        If the family is not supported.
    """
    name = str(name_or_path)
    folder = local_folder(name)
    local = folder is not None
    if folder is not None:
        _check_weights(str(folder), str(folder), {"local_files_only": True})
        check_folder(folder)
        if (folder / PRUNED).is_file():
            raise ModelError(
                f"The model {name!r} was pruned by prunekit to layers that differ in width: prunekit.load reads it, by its plan.json."
            )
    place: dict[str, Any] = {
        "revision": revision or "main",
        "trust_remote_code": trust_remote_code,
        "local_files_only": local or constants.HF_HUB_OFFLINE,
    }
    at = name if folder is None else str(folder)
    with quiet():
        config = _load_config(name, at, place)
        if not local:
            _check_weights(name, at, place)
        head = head_named(config.architectures or ())
        model = _load_weights(name, at, place, config, head)
        if head == TEXTS:
            _state_activation(model.config, _fields_of(name, at, place, PROMPTS) or {})
        tokenizer = _load_tokenizer(name, at, place)
    agree(name, tokenizer, model.config, task_labels, head is not None)
    return LoadedModel(model, tokenizer, model.config, head is not None, head == "ForTokenClassification", name)


def _fields_of(name: str, at: str, place: dict[str, Any], file: str) -> dict[str, Any] | None:
    """Return the object in a JSON file of a checkpoint, from its directory or the hub; None if there is no such file."""
    try:
        quietly = {f"_raise_exceptions_for_{condition}": False for condition in ("missing_entries", "connection_errors", "gated_repo")}
        path = cached_file(at, file, **{key: value for key, value in place.items() if key != "trust_remote_code"}, **quietly)
    except _LOAD_ERRORS as error:
        raise ModelError(f"The {file} of the model {name!r} cannot be read: {reason(error)}.") from None
    return None if path is None else read_config(Path(path), f"The {file} of the model {name!r}")


def _check_weights(name: str, at: str, place: dict[str, Any]) -> None:
    """Refuse a checkpoint whose weights are not only its own safetensors: a pickle, or another model's."""
    index = _fields_of(name, at, place, INDEX)
    files = {} if index is None else index.get("weight_map")
    if not isinstance(files, dict):
        raise ModelError(f"The {INDEX} of the model {name!r} has no weight_map.")
    for file in files.values():
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file:
            raise ModelError(f"The {INDEX} of the model {name!r} names {file!r}; only safetensors beside it are read, never a pickle.")
    if _fields_of(name, at, place, ADAPTER) is not None:
        raise adapter_error(name)


def _load_config(name: str, at: str, place: dict[str, Any]) -> PretrainedConfig:
    check_fields(name, _fields_of(name, at, place, "config.json") or {})
    try:
        # The fields are checked before anything is built from them.
        fields, _ = PretrainedConfig.get_config_dict(at, **place)
        check_config(fields, f"The model {name!r} has a config.json that")
        check_fields(name, fields)
        config: PretrainedConfig = AutoConfig.from_pretrained(at, **place)
    except ModelError:
        raise
    except _LOAD_ERRORS as error:
        raise ModelError(f"The model {name!r} has no configuration that can be read: {reason(error)}.") from None
    check_type(name, config.model_type)
    config = settled(config)
    return config


def _load_weights(name: str, at: str, place: dict[str, Any], config: PretrainedConfig, head: str | None) -> PreTrainedModel:
    auto = AutoModel if head is None else _AUTO_CLASSES[head]
    try:
        model, loading_info = auto.from_pretrained(
            at, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **place
        )
    except _LOAD_ERRORS as error:
        raise ModelError(f"The weights of the model {name!r} cannot be loaded from safetensors: {reason(error)}.") from None
    for mismatched in sorted(loading_info["mismatched_keys"], key=str):
        # transformers 4 names the weight alone.
        key, *shapes = (mismatched,) if isinstance(mismatched, str) else mismatched
        stored = "has another shape"
        if shapes:
            stored = f"is stored with the shape {tuple(shapes[0])}, and the config describes {tuple(shapes[1])}"
        raise ModelError(f"The weights of the model {name!r} do not fit its config.json: {shown(key)} {stored}.")
    _check_unread(name, model, sorted(loading_info["unexpected_keys"]), named=bool(config.architectures))
    missing = sorted(loading_info["missing_keys"])
    if head is None and any(key.startswith("pooler.") for key in missing):
        missing = [key for key in missing if not key.startswith("pooler.")]
        model.pooler = None
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"The model {name!r} is not complete: its safetensors lack {missing[0]}{more}.")
    check_finite(name, model)
    loaded: PreTrainedModel = model.eval()
    return loaded


def _check_unread(name: str, model: PreTrainedModel, keys: Sequence[str], *, named: bool) -> None:
    """Refuse weights of the encoder that would be left out, and those of a head where the config names (`named`) no class.

    A pooler and the heads of pretraining are left out by design, and buffers of older versions are no weights.
    """
    prefix = f"{model.base_model_prefix}."
    parts = {part for part, _ in model.base_model.named_children()} - {"pooler"}
    unread = [key for key in keys if not key.endswith(_BUFFERS) and not key.startswith(f"{prefix}pooler.")]
    unread = [key for key in unread if key.startswith(prefix) or key.partition(".")[0] in parts]
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise ModelError(
            f"The weights of the model {name!r} hold {shown(unread[0], 120)}{more}, which the model that transformers "
            f"{transformers_version} builds from its config.json does not have: without them it would be another model. Mend config.json, "
            "or, if they are not needed, load it in Python and write it with save_pretrained."
        )
    head = [key for key in keys if key.partition(".")[0] in _HEADS]
    if head and not named:
        raise ModelError(
            f"The weights of the model {name!r} hold a head ({shown(head[0])}), and its config.json has no 'architectures' that says how "
            "it is read: write them, such as ['BertForSequenceClassification']."
        )


def check_finite(name: str, model: nn.Module) -> None:
    """Raise ModelError for weights that hold NaN or infinity."""
    non_finite = next((key for key, weight in model.named_parameters() if weight.numel() and not _finite(weight)), None)
    if non_finite is not None:
        raise ModelError(f"The weights of the model {name!r} hold NaN or infinity in {shown(non_finite)}.")


def _state_activation(config: PretrainedConfig, beside: Mapping[str, Any]) -> None:
    """State what sentence-transformers applies to the logits of a cross-encoder in the config, which every version of it reads.

    Newer versions write that into a file beside the config, and take the sigmoid where they find none.
    """
    activation = beside.get("activation_fn")
    if isinstance(activation, str):
        stated = getattr(config, "sentence_transformers", None)
        config.sentence_transformers = {**(stated if isinstance(stated, dict) else {}), "activation_fn": activation}


def _finite(weight: torch.Tensor) -> bool:
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(weight.detach()))


def modules_folder(name: str, revision: str | None = None, *, known: bool = False) -> Path:
    """Return the directory with a checkpoint's sentence-transformers files: its own, or that in the hub's cache.

    With `known`, the pooling is known from elsewhere, and the cache need not tell whether there are such files.

    Raises
    ------
    ModelError
        If a name on the hub cannot be looked up.
    """
    folder = local_folder(name)
    if folder is not None:
        return folder
    offline = constants.HF_HUB_OFFLINE
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES), local_files_only=offline))
        unknown = not known and not (found / MODULES).is_file()
        if unknown and try_to_load_from_cache(name, MODULES, revision=revision) is not _CACHED_NO_EXIST:
            # A cache does not tell a file that the hub lacks from one that was never fetched.
            hf_hub_download(name, MODULES, revision=revision, local_files_only=offline)
        return found
    except LocalEntryNotFoundError as error:
        if known:
            return Path(getattr(error, "snapshot_path", name))
        must = "Load it once with the hub in reach, or give --pooling"
        raise ModelError(f"The cache does not hold how the model {name!r} pools its tokens ({MODULES}). {must}.") from None
    except EntryNotFoundError:
        return found
    except _LOAD_ERRORS as error:
        raise ModelError(f"The sentence-transformers files of the model {name!r} cannot be read: {reason(error)}.") from None


def load_tokenizer(folder: str | Path, *, name: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a directory, without messages of transformers; `agree` or `try_out` checks it.

    Parameters
    ----------
    folder : path
    name : str, optional
        Name of the tokenizer in errors; default: the directory.
    trust_remote_code : bool
        Whether code that comes with it may run.

    Raises
    ------
    ModelError
        If there is none that can be loaded.
    """
    at = str(Path(folder).expanduser())
    with quiet():
        return _load_tokenizer(name or at, at, {"trust_remote_code": trust_remote_code, "local_files_only": True})


def _load_tokenizer(name: str, at: str, place: dict[str, Any]) -> PreTrainedTokenizerBase:
    if not place["trust_remote_code"]:
        for file in (TOKENIZER, "config.json"):
            check_tokenizer_class(name, (_fields_of(name, at, place, file) or {}).get("tokenizer_class"))
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(at, **place)
    except Exception as error:
        # The tokenizers library raises Exception itself for a file that it cannot read; its subclasses keep their meaning.
        if type(error) is not Exception and not isinstance(error, _LOAD_ERRORS):
            raise
        raise ModelError(f"The model {name!r} has no tokenizer that can be loaded: {reason(error)}.") from None
    longest: object = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1:
        raise ModelError(f"The model {name!r} has a tokenizer whose model_max_length is no number above 0, but {str(longest)[:60]!r}.")
    if len(tokenizer) > VOCABULARY:
        raise ModelError(f"The model {name!r} has a tokenizer of {len(tokenizer):,} tokens; {VOCABULARY:,} are the most.")
    return tokenizer


def agree(name: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, labels: Sequence[str] | None, fine_tuned: bool) -> None:
    """Make tokenizer, config and labels consistent, or refuse them; the tokenizer is tried out."""
    try_out(name, tokenizer, config)
    ids = tokenizer.get_vocab().values()
    if min(ids, default=0) < 0:
        raise ModelError(f"The tokenizer of {name!r} has an id below 0.")
    highest = max(ids, default=-1)
    if highest >= config.vocab_size:
        raise ModelError(
            f"The tokenizer of {name!r} has ids up to {highest}, the model embeds {config.vocab_size}: they do not belong together."
        )
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id  # a decoder's classifier locates the last token by it
    if labels is None:
        return
    if fine_tuned and len(labels) != config.num_labels:
        raise ModelError(f"The model {name!r} has {config.num_labels} outputs, {len(labels)} labels were given.")
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and reports of transformers, and restore both afterwards."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers does not annotate it
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # transformers does not annotate it
