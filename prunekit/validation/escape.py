"""Escaping of external text (labels, names, columns, messages) for the format that it is written to."""

from __future__ import annotations

import json
import re
import unicodedata

#: Characters of the longest error line.
LINE = 600
# Joiners that scripts and emoji are written with; all other format characters can reorder or hide what a person reads.
_JOINERS = "\u200c\u200d"
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_MARKS = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])|^[#+\-=](?=\s|$)|^\d+[.)](?=\s|$)")
_TAGS = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def terminal(text: str) -> str:
    """Escape control and bidirectional characters as Python does, so that a terminal shows them and does not act on them."""
    return "".join(_escaped(char) if unicodedata.category(char) in _INVISIBLE and char not in _JOINERS else char for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """Return text as one line for a terminal, cut in the middle where it is too long: the remedy is at the end."""
    return _shortened(terminal(" ".join(text.split())), LINE)


def _shortened(line: str, most: int) -> str:
    half = (most - 5) // 2
    return line if len(line) <= most else f"{line[:half]} ... {line[-half:]}"


def reason(error: BaseException, most: int = 200) -> str:
    """Return an error's message, or its class where it has none, for a message: one line of at most `most` characters, no period."""
    return _shortened(terminal(" ".join(str(error).split())) or type(error).__name__, most).rstrip(".")


def markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: no markup, no HTML, no link."""
    plain = terminal(" ".join(text.split()))
    marked = _MARKS.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", plain)
    return "".join(_TAGS.get(char, char) for char in marked)


def code(text: str) -> str:
    """Return text as a code span of Markdown, whatever backticks it holds."""
    plain = terminal(" ".join(text.split()))
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    gap = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{ticks}{gap}{plain}{gap}{ticks}"


def python_text(text: str) -> str:
    """Return text as a Python string literal that is shown as it is run."""
    return terminal(json.dumps(text, ensure_ascii=False))
