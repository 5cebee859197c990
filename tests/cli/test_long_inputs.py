"""Rows longer than a model has positions are never given to it, and asking for them is refused by every command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from prunekit import cli
from prunekit.arch.load import load_model
from prunekit.arch.view import ModelView
from prunekit.data.batches import encode
from prunekit.data.rows import Rows
from prunekit.errors import ParameterError
from prunekit.plan import Plan
from prunekit.training.distill import recover
from tests.lines import VOCABULARY, data, save, tokenizer_of
from tests.models import build

#: 40 positions, of which RoBERTa counts from the padding's id (0 here) on.
LONGEST = {"bert": 40, "roberta": 39}


@pytest.fixture(scope="module", params=LONGEST)
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    made = build(request.param, "ForSequenceClassification", vocab_size=len(VOCABULARY), pad_token_id=0, num_labels=2)
    return save(made, tmp_path_factory.mktemp(request.param)), LONGEST[request.param]


@pytest.mark.parametrize("command", ["compress", "plan", "apply", "apply without data", "analyze", "export", "bench"])
def test_every_command_refuses_more_than_there_are_positions(command: str, model: tuple[Path, int], tmp_path: Path, capsys: Any) -> None:
    folder, longest = model
    words = [command.split()[0], str(folder), "--max-length", str(longest + 1)]
    words += [] if command == "apply without data" else ["--data", str(data("text"))]
    if command.startswith("apply"):
        Plan(source=ModelView.of(load_model(folder).model).source).save(tmp_path / "plan.json")
        words += ["--plan", str(tmp_path / "plan.json"), *(["--recover", "none"] if "without" in command else [])]
    words += [] if command in ("plan", "bench") else ["--out", str(tmp_path / "out")]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    must = rf"[^\n]*{longest}, the longest row[^\n]*{longest + 1}[^\n]*"
    assert re.fullmatch(rf"error: The 'max_length' parameter of \w+ must be {must}\n", error), error
    assert not (tmp_path / "out").exists()


def test_the_longest_row_is_as_long_as_the_positions(model: tuple[Path, int]) -> None:
    folder, longest = model
    loaded = load_model(folder)
    assert loaded.row_length(None) == loaded.row_length(longest) == longest
    rows = Rows(labels=torch.zeros(1).numpy(), texts=("banal " * 100,))
    found = encode(rows, loaded.tokenizer, max_length=longest, per_token=False)
    assert (found.truncated, found.lengths.tolist()) == (1, [longest])
    given = {name: torch.from_numpy(array) for name, array in next(found.batches()).inputs.items() if name != "token_type_ids"}
    with torch.no_grad():
        assert torch.isfinite(loaded.model(**given).logits).all()
    more = {name: torch.cat([tensor, tensor[:, :1]], dim=1) for name, tensor in given.items()}
    with torch.no_grad(), pytest.raises((IndexError, RuntimeError)):
        loaded.model(**more)


def test_so_does_recover(model: tuple[Path, int]) -> None:
    folder, longest = model
    dense = load_model(folder).model
    with pytest.raises(ParameterError, match=f"at most {longest}, the longest row"):
        recover(dense, dense, ["banal"] * 40, tokenizer=tokenizer_of(), max_length=longest + 1)
