"""Classes of transformers that a checkpoint may name: those of the supported families, and no others.

A config names its classes by strings. Looked up in transformers without a list, they may name anything that the package exports;
a tokenizer class may load other files of the checkpoint, pickles among them, or code.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto as auto

from prunekit.arch import SPECS
from prunekit.arch.config import check_type
from prunekit.errors import ModelError
from prunekit.validation.reading import shown

_TABLES = (
    auto.MODEL_MAPPING_NAMES,
    auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    auto.MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES,
)
#: Classes in none of transformers' tables.
_UNLISTED = {"xlnet": ("XLNetForQuestionAnswering",), "gpt2": ("GPT2DoubleHeadsModel",)}
#: Tokenizers that the supported families are published with; each exists as NameTokenizer, and often as NameTokenizerFast.
_TOKENIZERS = (
    *("Albert", "Bart", "Barthez", "Bert", "BertJapanese", "Bertweet", "BigBird", "Blenderbot", "Camembert", "CodeLlama", "Cohere"),
    *("ConvBert", "Deberta", "DebertaV2", "DistilBert", "Electra", "Funnel", "GPT2", "GPTNeoX", "GPTSw3", "Gemma", "Herbert"),
    *("LayoutLM", "Llama", "MBart", "MPNet", "MobileBert", "Perceiver", "Phobert", "Qwen2", "RemBert"),
    *("RoFormer", "Roberta", "Splinter", "SqueezeBert", "T5", "XLM", "XLMRoberta", "XLNet"),
)
_GENERAL = ("PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizer", "PythonBackend", "SentencePieceBackend")
TOKENIZERS = frozenset((*_GENERAL, *(f"{name}Tokenizer{kind}" for name in _TOKENIZERS for kind in ("", "Fast"))))
ATTENTION = (None, "eager", "sdpa")
#: Fields of a config that control how a model is run, and their values here.
_RUN_FIELDS = {
    "chunk_size_feed_forward": 0,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "torchscript": False,
}


def class_names_of(model_type: str) -> frozenset[str]:
    """Return the class names that the `architectures` of a supported model type may hold."""
    allowed = {*_UNLISTED.get(model_type, ())}
    for table in _TABLES:
        names = table.get(model_type, ())
        allowed.update((names,) if isinstance(names, str) else names)
    return frozenset(allowed)


def config_of(fields: dict[str, Any]) -> Any:
    """Return the transformers config with these fields, as config.json holds them.

    Raises
    ------
    UnsupportedError
        If the model type is not supported.
    ModelError
        If the attention implementation comes from outside transformers.
    """
    fields = dict(fields)
    model_type = check_type("to be built", fields.pop("model_type", None))
    architectures = fields.pop("architectures", None)
    check_fields(model_type, fields)
    config: Any = AutoConfig.for_model(model_type, **fields)
    config.architectures = architectures
    return settled(config)


def settled(config: Any) -> Any:
    """Reset, in place, the config fields that control how a model is run, so that outputs have the expected form; return the config."""
    for name, value in _RUN_FIELDS.items():
        if getattr(config, name, value) != value:
            setattr(config, name, value)
    return config


def check_fields(name: str, fields: dict[str, Any]) -> None:
    """Refuse config fields that would replace a method of the class, and an attention implementation that would be fetched.

    transformers sets every field as an attribute, and accepts a repository of compiled code as an attention implementation.
    """
    for field in fields:
        if field.startswith("__") or callable(getattr(PretrainedConfig, field, None)):
            raise ModelError(f"The config of {name!r} has a field {shown(field)!r}, which no config may have. Remove it.")
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        if fields.get(key) not in ATTENTION:
            raise ModelError(
                f"The config of {name!r} asks for the attention {fields[key]!r}; 'eager' and 'sdpa' are allowed. Remove {key!r}."
            )


def model_class(config: Any) -> type[PreTrainedModel]:
    """Return the class that a config's `architectures` names first.

    Raises
    ------
    ModelError
        If it is not a class of the config's own family.
    """
    architectures = config.architectures
    name = architectures[0] if isinstance(architectures, (list, tuple)) and architectures else ""
    if not isinstance(name, str) or config.model_type not in SPECS or name not in class_names_of(config.model_type):
        raise ModelError(
            f"The config's 'architectures' must name a class of transformers for a supported model type. Got {name!r} instead."
        )
    architecture: type[PreTrainedModel] = getattr(transformers, name)
    return architecture


def check_tokenizer_class(name: str, tokenizer_class: object) -> None:
    """Refuse a tokenizer class that is not on the list; raises ModelError."""
    if tokenizer_class is not None and not (isinstance(tokenizer_class, str) and tokenizer_class in TOKENIZERS):
        raise ModelError(
            f"The tokenizer of {name!r} is of the class {tokenizer_class!r}, which prunekit does not know. "
            "Save it as a PreTrainedTokenizerFast, with a tokenizer.json."
        )
