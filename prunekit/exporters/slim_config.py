"""The config of a slim model that no stock class of transformers can hold, as transformers reads it.

A directory of such a model has two configs. `config.json` names the family that the model is of, for those who read it beside the ONNX
file. It points transformers to `config.4.0.0.json`, where the type is "prunekit": a loader that has imported prunekit builds the slim
model, and one that has not refuses a type that it does not know, since the family's own class would fill what is gone at random.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

MODEL_TYPE = "prunekit"
#: By the name that transformers takes for versions from 4.0.0 on.
SLIM_CONFIG = "config.4.0.0.json"
#: The key by which a config names others for later versions.
POINTER = "configuration_files"


class SlimConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # a hook of transformers without annotations
    """What `config.4.0.0.json` holds: the fields of the slim model's own config."""

    model_type = MODEL_TYPE


def slim_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of `config.4.0.0.json` from those of config.json."""
    return {**fields, "model_type": MODEL_TYPE, "slim_type": fields["model_type"]}


def register() -> None:
    """Make AutoConfig know the type."""
    AutoConfig.register(MODEL_TYPE, SlimConfig, exist_ok=True)
