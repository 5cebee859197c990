from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGE = sorted((HERE.parent / "prunekit").rglob("*.py"))
FILES = sorted(path for path in HERE.rglob("*.py") if path.name not in {"conftest.py", Path(__file__).name})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HERE)))
def test_reasons_to_skip_are_in_conftest(path: Path) -> None:
    found = re.findall(r"pytest\.skip\(|skipif|importorskip|mark\.skip\b|unittest\.skip", path.read_text(encoding="utf-8"))
    assert not found, "add the reason to SKIPS in tests/conftest.py and use @pytest.mark.needs(...)"


# A run that is killed at a moment is killed at a time.
@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name != "kills"], ids=lambda path: str(path.relative_to(HERE)))
def test_nothing_sleeps_or_names_a_machine(path: Path) -> None:
    assert not re.findall(r"\bsleep\(|['\"]/(?:work|root|home|tmp)/", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(HERE.parent)))
def test_what_the_type_checker_is_told_to_ignore_has_a_reason(path: Path) -> None:
    assert not re.findall(r"#\s*type:\s*ignore(?!\[[a-z, -]+\]  # \S)", path.read_text(encoding="utf-8"))
