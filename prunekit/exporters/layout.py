"""The model card of an artefact: how to load it in each runtime, and what was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markupsafe import Markup

from prunekit.tasks import TaskKind
from prunekit.validation.templates import render
from prunekit.validation.yaml_text import front_matter

CARD = "README.md"
ONNX = "onnx/model.onnx"
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_PURPOSES = {
    ONNX: "the model, float32",
    "onnx/model.onnx_data": "its weights, which must stay beside it",
    "onnx/model_quantized.onnx": "the model, int8",
    "onnx/model_fp16.onnx": "the model, float16",
    "model.safetensors": "weights for PyTorch, which transformers and prunekit load",
    "pruned.safetensors": "weights for PyTorch, which transformers loads after `import prunekit`",
    "config.json": "the model's config, with the class names",
    "config.4.0.0.json": "the same for transformers, which needs prunekit for the weights",
    "onnx/config.json": "the same for loaders of the ONNX file",
    "tokenizer.json": "the tokenizer",
    "modules.json": "how sentence-transformers puts the embedder together",
    "1_Pooling/config.json": "its pooling",
    "2_Dense/config.json": "its output projection",
    "2_Dense/model.safetensors": "the projection's weights",
    "sentence_bert_config.json": "its longest text, in tokens",
    "config_sentence_transformers.json": "its prompts",
    "probe.safetensors": "a few rows and what each ONNX file answers on them, for `prunekit show --verify`",
    "plan.json": "what was kept of the model, in its own numbering",
    "recipe.yaml": "every choice that was made; running it again gives the same plan",
    "report.json": "everything that was measured, with raw times",
    "report.md": "the same, to be read",
    "report.html": "the same, with figures",
}


@dataclass(frozen=True)
class Card:
    """Content of the model card that is not read from the directory.

    Attributes
    ----------
    name : str
        Name of the directory.
    base : str
        The model it was made from, as the user named it.
    kind : TaskKind
    labels : tuple of str
        Class names in the order of the outputs; empty for a regression.
    inputs, outputs : tuple of str
        Of the ONNX file.
    pad_id, pad_token, pad_type_id, padding_side
        Of the tokenizer.
    max_length : int
        Tokens after which a text was cut.
    typed : bool
        Whether the tokenizer gives token types; else they are 0.
    pair : bool
        Whether the task compares two texts.
    thresholds : tuple of float
        Probabilities from which on a label is assigned, in the order of the labels; empty where labels exclude each other.
    normalized : bool
        Whether an embedder's vectors have length 1.
    prompt : str
        Text that an embedder's texts were measured behind.
    plan_digest : str
    results : str
        Measurements in Markdown, with units.
    """

    name: str
    base: str
    kind: TaskKind
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pad_id: int
    pad_token: str
    max_length: int
    plan_digest: str
    results: str
    pad_type_id: int = 0
    padding_side: Literal["right", "left"] = "right"
    typed: bool = True
    pair: bool = False
    thresholds: tuple[float, ...] = ()
    normalized: bool = True
    prompt: str = ""


def short_name(name: str) -> str:
    """Return the last part of a path, or a hub name unchanged."""
    return Path(name).name if Path(name).expanduser().exists() else name


def write_card(folder: Path, card: Card) -> Path:
    """Write README.md, with the ways to load that the files in the folder allow.

    Parameters
    ----------
    folder : Path
        Directory of the artefact, complete but for the card.
    card : Card

    Returns
    -------
    Path
        The card.
    """
    path = folder / CARD
    path.write_text(card_text(card, {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}), encoding="utf-8")
    return path


def card_text(card: Card, files: set[str]) -> str:
    """Return the card's Markdown, for a directory that holds `files` (relative paths)."""
    return render(
        "exporters/card.md.jinja",
        card=card,
        files=files,
        front_matter=Markup(_front_matter(card)),
        base=Path(card.base).name if card.base.startswith("/") else card.base,
        results=Markup(card.results.strip()),
        traits=card.kind.traits,
        purposes={name: Markup(purpose) for name, purpose in _PURPOSES.items()},
        fast="tokenizer.json" in files,
        ONNX=Markup(ONNX),
    )


def _front_matter(card: Card) -> str:
    fields: dict[str, object] = {"tags": ["prunekit", "onnx", "pruned"], "pipeline_tag": card.kind.traits.pipeline}
    # A local path is no name of a model.
    if HUB_ID.fullmatch(card.base) and not Path(card.base).exists():
        fields["base_model"] = card.base
    return front_matter(fields)
