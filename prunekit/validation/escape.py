"""Text from outside - labels, names, columns, messages - made harmless for where it goes."""

from __future__ import annotations

import json
import re
import unicodedata

#: The longest line that is said of a mistake.
LINE = 600
# Joiners that scripts and emoji are written with; all other format characters can reorder or hide what a person reads.
_JOINERS = "\u200c\u200d"
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_MARKS = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])|^[#+\-=](?=\s|$)|^\d+[.)](?=\s|$)")
_TAGS = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def terminal(text: str) -> str:
    """Control and bidirectional characters as Python would write them, so that a terminal shows them and does not obey."""
    return "".join(_escaped(char) if unicodedata.category(char) in _UNSEEN and char not in _JOINERS else char for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str, most: int = LINE) -> str:
    """One line for a terminal, cut in the middle where it is too long: the cure stands at the end."""
    said = terminal(" ".join(text.split()))
    half = (most - 5) // 2
    return said if len(said) <= most else f"{said[:half]} ... {said[-half:]}"


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no HTML, no link."""
    plain = terminal(" ".join(text.split()))
    marked = _MARKS.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", plain)
    return "".join(_TAGS.get(char, char) for char in marked)


def code(text: str) -> str:
    """Text as a code span of Markdown, whatever backticks it holds."""
    plain = terminal(" ".join(text.split()))
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    gap = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{ticks}{gap}{plain}{gap}{ticks}"


def python_text(text: str) -> str:
    """A string of Python that a reader sees as it is run."""
    return terminal(json.dumps(text, ensure_ascii=False))
