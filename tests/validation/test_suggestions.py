from __future__ import annotations

import time

import pytest

from prunekit.recipe.option import Option
from prunekit.recipe.signatures import all_options
from prunekit.validation.reading import ReadError, first_duplicate, parse_json
from prunekit.validation.suggestions import ELSEWHERE, near

NAMES = [*(option.name.replace("_", "-") for option in all_options()), "out", "overwrite", "quiet", "recipe", "verbose"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("kep", "keep"),
        ("lables", "label"),
        ("Max_Length", "max-length"),
        ("speed", "speedup"),
        ("vocab", "vocabulary"),
        ("output-dir", "out"),
        ("num_train_epochs", "recover"),
        ("quantize", "dtype"),
        ("dtpye", "dtype"),
    ],
)
def test_what_was_meant(word: str, meant: str) -> None:
    assert near(word, NAMES) == meant


@pytest.mark.parametrize("word", ["device", "batch-size", "learning-rate", "heads", "query", "dropout", "opset", "warmup", "", "-", "\x00"])
def test_nothing_is_suggested_that_misleads(word: str) -> None:
    assert near(word, NAMES) is None


@pytest.mark.parametrize("option", all_options(), ids=lambda option: option.name)
def test_a_name_that_is_right_is_its_own(option: Option) -> None:
    assert near(option.name, NAMES) == option.name.replace("_", "-")


def test_what_other_tools_say_is_none_of_our_own_names() -> None:
    ours = {name.replace("-", "_") for name in NAMES}
    assert not ours & ELSEWHERE.keys()
    assert set(ELSEWHERE.values()) <= ours | {"device"}


def test_a_long_word_takes_no_time() -> None:
    assert near("k" * 10**6, NAMES) is None


def test_duplicates_are_found_in_one_pass() -> None:
    many = ",".join(f'"{at}":0' for at in range(200_000))
    begin = time.process_time()
    with pytest.raises(ReadError, match="the key '199999' comes twice"):
        parse_json(f'{{{many},"199999":0}}', unique=True)
    # One look at all others for each would take minutes.
    assert time.process_time() - begin < 20
    assert first_duplicate([1, 2, 1, 2]) == 1
    assert first_duplicate("abc") is None
