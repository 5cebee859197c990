from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunekit.report.time_left import Expected, TimeLeft, duration

NAMES = ("read train", "select neurons", "shrink", "recover", "export", "score")


def after_a_tenth(meant: list[float], took: list[float]) -> tuple[float, float]:
    """(seconds that it says are left, seconds that are) where a tenth of the whole run is behind, stages moving evenly."""
    time_left = TimeLeft([Expected(name, seconds) for name, seconds in zip(NAMES, meant, strict=True)])
    tenth, behind = sum(took) / 10, 0.0
    for name, seconds in zip(NAMES, took, strict=True):
        time_left.enter(name)
        if behind + seconds >= tenth:
            elapsed = tenth - behind
            return time_left.seconds(elapsed, elapsed / seconds), sum(took) - tenth
        time_left.leave(seconds)
        behind += seconds
    raise AssertionError


@given(st.lists(st.floats(5, 300), min_size=6, max_size=6), st.floats(0.55, 1.9))
def test_a_machine_that_is_slower_throughout_is_within_a_factor_of_two(meant: list[float], slower: float) -> None:
    said, true = after_a_tenth(meant, [slower * seconds for seconds in meant])
    assert true / 2 <= said <= 2 * true


@given(st.lists(st.floats(20, 300), min_size=6, max_size=6), st.lists(st.floats(0.7, 1.4), min_size=6, max_size=6))
def test_stages_that_are_off_by_two_fifths_each_are_within_a_factor_of_two(meant: list[float], off: list[float]) -> None:
    said, true = after_a_tenth(meant, [factor * seconds for factor, seconds in zip(off, meant, strict=True)])
    assert true / 2.1 <= said <= 2.1 * true


def test_nothing_is_left_at_the_end_and_the_share_is_one() -> None:
    time_left = TimeLeft([Expected("read train", 10.0), Expected("score", 5.0)])
    assert time_left.seconds() == pytest.approx(15.0)
    for name, seconds in (("read train", 12.0), ("score", 4.0)):
        time_left.enter(name)
        time_left.leave(seconds)
    assert time_left.seconds() == 0
    assert time_left.share() == 1
    assert time_left.behind == 16.0


def test_what_is_not_entered_is_dropped_and_what_nobody_expected_is_no_harm() -> None:
    time_left = TimeLeft([Expected("read train", 10.0), Expected("shrink", 50.0), Expected("score", 5.0), Expected("latency", 20.0, True)])
    time_left.enter("check labels")
    assert time_left.seconds() == pytest.approx(85.0)
    time_left.leave(1.0)
    time_left.enter("score")
    assert time_left.seconds() == pytest.approx(25.0)
    time_left.leave(5.0)
    assert time_left.seconds() == pytest.approx(20.0)


def test_a_limit_of_time_stays_where_the_machine_is_slow() -> None:
    time_left = TimeLeft([Expected("shrink", 10.0), Expected("export", 10.0), Expected("recover", 300.0, True)])
    time_left.enter("shrink")
    time_left.leave(40.0)
    assert 300 + 30 <= time_left.seconds() <= 300 + 40


def test_a_stage_of_one_name_is_found_where_it_stands() -> None:
    time_left = TimeLeft([Expected("fit", 1.0), Expected("read train", 2.0), Expected("fit", 4.0)])
    time_left.enter("fit")
    time_left.leave(1.0)
    time_left.enter("fit")
    assert time_left.seconds() == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "1 s"), (3.4, "3 s"), (12, "10 s"), (53, "55 s"), (70, "1 min"), (200, "3 min"), (3600, "1 h"), (4700, "1 h 20 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
