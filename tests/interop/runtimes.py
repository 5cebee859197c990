"""One directory in every runtime: the program of each, and how far its answers are from those of PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunekit.exporters.source import load_source

ROOT = Path(__file__).resolve().parent.parent.parent
# Short, so that tiny models, which spell them, need not cut them.
TEXTS = ("a text", "another text", "third")
PAIRS = tuple(zip(TEXTS, ("its pair", "of the second", "no"), strict=True))

_READ = "import json, sys\nfolder, rows = sys.argv[1], json.loads(sys.argv[2])\n"
_WRITE = "\nprint(json.dumps([[float(value) for value in row] for row in answers]))\n"
_ORT = """
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

session = onnxruntime.InferenceSession(f"{folder}/onnx/model.onnx", providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
tokenizer.enable_padding()
encoded = tokenizer.encode_batch([tuple(row) if isinstance(row, list) else row for row in rows])
fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
inputs = {node.name: np.array([getattr(row, fields[node.name]) for row in encoded], dtype=np.int64) for node in session.get_inputs()}
answers = session.run(["OUTPUT"], inputs)[0]
"""
_OPTIMUM = """
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer

model = ORTModelForSequenceClassification.from_pretrained(folder, subfolder="onnx", file_name="model.onnx")
texts = list(zip(*rows)) if isinstance(rows[0], list) else [rows]
encoded = AutoTokenizer.from_pretrained(folder)(*map(list, texts), padding=True, return_tensors="pt")
answers = model(**encoded).logits.detach().numpy()
"""
_ST = """
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

options = {OPTIONS}
if isinstance(rows[0], list):
    answers = CrossEncoder(folder, device="cpu", **options).predict(rows, activation_fn=torch.nn.Identity())[:, None]
else:
    answers = SentenceTransformer(folder, device="cpu", **options).encode(rows)
"""
_ST_ONNX = '"backend": "onnx", "model_kwargs": {"file_name": "onnx/model.onnx", "provider": "CPUExecutionProvider"}'
_FASTEMBED = """
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from fastembed.rerank.cross_encoder import TextCrossEncoder

place = {"sources": ModelSource(hf="your/slim"), "model_file": "onnx/model.onnx"}
if isinstance(rows[0], list):
    TextCrossEncoder.add_custom_model(model="slim", **place)
    answers = [[score] for score in TextCrossEncoder(model_name="slim", specific_model_path=folder).rerank_pairs(map(tuple, rows))]
else:
    config = json.load(open(f"{folder}/1_Pooling/config.json"))
    pooling = PoolingType.CLS if config.get("pooling_mode") == "cls" or config.get("pooling_mode_cls_token") else PoolingType.MEAN
    TextEmbedding.add_custom_model(model="slim", pooling=pooling, normalization=True, dim=384, **place)
    answers = TextEmbedding(model_name="slim", specific_model_path=folder).embed(rows)
"""
_NODE = """
import { AutoModel, AutoModelForSequenceClassification, AutoTokenizer, env } from "@huggingface/transformers";

const [folder, text] = process.argv.slice(2);
const rows = JSON.parse(text);
env.localModelPath = ".";
env.allowRemoteModels = false;
const auto = "OUTPUT" === "logits" ? AutoModelForSequenceClassification : AutoModel;
const model = await auto.from_pretrained(folder, { dtype: "fp32" });
const tokenizer = await AutoTokenizer.from_pretrained(folder);
const pairs = Array.isArray(rows[0]);
const encoded = tokenizer(pairs ? rows.map((row) => row[0]) : rows, { text_pair: pairs ? rows.map((row) => row[1]) : null, padding: true });
console.log(JSON.stringify((await model(encoded))["OUTPUT"].tolist()));
"""
#: {runtime: (its environment below HOME, None for the one that runs this; its program; the kinds that it reads)}.
RUNTIMES: dict[str, tuple[str | None, str, tuple[str, ...]]] = {
    "onnxruntime": (None, _ORT, ("embedder", "cross-encoder", "classifier")),
    "onnxruntime, the oldest": ("oldest", _ORT, ("embedder", "cross-encoder", "classifier")),
    "optimum": ("optimum", _OPTIMUM, ("cross-encoder", "classifier")),
    "sentence-transformers": (None, "import prunekit\n" + _ST.replace("OPTIONS", ""), ("embedder", "cross-encoder")),
    "sentence-transformers, ONNX": ("st", _ST.replace("OPTIONS", _ST_ONNX), ("embedder", "cross-encoder")),
    "fastembed": ("fastembed", _FASTEMBED, ("embedder", "cross-encoder")),
    "transformers.js": ("tjs", _NODE, ("embedder", "cross-encoder", "classifier")),
}


def kind_of(folder: Path) -> str:
    """Return what a directory holds: an embedder, a cross-encoder (one output) or a classifier."""
    if (folder / "modules.json").is_file():
        return "embedder"
    return "cross-encoder" if len(json.loads((folder / "config.json").read_text())["id2label"]) == 1 else "classifier"


def difference(runtime: str, folder: Path, home: Path) -> float:
    """Return the largest difference of a runtime's answers from PyTorch's, as a share of the largest answer where that is above 1."""
    environment, program, _ = RUNTIMES[runtime]
    output = "sentence_embedding" if kind_of(folder) == "embedder" else "logits"
    rows = PAIRS if kind_of(folder) == "cross-encoder" else TEXTS
    program = program.replace("OUTPUT", output)
    if environment == "tjs":
        (folder.parent / "answers.mjs").write_text(program, encoding="utf-8")
        if not (folder.parent / "node_modules").exists():
            (folder.parent / "node_modules").symlink_to(home / "tjs" / "node_modules")
        command = ["node", "answers.mjs"]
    else:
        python = sys.executable if environment is None else str(home / environment / "bin" / "python")
        command = [python, "-c", _READ + program + _WRITE]
    answers = np.array(
        run([*command, folder.name, json.dumps(rows)], folder.parent, {"PYTHONPATH": str(ROOT)} if environment is None else {})
    )
    wanted = _of_torch(folder, rows, output)
    return float(np.abs(answers - wanted).max() / max(1.0, np.abs(wanted).max()))


def run(command: list[str], where: Path, variables: dict[str, str] | None = None) -> Any:
    """Run a program that prints its answer as JSON in its last line."""
    # Nothing of this environment may be found by another's Python.
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    found = {**inherited, **(variables or {})}
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, encoding="utf-8", check=False, env=found)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _of_torch(folder: Path, rows: tuple[Any, ...], output: str) -> NDArray[np.float32]:
    source = load_source(folder)
    texts = [list(part) for part in zip(*rows, strict=True)] if isinstance(rows[0], tuple) else [list(rows)]
    encoded = source.tokenizer(*texts, padding=True, return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        found: Any = source.model(**{name: encoded[name] for name in source.inputs})
    answers: NDArray[np.float32] = getattr(found, output).numpy()
    return answers
