"""The words of a text, in any script."""

from __future__ import annotations

import re
import unicodedata


def _marks() -> str:
    """Return the marks that letters carry, as ranges of a character class; `re` counts none of them among the letters.

    Vowels of the scripts of India are such, and accents beside their letter. Variation selectors, as emoji have them, are left out.
    """
    found = [code for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M" and not 0xFE00 <= code <= 0xFE0F]
    ranges, begin = list[str](), found[0]
    for code, after in zip(found, [*found[1:], 0], strict=True):
        if after != code + 1:
            ranges.append(f"{chr(begin)}-{chr(code)}")
            begin = after
    return "".join(ranges)


_MARKS = _marks()
#: Scripts that put no space between words: Thai, Lao, Myanmar, Khmer, kana and Chinese characters.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"\w[\w{_MARKS}]*")
_RUN = re.compile(rf"((?:(?=[\w{_MARKS}])[{_UNSPACED}])+)|(?:(?![{_UNSPACED}])\w[{_MARKS}]*)+")


def words_of(text: str) -> list[str]:
    """Return the runs of letters, digits and the marks that belong to them."""
    return _WORD.findall(text)


def terms_of(text: str) -> list[str]:
    """Return the lower-case terms of a text for a bag of words.

    A script that puts no space between words has its characters and their pairs: a whole sentence of it is one run, which no other
    text shares.
    """
    terms = list[str]()
    for match in _RUN.finditer(text.lower()):
        run = match[0]
        terms += [*run, *(run[at : at + 2] for at in range(len(run) - 1))] if match[1] else [run]
    return terms
