from __future__ import annotations

import inspect
import pickle
import re

import pytest

from prunekit import errors
from prunekit.errors import ParameterError, PrunekitError

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, PrunekitError)]


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not PrunekitError], ids=lambda cls: cls.__name__)
def test_each_is_also_a_built_in(cls: type[PrunekitError]) -> None:
    builtin = [base for base in cls.__mro__ if base.__module__ == "builtins" and base not in (Exception, BaseException, object)]
    assert builtin
    assert cls.exit_code in (1, 2)


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    rows = re.findall(r"^ *(\|   )?\+-- (\w+) +(\w+)", errors.__doc__ or "", re.MULTILINE)
    assert {name for _, name, _ in rows} == {cls.__name__ for cls in CLASSES} - {"PrunekitError"}
    for _, name, builtin in rows:
        assert builtin in {base.__name__ for base in getattr(errors, name).__mro__}


def test_one_grammar() -> None:
    error = ParameterError("keep", "compress", "a percentage", "ten", "Write '10%'.")
    assert str(error) == "The 'keep' parameter of compress must be a percentage. Got 'ten' instead. Write '10%'."
    assert (
        str(ParameterError("keep", "compress", "a percentage", 3))
        == "The 'keep' parameter of compress must be a percentage. Got 3 instead."
    )


def test_a_value_of_many_long_parts_is_cut() -> None:
    value = {letter * 500: [{letter: letter * 500} for letter in "xyz"] for letter in "abcdef"}
    message = str(ParameterError("keep", "compress", "a percentage", value))
    assert len(message) < 400
    assert message.endswith("... instead.")


def test_a_parameter_error_survives_a_process_boundary() -> None:
    error = ParameterError("keep", "compress", "a percentage", "ten", "Write '10%'.")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.parameter == "keep"
