from __future__ import annotations

import ast
import re
from pathlib import Path

import jaxtyping
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


class Class:
    """A class of the package, as its source declares it."""

    def __init__(self, node: ast.ClassDef) -> None:
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
        self.name, self.methods = node.name, {method.name for method in methods}
        self.bases = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
        self.abstract = any("abstractmethod" in ast.unparse(mark) for method in methods for mark in method.decorator_list)
        self.final = "final" in map(ast.unparse, node.decorator_list)


CLASSES = {
    node.name: Class(node)
    for path in PACKAGE
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
}
DERIVED = [each for each in CLASSES.values() if set(each.bases) & set(CLASSES)]


@pytest.mark.parametrize("own", DERIVED, ids=lambda own: str(own.name))
def test_a_method_of_a_concrete_class_is_not_overridden(own: Class) -> None:
    concrete = [CLASSES[base] for base in own.bases if base in CLASSES and not CLASSES[base].abstract]
    assert not [f"{base.name}.{name}" for base in concrete for name in own.methods & base.methods - {"__init__", "__reduce__"}]


# The classes of slim models are derived from once more, under the names of their families.
@pytest.mark.parametrize("own", [own for own in DERIVED if not own.name.startswith("Slim")], ids=lambda own: str(own.name))
def test_what_fills_in_an_abstract_class_is_final(own: Class) -> None:
    open_ended = own.abstract or any(own.name in other.bases for other in DERIVED)
    assert open_ended or own.final or not any(base in CLASSES and CLASSES[base].abstract for base in own.bases)


#: The packages whose annotations conftest.py has checked at each call.
SHAPED = [path for path in PACKAGE if path.parent.name in {"analyzers", "probes", "refit", "stats"}]


def annotations(tree: ast.Module) -> list[ast.expr]:
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            given = node.args
            found += [each.annotation for each in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if each]
            found.append(node.returns)
        elif isinstance(node, ast.AnnAssign):
            found.append(node.annotation)
    return [each for each in found if each is not None]


def shapeless(annotation: ast.expr, arrays: set[str]) -> bool:
    """Whether an annotation names an array outside of a jaxtyping type, which states its shape."""
    if isinstance(annotation, ast.Subscript) and hasattr(jaxtyping, ast.unparse(annotation.value)):
        # What is no text is no shape, and is not checked.
        return not (isinstance(annotation.slice, ast.Tuple) and isinstance(getattr(annotation.slice.elts[-1], "value", None), str))
    if isinstance(annotation, ast.Name):
        return annotation.id in arrays
    return any(shapeless(child, arrays) for child in ast.iter_child_nodes(annotation) if isinstance(child, ast.expr))


@pytest.mark.parametrize("path", SHAPED, ids=lambda path: str(path.relative_to(HERE.parent)))
def test_arrays_state_their_shapes(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    arrays = {"Tensor", "NDArray"}
    for node in tree.body:
        if isinstance(node, ast.Assign) and shapeless(node.value, arrays):
            arrays |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    assert not [ast.unparse(annotation) for annotation in annotations(tree) if shapeless(annotation, arrays)]
