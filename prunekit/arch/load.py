"""A checkpoint becomes a model in memory, or one line that says why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
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
from transformers.utils import logging
from transformers.utils.hub import cached_file

from prunekit.arch.config import (
    LENGTH,
    WINDOW,
    check_config,
    check_type,
    positions_of,
    read_config,
    row_length,
)
from prunekit.arch.embedding import EmbeddingModel
from prunekit.arch.folder import INDEX, PRUNED, TOKENIZER, check_folder, local_folder
from prunekit.arch.known import check_fields, check_tokenizer_class, settled
from prunekit.arch.stated import MANY_LABELS, QUESTIONS, TEXTS, TOKENS, Stated, head_named
from prunekit.arch.tried import try_out
from prunekit.arch.view import Reader, answers_by_span
from prunekit.errors import ModelError
from prunekit.tasks import Task, TaskKind
from prunekit.validation.escape import terminal
from prunekit.validation.limits import VOCABULARY
from prunekit.validation.reading import shown

_HEADS = {
    TEXTS: AutoModelForSequenceClassification,
    TOKENS: AutoModelForTokenClassification,
    **dict.fromkeys(QUESTIONS, AutoModelForQuestionAnswering),
}
#: Of a model that is loaded as another one and changed; the other one may be anywhere.
_ADAPTER = "adapter_config.json"
# What transformers raises on a checkpoint that is not as it should be; nothing of it says what to do.
_BROKEN = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, ImportError, AssertionError,
    SafetensorError, StrictDataclassError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to be looked at.

    Attributes
    ----------
    model : PreTrainedModel, EmbeddingModel or Reader
        In eval mode, float32, on the CPU; with its task head if it is fine-tuned, the bare body otherwise, or that as an embedder.
        A classifier on chosen neurons, which prunekit wrote, is a head.
    tokenizer : PreTrainedTokenizerBase
        With a padding token (the end-of-text token, where there was none).
    config : PretrainedConfig
        The model's own.
    fine_tuned : bool
        Whether the checkpoint has a head for sequence or token classification, or for question answering.
    per_token : bool
        Whether that head reads each token.
    name : str
        As given.
    """

    model: PreTrainedModel | EmbeddingModel | Reader
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    fine_tuned: bool
    per_token: bool
    name: str

    @property
    def stated(self) -> Stated:
        """What there is of a head."""
        many = self.fine_tuned and self.config.problem_type == MANY_LABELS
        return Stated(
            self.fine_tuned, self.per_token, answers_by_span(self.model), many, class_names(self.config) if self.fine_tuned else ()
        )

    @property
    def many_labels(self) -> bool:
        """Whether the checkpoint has a head for rows with any number of labels."""
        return self.stated.many_labels

    @property
    def spans(self) -> bool:
        """Whether the head answers questions by the places where an answer starts and ends."""
        return self.stated.spans

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of the head's outputs; None for a bare body, and for a head that answers questions."""
        return self.stated.labels

    @property
    def kind(self) -> TaskKind | None:
        """What the head is for; None for a bare body."""
        return self.stated.kind

    def reads(self, task: Task) -> bool:
        """Whether the head is for a task: for words, texts or questions, and for any number of labels or one."""
        kinds = task.kind.traits
        return self.fine_tuned and (self.per_token, self.many_labels, self.spans) == (kinds.per_token, kinds.many, kinds.spans)

    def row_length(self, asked: int | None, *, of: str = "compress", usual: int | None = None) -> int:
        """Tokens after which a row is cut, `usual` unless they are asked for or an embedder states them.

        Raises
        ------
        ParameterError
            More than the model has positions.
        """
        stated = self.model.embedding.max_length if isinstance(self.model, EmbeddingModel) else None
        usual = stated or usual or (WINDOW if self.spans else LENGTH)
        return row_length(positions_of(self.config, int(self.tokenizer.pad_token_id or 0)), asked, of=of, usual=usual)


def class_names(config: Any) -> tuple[str, ...]:
    """Class names in the order of a head's outputs, as its config has them."""
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
        Class names in the order of their ids, written to the config in place of what it has.

    Returns
    -------
    LoadedModel

    Raises
    ------
    ModelError
        No such checkpoint, a broken one, one without safetensors, tokenizer or some weights, or labels that do not fit its head.
    UnsupportedError
        A family that prunekit does not know.
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
        tokenizer = _load_tokenizer(name, at, place)
    agree(name, tokenizer, model.config, task_labels, head is not None)
    return LoadedModel(model, tokenizer, model.config, head is not None, head == "ForTokenClassification", name)


def _fields_of(name: str, at: str, place: dict[str, Any], file: str) -> dict[str, Any] | None:
    """What a JSON file of a checkpoint holds, from its directory or the hub; None where there is none."""
    try:
        quietly = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")}
        found = cached_file(at, file, **{key: value for key, value in place.items() if key != "trust_remote_code"}, **quietly)
    except _BROKEN as error:
        raise ModelError(f"The {file} of the model {name!r} cannot be read: {_one_line(error)}.") from None
    return None if found is None else read_config(Path(found), f"The {file} of the model {name!r}")


def _check_weights(name: str, at: str, place: dict[str, Any]) -> None:
    """Refuse what would make transformers read other weights than the checkpoint's safetensors: a pickle, or another model."""
    index = _fields_of(name, at, place, INDEX)
    files = {} if index is None else index.get("weight_map")
    if not isinstance(files, dict):
        raise ModelError(f"The {INDEX} of the model {name!r} has no weight_map.")
    for file in files.values():
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file:
            raise ModelError(f"The {INDEX} of the model {name!r} names {file!r}; only safetensors beside it are read, never a pickle.")
    if _fields_of(name, at, place, _ADAPTER) is not None:
        raise ModelError(f"The model {name!r} is an adapter ({_ADAPTER}). Merge it into its base model and save that.")


def _load_config(name: str, at: str, place: dict[str, Any]) -> PretrainedConfig:
    check_fields(name, _fields_of(name, at, place, "config.json") or {})
    try:
        # What is in the file, before anything is built from it.
        fields, _ = PretrainedConfig.get_config_dict(at, **place)
        check_config(fields, f"The model {name!r} has a config.json that")
        check_fields(name, fields)
        config: PretrainedConfig = AutoConfig.from_pretrained(at, **place)
    except ModelError:
        raise
    except _BROKEN as error:
        raise ModelError(f"The model {name!r} has no configuration that can be read: {_one_line(error)}.") from None
    check_type(name, config.model_type)
    found: PretrainedConfig = settled(config)
    return found


def _load_weights(name: str, at: str, place: dict[str, Any], config: PretrainedConfig, head: str | None) -> PreTrainedModel:
    auto = AutoModel if head is None else _HEADS[head]
    try:
        model, found = auto.from_pretrained(at, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **place)
    except _BROKEN as error:
        raise ModelError(f"The weights of the model {name!r} cannot be loaded from safetensors: {_one_line(error)}.") from None
    missing = sorted(found["missing_keys"])
    if head is None and any(key.startswith("pooler.") for key in missing):
        missing = [key for key in missing if not key.startswith("pooler.")]
        model.pooler = None
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"The model {name!r} is not complete: its safetensors lack {missing[0]}{more}.")
    strange = next((key for key, weight in model.named_parameters() if weight.numel() and not _finite(weight)), None)
    if strange is not None:
        raise ModelError(f"The weights of the model {name!r} hold NaN or infinity in {shown(strange)}.")
    loaded: PreTrainedModel = model.eval()
    return loaded


def _finite(weight: torch.Tensor) -> bool:
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(weight.detach()))


def load_tokenizer(folder: str | Path, *, name: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory, without what transformers would say meanwhile; `agree`, or `try_out`, tries it.

    Parameters
    ----------
    folder : path
    name : str, optional
        What the user calls it; default: the directory.
    trust_remote_code : bool
        Whether code that comes with it may run.

    Raises
    ------
    ModelError
        None that can be loaded.
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
        if type(error) is not Exception and not isinstance(error, _BROKEN):
            raise
        raise ModelError(f"The model {name!r} has no tokenizer that can be loaded: {_one_line(error)}.") from None
    longest: object = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1:
        raise ModelError(f"The model {name!r} has a tokenizer whose model_max_length is no number above 0, but {str(longest)[:60]!r}.")
    if len(tokenizer) > VOCABULARY:
        raise ModelError(f"The model {name!r} has a tokenizer of {len(tokenizer):,} tokens; {VOCABULARY:,} are the most.")
    return tokenizer


def agree(name: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, labels: Sequence[str] | None, fine_tuned: bool) -> None:
    """Make tokenizer, config and labels speak of one thing, or refuse; the tokenizer is tried out."""
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
        config.pad_token_id = tokenizer.pad_token_id  # a decoder's classifier finds the last token by it
    if labels is None:
        return
    if fine_tuned and len(labels) != config.num_labels:
        raise ModelError(f"The model {name!r} has {config.num_labels} outputs, {len(labels)} labels were given.")
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}


def _one_line(error: BaseException) -> str:
    text = terminal(" ".join(str(error).split())) or type(error).__name__
    return (text if len(text) <= 200 else text[:197] + "...").rstrip(".")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no reports of transformers; both as they were afterwards."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers does not annotate it
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # transformers does not annotate it
