"""Declaration of an option: its help text, and the commands that have it.

The options themselves are the fields of `prunekit.recipe.options.Options`; this module imports nothing heavy, to keep ``--help`` fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: The headings of ``--help``, in their order.
Group = Literal["What to keep", "Data", "Training", "Output", "Measuring", "Other options"]

#: How the command line parses an option: text, text that may be repeated, a whole number, a number, or a flag without a value.
Kind = Literal["text", "texts", "whole", "number", "flag"]

#: The commands that have an option: those that select units, write a directory, do either, read a task's data, or read rows at all.
CHOOSING = ("compress", "plan")
WRITING = ("compress", "apply")
MAKING = ("compress", "plan", "apply")
READING = (*MAKING, "analyze", "collect")
ROWS = (*READING, "export")
COLUMNS = (*ROWS, "bench")


@dataclass(frozen=True)
class Option:
    """Metadata of one field of a Recipe: an option.

    Attributes
    ----------
    help : str
        One sentence, with the default in brackets where help does not see it otherwise.
    group : str
        Heading of ``--help`` that lists it.
    metavar : str
        Placeholder of its value.
    commands : tuple of str
        The commands that have it.
    more : str
        Additional text for the reference.
    positional : bool
        Whether it is an argument without a name.
    typed : bool
        Whether the command line has it, rather than recipes and Python alone.
    name : str
        The Recipe's field.
    kind : str
        How the command line parses it.
    choices : tuple of str
        All values it may have, where they can be listed; for completion in shells.
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
        """The option as typed on the command line."""
        return self.name if self.positional else f"--{self.name.replace('_', '-')}"
