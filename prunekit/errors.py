"""Every error a user can meet, each of them one line.

::

    PrunekitError                  exit code 2
    +-- ParameterError             ValueError         a parameter outside what is allowed
    +-- DataError                  ValueError         rows, columns, labels, splits
    +-- ModelError                 ValueError         a checkpoint that cannot be used
    |   +-- UnsupportedError       NotImplementedError  a family, or a unit that it cannot express
    +-- PlanError                  ValueError         a plan that does not fit, or is not a plan
    +-- StatisticsError            ValueError         statistics that do not fit, or are degenerate
    +-- ExportError                RuntimeError       a file that could not be made
    |   +-- ParityError            RuntimeError       a file that does not compute what the model computes
    +-- OutputError                OSError            a place that cannot be written
    +-- DependencyError            ImportError        an extra that is not installed
    +-- ProcessError               RuntimeError       processes of one run that have not met, or of which one has ended
    +-- BudgetError                RuntimeError       exit code 1: a constraint that cannot be met

Each derives from the built-in error that a Python user would catch, too.
"""

from __future__ import annotations

import reprlib


class PrunekitError(Exception):
    """Base of all errors that are the user's to mend; the command line prints the message and exits with `exit_code`."""

    exit_code = 2


class ParameterError(PrunekitError, ValueError):
    """A parameter is outside what is allowed.

    The message follows one grammar: "The 'keep' parameter of compress must be a percentage. Got 'ten' instead."
    """

    def __init__(self, parameter: str, of: str, must: str, got: object, hint: str = "") -> None:
        self.parameter, self.of, self.must, self.got, self.hint = parameter, of, must, got, hint
        message = f"The '{parameter}' parameter of {of} must be {must}. Got {_short(got)} instead."
        super().__init__(f"{message} {hint}" if hint else message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.parameter, self.of, self.must, self.got, self.hint)


_REPR = reprlib.Repr()
_REPR.maxstring, _REPR.maxother, _REPR.maxlong, _REPR.maxlevel = 120, 120, 40, 3
_LONGEST = 300


def _short(got: object) -> str:
    """Return the value as Python writes it, of bounded length; what nests is not expanded."""
    try:
        text = _REPR.repr(got)
    except ValueError:  # an integer of more digits than Python writes
        return f"a {type(got).__name__}"
    text = " ".join(text.splitlines())
    # The parts of a mapping are short each, and may be many.
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


class DataError(PrunekitError, ValueError):
    """The data cannot be used as asked: a missing file, column, class or split."""


class ModelError(PrunekitError, ValueError):
    """The checkpoint cannot be used: not there, broken, or not an encoder."""


class UnsupportedError(ModelError, NotImplementedError):
    """The architecture is not known, or cannot express what is asked; the message says what it can."""


class PlanError(PrunekitError, ValueError):
    """The plan is malformed, from the future, or made for another model."""


class StatisticsError(PrunekitError, ValueError):
    """Statistics are missing, degenerate (NaN, too few rows) or made for another model."""


class ExportError(PrunekitError, RuntimeError):
    """The deployed file could not be made."""


class ParityError(ExportError):
    """The deployed file does not compute what the PyTorch model computes."""


class OutputError(PrunekitError, OSError):
    """The output directory cannot be written."""


class DependencyError(PrunekitError, ImportError):
    """An optional dependency is missing; the message holds the install command."""


class ProcessError(PrunekitError, RuntimeError):
    """The processes of one run have not met, or one of them has ended."""


class BudgetError(PrunekitError, RuntimeError):
    """A constraint cannot be met; the message says what was reached and which constraint binds."""

    exit_code = 1
