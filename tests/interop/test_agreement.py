"""What each runtime answers, on slim models as they are written, is what PyTorch answers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from prunekit.arch.embedding import Embedding, EmbeddingModel, save_modules
from prunekit.pipeline.compress import compress
from tests.interop.runtimes import ROOT, RUNTIMES, difference
from tests.lines import checkpoint, data, model_of, quick, save

pytestmark = pytest.mark.needs("onnxruntime")
HOME = Path(os.environ.get("PRUNEKIT_INTEROP", ROOT / ".interop"))
#: {kind: its dense model and its data, of `tests.lines`}.
KINDS = {"classifier": ("sequence", "text"), "cross-encoder": ("pairs", "pair"), "embedder": ("base", "topics")}


def as_of_bert(model: Path, place: Path) -> Path:
    """Copy a model whose tokenizer then says of itself what BERT's does: its class, the token types that it gives, and its longest text.

    Without these sentence-transformers and transformers.js feed no token types, and fastembed stops.
    """
    shutil.copytree(model, place)
    config = json.loads((place / "tokenizer_config.json").read_text())
    names = ["input_ids", "token_type_ids", "attention_mask"]
    (place / "tokenizer_config.json").write_text(
        json.dumps(config | {"tokenizer_class": "BertTokenizer", "model_input_names": names, "model_max_length": 64})
    )
    return place


@pytest.fixture(scope="module")
def slims(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Slim models whose stock config describes them, so that runtimes without prunekit read them."""
    home = tmp_path_factory.mktemp("slims")
    embedder = as_of_bert(save(model_of(), home / "as saved"), home / "dense")
    save_modules(EmbeddingModel(model_of(), Embedding(max_length=32)), embedder)
    asked: dict[str, Any] = {"keep": "80% params", "uniform": True, "multiple_of": 8, "recover": "none", "dtype": "fp32"}
    with quick():
        for kind, (model, rows) in KINDS.items():
            task: dict[str, Any] = {"task": "embedding"} if kind == "embedder" else {}
            dense = embedder if task else as_of_bert(checkpoint(model), home / f"dense {kind}")
            compress(dense, data(rows), out=home / kind, **asked, **task)
    return {kind: home / kind for kind in KINDS}


CASES = [
    pytest.param(runtime, kind, marks=pytest.mark.needs(environment or runtime))
    for runtime, (environment, _, kinds) in RUNTIMES.items()
    for kind in kinds
]


@pytest.mark.parametrize(("runtime", "kind"), CASES)
def test_a_runtime_answers_as_pytorch_does(runtime: str, kind: str, slims: dict[str, Path]) -> None:
    found = difference(runtime, slims[kind], HOME)
    print(f"{kind}, {runtime}: {found:.1e}")
    assert found < 1e-5
