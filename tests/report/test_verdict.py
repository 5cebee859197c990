from __future__ import annotations

import json
from typing import Any

import pytest

from prunekit.budget import Unit
from prunekit.report import words
from prunekit.report.embedder import Shortened
from prunekit.report.html import to_html
from prunekit.report.model import BudgetResult, DeployedFile, Paired, Report, Row
from prunekit.report.tables import to_markdown
from prunekit.runtime.timing import ratio_between
from tests.report.samples import comparison, report


def paired(random: tuple[float, float, float], bag: tuple[float, float, float] | None = None, ours: Any = "slim") -> tuple[Paired, ...]:
    """The shares of the sample, and differences as they are given."""
    shares = tuple(pair for pair in report().paired if pair.by == "share")
    found = [Paired(name=ours, against="random", by="difference", value=random[0], low=random[1], high=random[2])]
    if bag is not None:
        found.append(Paired(name="slim", against="bag", by="difference", value=bag[0], low=bag[1], high=bag[2]))
    return (*shares, *found)


GOOD = (0.08, 0.06, 0.10)
FAST, SLOW = (comparison(1, 7.3, slim=3.42),), (comparison(1, 7.3, slim=1.0),)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"paired": paired(GOOD, (0.05, 0.03, 0.07)), "latency": FAST}, []),
        ({"paired": paired(GOOD), "latency": FAST}, []),
        ({"paired": paired(GOOD), "latency": ()}, []),
        ({"paired": paired(GOOD), "latency": SLOW}, ["slim is no faster"]),
        # Fast at one batch size is fast.
        ({"paired": paired(GOOD), "latency": (*SLOW, comparison(32, 118.0, slim=2.0))}, []),
        ({"paired": paired((0.01, -0.002, 0.02)), "latency": FAST}, ["as much chosen at random is as good"]),
        ({"paired": paired((0.01, 0.0, 0.02)), "latency": FAST}, ["as much chosen at random is as good"]),
        # A difference that these rows cannot show is no sign that there is none.
        ({"paired": paired((0.016, -0.01, 0.038)), "latency": FAST}, []),
        ({"paired": paired((0.002, 0.001, 0.003)), "latency": FAST}, []),
        ({"paired": paired(GOOD, (0.008, 0.001, 0.02)), "latency": FAST}, ["a bag of words comes within a point"]),
        ({"paired": paired(GOOD, (-0.02, -0.04, 0.0)), "latency": FAST}, ["a bag of words is better"]),
        (
            {"paired": paired((0.0, -0.1, 0.1), (0.0, -0.1, 0.1)), "latency": SLOW},
            ["slim is no faster", "as much chosen at random is as good", "a bag of words comes within a point"],
        ),
    ],
)
def test_it_refuses_for_each_reason_and_for_no_other(changes: dict[str, Any], reasons: list[str]) -> None:
    text = report(**changes).verdict
    expected = f"Do not ship: {'; '.join(reasons)}. Slim: " if reasons else "Slim: "
    assert text.startswith(expected + "99.0% (98.1% – 99.9%) of the accuracy of dense, ")  # noqa: RUF001


def test_a_difference_that_is_not_shown_is_said_to_be_none() -> None:
    shown = ", which is not shown to be worse"
    assert shown in report(paired=paired((0.016, -0.01, 0.038)), latency=FAST).verdict
    assert shown not in report(paired=paired(GOOD), latency=FAST).verdict


def test_it_names_what_was_gained_and_what_it_is_against() -> None:
    text = report(paired=paired(GOOD, (0.05, 0.03, 0.07), ours="untrained"), latency=FAST).verdict
    speed = FAST[0].ratio("slim")
    assert f"{speed.value:.2f}× ({speed.low:.2f}× – {speed.high:.2f}×) as fast at batch 1" in text  # noqa: RUF001
    assert "61.8% of the file's bytes" in text
    assert "+8.0 points (+6.0 points – +10.0 points) against the same budget at random, both not trained" in text  # noqa: RUF001
    assert "+5.0 points (+3.0 points – +7.0 points) against a bag of words" in text  # noqa: RUF001


def test_without_a_head_of_its_own_the_reference_is_named_for_what_it_is() -> None:
    found = report(paired=tuple(pair for pair in report().paired if pair.against != "dense"))
    assert "of the accuracy of a probe on the frozen dense model" in found.verdict
    bare = report(rows=(), paired=())
    assert "its answers were not measured" in bare.verdict


def in_int8(slim: float, slim_int8: float, dense_int8: float) -> Report:
    """The sample with files in int8 of known speed against dense in float32."""
    files = tuple(DeployedFile(path=f"onnx/{dtype}.onnx", dtype=dtype, bytes=size) for dtype, size in (("fp32", 56), ("int8", 14)))
    rivals = tuple(DeployedFile(of="dense", dtype=dtype, bytes=size) for dtype, size in (("fp32", 90), ("int8", 20)))
    latency = (comparison(1, 7.3, spread=0.01, **{"slim": slim, "slim int8": slim_int8, "dense int8": dense_int8}),)
    pair = Paired(name="slim-low", against="dense-low", by="difference", value=-0.011, low=-0.02, high=-0.002)
    return report(files=files, rivals=rivals, latency=latency, paired=(*paired(GOOD), pair))


@pytest.mark.parametrize(
    ("speeds", "refused"), [((3.4, 8.0, 2.0), False), ((3.4, 8.0, 8.0), True), ((3.4, 1.5, 2.0), False), ((1.4, 2.05, 2.0), True)]
)
def test_a_dense_model_in_int8_that_is_as_fast_is_a_reason(speeds: tuple[float, float, float], refused: bool) -> None:
    found = in_int8(*speeds)
    assert found.verdict.startswith("Do not ship: dense in int8 is as fast. Slim: " if refused else "Slim: ")
    ratio = ratio_between(found.latency[0], "slim int8", "dense int8")
    assert ratio.value == pytest.approx(speeds[1] / speeds[2], rel=0.03)
    said = f"-1.1 points (-2.0 points – -0.2 points), {ratio.value:.2f}× ({ratio.low:.2f}× – {ratio.high:.2f}×) as fast at batch 1"  # noqa: RUF001
    assert f"; in int8 against dense in int8: {said}, 70.0% of the file's bytes." in found.verdict


def test_without_times_no_file_is_said_to_be_as_fast() -> None:
    assert in_int8(7.0, 9.0, 2.0).model_copy(update={"latency": ()}).verdict.startswith("Slim: ")


def test_it_comes_first_in_every_format_and_is_not_read_back() -> None:
    found = report(latency=SLOW)
    fields = json.loads(found.to_json())
    assert next(iter(fields)) == "verdict"
    assert fields["verdict"] == found.verdict
    assert Report.from_json(found.to_json()) == found
    assert to_markdown(found).split("\n\n")[1] == f"**{found.verdict}**"
    assert "Do not ship: slim is no faster" in to_html(found).partition('class="tiles"')[0]


def test_the_headline_names_what_was_asked_and_columns_that_say_nothing_are_left_out() -> None:
    text = to_markdown(report())
    assert "asked for at most 10% neurons and at most 60 MB and a loss of at most 1%" in text
    same = tuple(row.model_copy(update={"neurons": 2688}) for row in report().rows)
    bag = Row(name="bag", value=0.8, low=0.78, high=0.82, n=872, neurons=None)
    assert "| model | accuracy, % |" in to_markdown(report(rows=(*same, bag)))
    assert "| bag of words | – | 80.0 |" in to_markdown(report(rows=(*report().rows, bag)))  # noqa: RUF001


def test_a_speed_is_asked_for_at_least() -> None:
    asked = BudgetResult(asked="3x as fast", unit=Unit.LATENCY, limit=1 / 3, reached=0.3)
    assert "asked for at least 3x as fast" in words.headline(report(budgets=(asked,)))


def test_shorter_vectors_are_beside_whole_ones_and_need_not_be_faster() -> None:
    short = [("all", 384, 0.82, 1.0), ("fitted", 64, 0.80, 0.6), ("components", 64, 0.78, 0.64)]
    dimensions = tuple(Shortened(name=name, dims=dims, value=value, overlap=overlap) for name, dims, value, overlap in short)  # type: ignore[arg-type]
    found = report(dimensions=dimensions, latency=(comparison(1, 100.0, slim=1.0),))
    assert "dense with 64 of 384 dimensions has 97.6% of the" in found.verdict
    assert "60.0% of the 10 nearest neighbours of whole vectors" in found.verdict
    assert "no faster" not in found.verdict


def test_a_file_in_int8_that_had_to_fit_and_does_need_not_be_faster() -> None:
    files = (DeployedFile(path="m.onnx", dtype="fp32", bytes=90_000_000), DeployedFile(path="q.onnx", dtype="int8", bytes=18_000_000))
    slow: dict[str, Any] = {"latency": SLOW, "paired": paired((0.0, -0.1, 0.1), (0.1, 0.05, 0.2)), "files": files}
    asked = BudgetResult(asked="20 MB", unit=Unit.BYTES, limit=2e7, reached=1.8e7, dtype="int8")
    fits, misses = (report(**slow, budgets=(asked.model_copy(update={"reached": bytes}),)) for bytes in (1.8e7, 2.1e7))
    assert not fits.verdict.startswith("Do not ship")
    assert "19.8% in int8" in fits.verdict
    assert "as fast at batch 1 in fp32, " in fits.verdict
    assert "of the file's bytes in fp32, 19.8% in int8" in fits.verdict
    assert "in fp32" not in misses.verdict
    assert misses.verdict.startswith("Do not ship: slim is no faster; as much chosen at random is as good. ")
    assert "asked for at most 20 MB in int8" in words.headline(fits)
    dense = DeployedFile(dtype="int8", bytes=19_000_000, of="dense")
    larger = dense.model_copy(update={"bytes": 21_000_000})
    slow["latency"] = ()
    already, needed = (report(**slow, rivals=(rival,), budgets=(asked,)).verdict for rival in (dense, larger))
    assert already.startswith("Do not ship: dense in int8 fits already; as much chosen at random is as good. ")
    assert not needed.startswith("Do not ship")
