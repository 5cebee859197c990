"""Every family x head x shape of model through the export, with fused operators: route, fused nodes, parity; refusals with their reason.

    PYTHONPATH=. python benchmarks/export_table.py benchmarks/results/export_table.md

Models are tiny and random. "uneven": other heads and FFN neurons in every block, one block without attention and one without FFN
where the family can express it; "dropped": the first block is gone.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

from prunekit.arch.embedding import Embedding, EmbeddingModel
from prunekit.arch.view import ModelView
from prunekit.errors import PrunekitError
from prunekit.exporters.onnx import export_onnx, sample_space
from prunekit.exporters.parity import check_parity
from prunekit.exporters.routes import export_by_route, routes_of
from prunekit.exporters.source import OUTPUTS, head_of
from prunekit.plan import Plan
from prunekit.runtime.records import environment
from prunekit.transforms.apply import apply
from tests.models import build

#: Of the cases of the tests, one for each family.
FAMILIES = (
    "bert",
    "roberta",
    "electra",
    "mpnet",
    "distilbert",
    "albert",
    "xlnet",
    "deberta",
    "deberta-v2",
    "modernbert",
    "gpt2",
    "llama",
    "qwen3",
)
HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
SHAPES = ("dense", "uneven", "dropped")


def head_name(case: str, head: str) -> str:
    """XLNet's plain question answering has a name of its own."""
    return f"{head}Simple" if case == "xlnet" and head == "ForQuestionAnswering" else head


def pruned(model: Any, shape: str) -> Any:
    """A model as `shape` says; the plan is the same in every family, so a family that cannot express it refuses it."""
    if shape == "dense":
        return model
    view = ModelView.of(model)
    source = view.source
    if shape == "dropped":
        return apply(model, Plan(source=source, layers=tuple(range(1, source.layers))))
    # Heads 4, 2, 1 and none; FFN neurons 20, 10, none and 3 (half as many heads where keys are shared in groups).
    heads = {layer: tuple(range(max(source.heads >> layer, 1 if layer < 3 else 0))) for layer in range(1, source.layers)}
    return apply(model, Plan(source=source, heads=heads, ffn={1: tuple(range(source.ffn // 2)), 2: (), 3: (0, 4, 9)}))


def row(case: str, head: str, shape: str, folder: Path) -> tuple[str, ...]:
    """One cell: what the export did, or why it refused."""
    try:
        model = pruned(build(case, head_name(case, head)), shape)
        view, kind = ModelView.of(model), head_of(model)
        if kind == "feature-extraction":
            model = EmbeddingModel(model, Embedding()).eval()
        space = sample_space(view.config, pad_id=1)
        file, shown = folder / "model.onnx", {"inputs": view.inputs, "space": space}
        done = export_by_route(
            lambda route, level: export_onnx(model, file, outputs=OUTPUTS[kind], level=level, route=route, **shown),
            lambda path: check_parity(path, model, **shown),
            file,
            routes=routes_of(view.spec),
            level="O1",
        )
    except AttributeError as error:
        if "has no attribute" not in str(error) or not str(error).startswith("module transformers"):
            raise
        return case, head, shape, "-", "-", "no such head in transformers"
    except PrunekitError as error:
        return case, head, shape, "-", "-", f"refused: {' '.join(str(error).split())}"
    largest = max(each.largest for each in done.parity.shapes)
    route = f"{done.file.route} {done.level}"
    note = f"after {len(done.failed)} failed: {done.failed[0]}" if done.failed else ""
    return case, head, shape, route, f"{done.parity.max_abs_difference:.1e} of {largest:.1f}", note


def rows(families: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The whole table, row by row."""
    for case in families:
        for head in HEADS:
            for shape in SHAPES:
                with tempfile.TemporaryDirectory() as folder:
                    found = row(case, head, shape, Path(folder))
                print(*found, sep=" | ", flush=True)
                yield found


def main(out: str, *families: str) -> None:
    """Write the table as Markdown."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    table = list(rows(families or FAMILIES))
    packages = environment().packages
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "onnx", "onnxruntime"))
    titles = ("family", "head", "model", "route", "largest difference, of the largest output", "note")
    lines = [" | ".join(cells) for cells in (titles, ("---",) * len(titles), *table)]
    passed, refused = sum(cells[3] != "-" for cells in table), sum(cells[3] == "-" for cells in table)
    Path(out).write_text(
        "# Export, every family and head\n\n"
        f"Made by `python benchmarks/export_table.py` with {versions}. {passed} pass, {refused} are refused "
        "with the reason. Parity is checked at six shapes, with padding, one token and the longest row among them; 1e-4 is allowed.\n\n"
        + "".join(f"| {line} |\n" for line in lines),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
