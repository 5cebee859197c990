"""The model card of an artefact: how to load it in each runtime, and what was lost."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prunekit.tasks import TaskKind
from prunekit.validation.escape import code, front_matter, markdown, python_text

CARD = "README.md"
ONNX = "onnx/model.onnx"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Card:
    """What the model card says that the directory does not show.

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
    pair : bool
        Whether the task compares two texts.
    plan_digest : str
    results : str
        Markdown that reports what was measured, with units.
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
    pair: bool = False


def short_name(name: str) -> str:
    """The last part of a path; a hub name as it is."""
    return Path(name).name if Path(name).expanduser().exists() else name


def write_card(folder: Path, card: Card) -> Path:
    """Write README.md; only the ways to load that the files in the folder allow are shown.

    Parameters
    ----------
    folder : Path
        The artefact, complete but for the card.
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
    """The card's Markdown, for a directory that holds `files` (relative paths)."""
    sections = [
        _front_matter(card),
        f"# {markdown(card.name)}\n\n{_intro(card, files)}",
        f"## What was measured\n\n{card.results.strip()}",
        "## How to load it",
    ]
    sections.append("The examples run beside the directory.")
    if ONNX in files:
        title = "onnxruntime and tokenizers" if "tokenizer.json" in files else "onnxruntime, with the tokenizer of transformers"
        sections.append(_example(title, onnxruntime_example(card, fast="tokenizer.json" in files)))
        sections.append(_example("optimum", _optimum(card), "`pip install optimum-onnx onnxruntime`"))
    if {"model.safetensors", "pruned.safetensors"} & files:
        sections.append(_example("prunekit, as a PyTorch module", _prunekit(card)))
    if "model.safetensors" in files:
        sections.append(_example("transformers", _transformers(card)))
    else:
        sections.append(
            "Plain `from_pretrained` of transformers does not read this model: its layers differ in width, which no stock config describes."
        )
    if "modules.json" in files:
        sections.append(_example("sentence-transformers", _sentence_transformers(card)))
    sections.append(_files(files))
    return "\n\n".join(sections) + "\n"


def _front_matter(card: Card) -> str:
    fields: dict[str, object] = {"tags": ["prunekit", "onnx", "pruned"], "pipeline_tag": card.kind.traits.pipeline}
    # A path on somebody's disk is no name of a model.
    if _HUB_ID.fullmatch(card.base) and not Path(card.base).exists():
        fields["base_model"] = card.base
    return front_matter(fields)


def _intro(card: Card, files: set[str]) -> str:
    labels, title = ", ".join(map(markdown, card.labels)), card.kind.traits.title
    what = f"{title} into {len(card.labels)} classes: {labels}." if card.labels else f"{title}."
    base = Path(card.base).name if card.base.startswith("/") else card.base
    return (
        f"{what} Made by prunekit from {code(base)}: "
        "what the task does not need was removed from the model, "
        f"so every runtime loads it as an ordinary, smaller model. Plan `{card.plan_digest[:12]}`"
        f"{', in `plan.json`' if 'plan.json' in files else ''}."
    )


def _example(title: str, code: str, note: str = "") -> str:
    return f"### {title}\n\n" + (f"{note}\n\n" if note else "") + f"```python\n{code.strip()}\n```"


def _texts(card: Card) -> str:
    if card.kind.traits.per_token:
        return '["Ada", "lives", "in", "London"]'
    return (
        '[("A first text.", "A second text."), ("Another one.", "And its pair.")]'
        if card.pair
        else '["A first text.", "A second one, a little longer."]'
    )


def onnxruntime_example(card: Card, *, fast: bool = True) -> str:
    """Python that runs the ONNX file beside its directory with onnxruntime and tokenizers; `fast`: there is a tokenizer.json."""
    tokens = card.kind.traits.per_token
    lines = ["import numpy as np", "import onnxruntime"]
    lines += ["from tokenizers import Tokenizer" if fast else "from transformers import AutoTokenizer", ""]
    lines += [
        f"folder = {python_text(card.name)}",
        f'session = onnxruntime.InferenceSession(f"{{folder}}/{ONNX}", providers=["CPUExecutionProvider"])',
    ]
    if fast:
        direction = "" if card.padding_side == "right" else f"direction={python_text(card.padding_side)}, "
        kind = f", pad_type_id={card.pad_type_id}" if card.pad_type_id else ""
        lines += [
            'tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")',
            f"tokenizer.enable_truncation(max_length={card.max_length})",
            f"tokenizer.enable_padding({direction}pad_id={card.pad_id}, pad_token={python_text(card.pad_token)}{kind})",
        ]
    else:
        lines.append("tokenizer = AutoTokenizer.from_pretrained(folder)")
    lines += ["", f"{'words' if tokens else 'texts'} = {_texts(card)}"]
    given = "[words]" if tokens else "texts"
    if fast:
        fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        lines += [f"rows = tokenizer.encode_batch({given}{', is_pretokenized=True' if tokens else ''})", "inputs = {"]
        lines += [f'    "{name}": np.array([row.{fields[name]} for row in rows], dtype=np.int64),' for name in card.inputs]
        lines.append("}")
    else:
        words = ", is_split_into_words=True" if tokens else ""
        words += ", return_token_type_ids=True" if "token_type_ids" in card.inputs else ""
        lines.append(f'rows = tokenizer({given}{words}, padding=True, truncation=True, max_length={card.max_length}, return_tensors="np")')
        lines.append(f"inputs = {{name: rows[name].astype(np.int64) for name in {list(card.inputs)!r}}}".replace("'", '"'))
    lines += [
        f"{', '.join(card.outputs)}{',' if len(card.outputs) == 1 else ''} = session.run({json.dumps(list(card.outputs))}, inputs)",
        "",
    ]
    return "\n".join(lines + _reading(card, fast))


def _reading(card: Card, fast: bool) -> list[str]:
    if card.kind.traits.values:
        return ["for text, value in zip(texts, logits[:, 0]):", "    print(text, float(value))"]
    lines = [f"labels = [{', '.join(map(python_text, card.labels))}]"]
    if not card.kind.traits.per_token:
        return [*lines, "for text, scores in zip(texts, logits):", "    print(text, labels[scores.argmax()])"]
    word_ids = "rows[0].word_ids" if fast else "rows.word_ids(0)"
    return [
        *lines,
        f"word_ids = {word_ids}",
        "for index, word in enumerate(words):",
        "    # A word's label is read at its first token.",
        "    print(word, labels[logits[0, word_ids.index(index)].argmax()])",
    ]


def _optimum(card: Card) -> str:
    name = f"ORTModelFor{card.kind.traits.loader}"
    return (
        f"from optimum.onnxruntime import {name}\n\n"
        f'model = {name}.from_pretrained({python_text(card.name)}, subfolder="onnx", file_name="model.onnx")'
    )


def _prunekit(card: Card) -> str:
    return f"import prunekit\n\nmodel = prunekit.load({python_text(card.name)})"


def _transformers(card: Card) -> str:
    name = f"AutoModelFor{card.kind.traits.loader}"
    return f"from transformers import {name}\n\nmodel = {name}.from_pretrained({python_text(card.name)})"


def _sentence_transformers(card: Card) -> str:
    return f'from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer({python_text(card.name)}, backend="onnx")'


_WHAT = {
    ONNX: "the model, float32",
    "onnx/model.onnx_data": "its weights, which must stay beside it",
    "onnx/model_quantized.onnx": "the model, int8",
    "onnx/model_fp16.onnx": "the model, float16",
    "model.safetensors": "weights for PyTorch, which transformers and prunekit load",
    "pruned.safetensors": "weights for PyTorch, which prunekit loads",
    "config.json": "the model's config, with the class names",
    "tokenizer.json": "the tokenizer",
    "probe.safetensors": "a few rows and what each ONNX file answers on them, for `prunekit show --verify`",
    "plan.json": "what was kept of the model, in its own numbering",
    "recipe.yaml": "every choice that was made; running it again gives the same plan",
    "report.json": "everything that was measured, with raw times",
    "report.md": "the same, to be read",
    "report.html": "the same, with figures",
}


def _files(files: set[str]) -> str:
    rows = [f"| `{name}` | {what} |" for name, what in _WHAT.items() if name in files]
    return "\n".join(["## Files", "", "| file | what it is |", "|---|---|", *rows])
