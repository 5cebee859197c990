"""The config of a slim model that no stock class of transformers can hold, as transformers reads it.

A directory of such a model has two configs. `config.json` names the family of the model, for readers of the ONNX file beside it. It
points transformers to `config.4.0.0.json`, where the type is "prunekit": a loader that has imported prunekit builds the slim model, and
one that has not refuses the unknown type. The family's own class would initialise the removed weights at random.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

MODEL_TYPE = "prunekit"
#: File that transformers reads from version 4.0.0 on.
SLIM_CONFIG = "config.4.0.0.json"
#: Key of a config that names the files for later versions.
POINTER = "configuration_files"


class SlimConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """Content of `config.4.0.0.json`: the fields of the slim model's own config."""

    model_type = MODEL_TYPE


def slim_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `config.4.0.0.json` from those of config.json."""
    return {**fields, "model_type": MODEL_TYPE, "slim_type": fields["model_type"]}


def register() -> None:
    """Register the type with AutoConfig."""
    AutoConfig.register(MODEL_TYPE, SlimConfig, exist_ok=True)
