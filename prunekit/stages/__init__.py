"""The stages of the line, each a function of named values."""

from __future__ import annotations

from prunekit.stages.bare import Bare, bare_model, deploy_bare
from prunekit.stages.build import build_models
from prunekit.stages.choose import decide, given
from prunekit.stages.inputs import load_inputs
from prunekit.stages.observe import Base, load_base, observe, unmet
from prunekit.stages.ship import deploy, measure
from prunekit.stages.values import Answers, Decided, Files, Inputs, Measured, Models, Neurons

__all__ = [
    "Answers",
    "Bare",
    "Base",
    "Decided",
    "Files",
    "Inputs",
    "Measured",
    "Models",
    "Neurons",
    "bare_model",
    "build_models",
    "decide",
    "deploy",
    "deploy_bare",
    "given",
    "load_base",
    "load_inputs",
    "measure",
    "observe",
    "unmet",
]
