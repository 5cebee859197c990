"""What is left of each block, as a figure and as a few characters."""
# ruff: noqa: RUF001  (typographic signs are meant)

from __future__ import annotations

from xml.etree import ElementTree

import pytest

import prunekit
from prunekit.arch.view import ModelView
from prunekit.pipeline.reporting import _blocks
from prunekit.plan import Plan, Source, kept_blocks
from prunekit.report import figures, words
from prunekit.report.html import to_html
from prunekit.report.model import Block
from prunekit.report.tables import to_markdown
from tests.lines import line
from tests.report.samples import report
from tests.report.test_formats import terminal

SOURCE = Source(model_type="bert", layers=4, hidden=48, heads=12, ffn=96, vocabulary=100)
BLOCKS = tuple(Block(heads=heads, all_heads=12, ffn=ffn, all_ffn=96) for heads, ffn in ((12, 96), (6, 1), (0, 0), (1, 48)))


def test_a_plan_s_blocks() -> None:
    plan = Plan(source=SOURCE, layers=(0, 1, 3), heads={1: tuple(range(6)), 3: (5,)}, ffn={1: (0,), 3: tuple(range(48))})
    assert _blocks(plan) == BLOCKS
    assert _blocks(Plan(source=SOURCE)) == ()
    # Numbers of tokens or dimensions are another matter.
    assert _blocks(Plan(source=SOURCE, hidden=(0, 1))) == ()


@pytest.mark.parametrize("case", ["both", "sequence", "uniform"])
def test_they_are_those_of_the_slim_model(case: str) -> None:
    result = line(case)
    assert result.report.blocks
    view = ModelView.of(prunekit.load(result.path))
    kept = [result.report.blocks[block] for block in kept_blocks(result.plan)]
    for number, (block, found) in enumerate(zip(view.blocks, kept, strict=True)):
        widths = [module.out_features for name, module in block.named_modules() if name.endswith("intermediate.dense")]
        assert (widths or [0]) == [found.ffn], number
    gone = set(range(len(result.report.blocks))) - set(kept_blocks(result.plan))
    assert all((result.report.blocks[block].heads, result.report.blocks[block].ffn) == (0, 0) for block in gone)


def test_a_character_a_block() -> None:
    found = report(blocks=BLOCKS)
    assert words.blocks(found).rows == (("heads, of 12", "█▄·▁", "0 – 12"), ("FFN neurons, of 96", "█▁·▄", "0 – 96"))
    assert "█▄·▁" in terminal(found)
    assert "84.1" in terminal(found, encoding="ascii")
    assert "█▄·▁" in to_markdown(found)
    assert words.blocks(report()).rows == ()


def test_the_figure_has_a_bar_for_each_block() -> None:
    root = ElementTree.fromstring(figures.blocks(report(blocks=BLOCKS)))
    bars = [each for each in root.iter() if "bar slim" in each.get("class", "")]
    whole = [each for each in root.iter() if "bar whole" in each.get("class", "")]
    shares = [float(bar.get("width", "")) / float(full.get("width", "")) for bar, full in zip(bars, whole, strict=True)]
    assert shares == pytest.approx([1, 1, 0.5, 1 / 96, 0, 0, 1 / 12, 0.5], abs=0.01)
    assert "What is left of each block" in to_html(report(blocks=BLOCKS))
    assert "What is left of each block" not in to_html(report())
