from __future__ import annotations

import pytest

from prunekit.validation.fingerprint import digest_at, place_of


def test_a_fingerprint_is_read_as_it_was_written() -> None:
    assert place_of("0a" * 32) == "memory:" + "0a" * 32  # as recipes that are written hold it
    assert digest_at(place_of("0a" * 32)) == "0a" * 32


@pytest.mark.parametrize("place", [None, "", "bert-base-uncased", "./memory:model", "Memory:"])
def test_what_has_a_name_was_not_in_memory(place: str | None) -> None:
    assert digest_at(place) is None
