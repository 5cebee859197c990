"""What comes from outside is shown, and neither obeyed nor rendered."""

from __future__ import annotations

import ast
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prunekit.cli import base
from prunekit.exporters.layout import Card, card_text
from prunekit.tasks import TaskKind
from prunekit.validation.escape import LINE, code, markdown, one_line, python_text, reason, terminal

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "# heading",
    "[click](javascript:alert(1))",
    "a\n\n# heading\n<b>",
    "a | b",
    "`code`",
    "**bold** _it_ ~~no~~",
    "\x1b]0;owned\x07\x1b[2J",
    "\u202eevil\u2066",
    "```\n<script>",
)


@given(st.text())
def test_a_terminal_is_shown_no_character_that_it_obeys(text: str) -> None:
    shown = terminal(text)
    assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
    turns = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    assert not [char for char in shown if unicodedata.bidirectional(char) in turns]


@given(st.text())
def test_a_mistake_is_one_short_line(text: str) -> None:
    said = one_line(text)
    assert len(said) <= LINE
    assert len(said.splitlines()) <= 1


def test_the_cure_at_the_end_stays() -> None:
    said = one_line("The value is " + "x" * 10_000 + ". Give another one.")
    assert said.startswith("The value is x")
    assert said.endswith("x. Give another one.")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_string_of_python_reads_back(text: str) -> None:
    assert ast.literal_eval(python_text(text)) == text


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


@given(st.text() | st.sampled_from(HOSTILE))
def test_markdown_holds_no_markup(text: str) -> None:
    shown = markdown(text)
    tags = Tags()
    tags.feed(shown)
    assert not tags.found
    assert "\n" not in shown
    # No mark stands without its backslash.
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*\[\]|~]", re.sub(r"\\[^\w\s]", "", shown))
    assert not re.match(r"[#+=-]\s", shown)


@given(st.text(alphabet="`a "))
def test_a_code_span_ends_where_it_should(text: str) -> None:
    span = code(text)
    ticks = re.match("`+", span)
    assert ticks is not None
    assert ticks[0] not in re.findall("`+", span[len(ticks[0]) : -len(ticks[0])])


def card(base: str = "a/b", name: str = "slim", labels: tuple[str, ...] = ("x", "y")) -> Card:
    return Card(name, base, TaskKind.CLASSIFICATION, labels, ("input_ids",), ("logits",), 0, "[PAD]", 8, "0" * 64, "results")


@pytest.mark.parametrize("text", HOSTILE)
def test_the_model_card_shows_labels_and_names_as_they_are(text: str) -> None:
    files = {"onnx/model.onnx", "tokenizer.json", "model.safetensors"}
    plain = card_text(card(), files)
    found = card_text(card(name=text, labels=(text, "y")), files)
    assert [line[:1] for line in found.splitlines()] == [line[:1] for line in plain.splitlines()]
    prose = re.sub(r"```python\n.*?\n```", "", found, flags=re.DOTALL)
    tags = Tags()
    tags.feed(prose)
    assert not tags.found
    assert "](" not in prose.replace("\\]", "").replace("\\[", "")
    assert not set("\x1b\x07\u202e\u2066") & set(found)


@pytest.mark.parametrize("base", ["a/b\nlicense: evil", "a/b: {x: 1}", "/somewhere/a", "./a/b", "models/evil", "x" * 200 + "/b", "a/&b"])
def test_only_a_name_of_the_hub_is_published_as_one(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "evil").mkdir(parents=True)
    _, front, _ = card_text(card(base=base), set()).split("---\n", 2)
    assert yaml.safe_load(front) == {"tags": ["prunekit", "onnx", "pruned"], "pipeline_tag": "text-classification"}
    _, front, _ = card_text(card(), set()).split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "a/b"


def test_the_program_shows_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert base.main(["show", "\x1b[31mred\u202e" + "x" * 3000]) == 2
    said = capsys.readouterr().err
    assert not set("\x1b\u202e") & set(said)
    assert len(said) <= LINE + len("error: \n")


def test_the_reason_of_an_error_is_one_short_line_without_a_period() -> None:
    assert reason(ValueError("no\nsuch  file.")) == "no such file"
    assert reason(KeyError()) == "KeyError"
    assert reason(ValueError("\x1b[2J")) == "\\x1b[2J"
    assert len(reason(ValueError("x y " * 300), 50)) <= 50
