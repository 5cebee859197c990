"""Words in scripts whose letters carry marks, and in those that put no space between them."""

from __future__ import annotations

import re

import pytest

from prunekit.data.duplicates import normalised
from prunekit.data.words import terms_of, words_of


@pytest.mark.parametrize(
    ("one", "other"), [("राम की किताब", "राम का किताब"), ("இது நல்ல", "இதி நல்ல"), ("שָׁלוֹם", "שִׁלוּם"), ("cafe\u0301", "cafe")]
)
def test_texts_that_differ_in_their_marks_are_not_the_same(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)
    assert words_of(one) == one.split()


def test_what_is_no_part_of_a_word_does_not_count() -> None:
    assert normalised("Good \u2764\ufe0f, really!") == normalised("good really")
    assert normalised("\u2764\ufe0f") == "\u2764\ufe0f"


def test_words_with_spaces_are_terms_as_they_are() -> None:
    text = "It's 3.5 times as_fast \u2013 na\u00efve!"
    assert terms_of(text) == re.findall(r"\w+", text.lower())


@pytest.mark.parametrize(("one", "other"), [("这部电影很好", "电影真好"), ("とても良い映画", "映画は良い"), ("หนังดีมาก", "หนังแย่")])
def test_sentences_without_spaces_share_terms(one: str, other: str) -> None:
    shared = {*terms_of(one)} & {*terms_of(other)}
    assert any(len(term) == 2 for term in shared)


def test_scripts_are_told_apart_within_a_run() -> None:
    assert terms_of("iPhone很好2台") == ["iphone", "很", "好", "很好", "2", "台"]
