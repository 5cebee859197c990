from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import DictLoader, UndefinedError
from markupsafe import Markup

from prunekit.validation import templates


@pytest.fixture
def _toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    toys = {f"toy.{kind}.jinja": "{% if shown %}<b>{{ shown }}</b>{% endif %}{{ missing }}" for kind in ("html", "md")}
    monkeypatch.setattr(templates, "PackageLoader", lambda *_: DictLoader(toys))
    templates._environment.cache_clear()
    yield
    templates._environment.cache_clear()


@pytest.mark.usefixtures("_toys")
def test_values_are_escaped_for_the_format_that_is_written() -> None:
    hostile = "<script> [a](b) *c*"
    assert templates.render("toy.html.jinja", shown=hostile, missing="") == "<b>&lt;script&gt; [a](b) *c*</b>"
    assert templates.render("toy.md.jinja", shown=hostile, missing="") == r"<b>&lt;script&gt; \[a\](b) \*c\*</b>"


@pytest.mark.usefixtures("_toys")
@pytest.mark.parametrize("kind", ["html", "md"])
def test_markup_stays(kind: str) -> None:
    assert templates.render(f"toy.{kind}.jinja", shown=Markup("<i>&amp; *</i>"), missing="") == "<b><i>&amp; *</i></b>"


@pytest.mark.usefixtures("_toys")
@pytest.mark.parametrize("kind", ["html", "md"])
def test_a_name_that_was_not_passed_is_an_error(kind: str) -> None:
    with pytest.raises(UndefinedError, match="missing"):
        templates.render(f"toy.{kind}.jinja", shown="")


def test_no_template_turns_escaping_off(root: Path) -> None:
    for path in sorted((root / "prunekit").rglob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        assert "autoescape" not in text
        # Only what the code itself names is written as it is.
        assert set(re.findall(r"\{\{([^{}]*)\| *safe", text)) <= {'"**" ', ' card.outputs | join(", ") '}, path
