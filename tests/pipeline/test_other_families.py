"""ALBERT and XLNet from the command line to the deployed file: shared blocks, and attention without linear layers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

import prunekit
from prunekit import cli
from prunekit.arch.view import ModelView
from prunekit.plan import Plan
from prunekit.refit.refit import Damping
from prunekit.runtime.session import OnnxSession
from tests.lines import data, quick, sentences
from tests.models import build

SPECIAL = ["<unk>", "<pad>", "<cls>", "<sep>"]


def tokenizer_of(case: str) -> PreTrainedTokenizerFast:
    """Unigram pieces learned from the sentences; XLNet has its <cls> last."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator((" ".join(words) for words in sentences(200, 0)), trainer)
    single, pair = ("$A <sep> <cls>", "$A <sep> $B <sep> <cls>") if case == "xlnet" else ("<cls> $A <sep>", "<cls> $A <sep> $B:1 <sep>:1")
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[("<cls>", 2), ("<sep>", 3)])
    side = "left" if case == "xlnet" else "right"
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "cls_token": "<cls>", "sep_token": "<sep>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side=side, **names)


FRESH = """
import json, sys, torch, prunekit
from transformers import AutoTokenizer
model = prunekit.load(sys.argv[1])
batch = AutoTokenizer.from_pretrained(sys.argv[1])(json.loads(sys.argv[2]), padding=True, return_tensors="pt", return_token_type_ids=True)
with torch.no_grad():
    print(json.dumps([prunekit.Plan.load(sys.argv[1] + "/plan.json").digest, model(**batch).logits.tolist()]))
"""


@pytest.mark.parametrize("case", ["albert", "xlnet"])
def test_from_the_command_line_to_the_file(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model, tokenizer, out = build(case, "ForSequenceClassification", vocab_size=60, num_labels=2), tokenizer_of(case), tmp_path / "slim"
    assert len(tokenizer) <= 60
    model.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    with quick():
        words = ["compress", str(tmp_path / "dense"), "--data", str(data("text")), "--keep", "60% params", "--recover", "2epochs"]
        code = cli.main([*words, "--out", str(out), "--quiet"])
    assert code == 0, capfd.readouterr().err
    plan, report = Plan.load(out / "plan.json"), json.loads((out / "report.json").read_text())
    assert plan.heads
    assert plan.ffn
    assert report["slim"]["params_layers"] <= 0.6 * report["dense"]["params_layers"]
    assert report["parity"]["max_abs_difference"] <= 1e-4
    said = [note for note in report["notes"] if "refitted" in note]
    assert len(said) == 1
    assert f"damped by {Damping().projection:g}" in said[0]
    assert said[0] in (out / "report.md").read_text()

    texts = [" ".join(words) for words in sentences(9, 5)]
    found = subprocess.run(
        [sys.executable, "-c", FRESH, str(out), json.dumps(texts)], check=True, capture_output=True, cwd=Path(__file__).parents[1]
    )
    digest, logits = json.loads(found.stdout.splitlines()[-1])
    assert digest == plan.digest
    slim = prunekit.load(out)
    batch = dict(AutoTokenizer.from_pretrained(out)(texts, padding=True, return_tensors="pt", return_token_type_ids=True))
    with torch.no_grad():
        expected = slim(**batch).logits
    torch.testing.assert_close(torch.tensor(logits), expected, atol=1e-6, rtol=1e-6)
    session = OnnxSession(out / "onnx" / "model.onnx")
    shipped = session({name: batch[name].numpy() for name in ModelView.of(slim).inputs})["logits"]
    np.testing.assert_allclose(shipped, expected.numpy(), atol=1e-4, rtol=0)
    before = {name: parameter.detach().clone() for name, parameter in slim.named_parameters()}
    optimizer = torch.optim.SGD(slim.parameters(), lr=0.01)
    slim.train()
    slim(**batch, labels=torch.arange(9) % 2).loss.backward()
    optimizer.step()
    assert any(not torch.equal(before[name], parameter) for name, parameter in slim.named_parameters())
    assert not [path.name for path in out.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pickle", ".pth")]
