"""What is declared of an option: how help describes it, and which commands have it.

The options themselves are the fields of `prunekit.options.Options`; this module imports nothing heavy, since ``--help`` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: The headings of ``--help``, in their order.
Group = Literal["What to keep", "Data", "Training", "Output", "Measuring", "Other options"]

#: How the command line reads an option: text, text that may be repeated, a whole number, a number, or a flag without a value.
Kind = Literal["text", "texts", "whole", "number", "flag"]

#: The commands that have an option: those that choose, write a directory, do either, read a task's data, or read rows at all.
CHOOSING = ("compress", "plan")
WRITING = ("compress", "apply")
MAKING = ("compress", "plan", "apply")
READING = (*MAKING, "analyze", "collect")
ROWS = (*READING, "export")
COLUMNS = (*ROWS, "bench")


@dataclass(frozen=True)
class Option:
    """One option, as the metadata of a Recipe's field.

    Attributes
    ----------
    help : str
        One sentence, with the default in brackets where help does not see it otherwise.
    group : str
        The heading of ``--help`` under which it stands.
    metavar : str
        What stands for its value.
    commands : tuple of str
        The commands that have it.
    more : str
        What the reference says besides.
    positional : bool
        Whether it is an argument without a name.
    typed : bool
        Whether the command line has it; else recipes and Python alone.
    name : str
        The Recipe's field.
    kind : str
        How the command line reads it.
    choices : tuple of str
        All that it may be, where that can be listed; what a shell completes.
    """

    help: str
    group: Group
    metavar: str = ""
    commands: tuple[str, ...] = MAKING
    more: str = ""
    positional: bool = False
    typed: bool = True
    name: str = ""
    kind: Kind = "text"
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """As it is typed."""
        return self.name if self.positional else f"--{self.name.replace('_', '-')}"
