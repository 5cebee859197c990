# ruff: noqa: RUF001  (typographic signs are meant)
from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len
from rich.console import Console

from prunekit.budget import Unit
from prunekit.metrics import Metric
from prunekit.report import figures, words
from prunekit.report.embedder import Nearness
from prunekit.report.html import to_html
from prunekit.report.model import BudgetResult, Point, Report, Row
from prunekit.report.tables import render_terminal, to_markdown
from prunekit.tasks import TaskKind
from tests.report.samples import comparison, report

#: The sample's figures as a reader expects them, computed from the sample by hand.
FIGURES = [
    *("92.2", "91.9", "91.3", "83.4", "80.2"),
    *("89.2 – 93.0", "77.4 – 82.7"),
    *("99.0%", "99.4%", "90.5%", "87.3%", "98.1% – 99.9%", "98.5% – 100.3%"),
    *("+7.9 points", "+5.5 points – +10.2 points"),
    *("2,688", "61", "2.3%"),
    *("22.7 M", "14.0 M", "61.7%"),
    *("10.6 M", "2.14 M", "20.1%"),
    *("278 M", "61.2 M", "22.0%"),
    *("90.9 MB", "56.2 MB", "61.8%"),
    *("≤ 10.0%", "≤ 60.0 MB", "met"),
    "4.2e-06",
    "9f2b6c000000",
]
UNITS = ["accuracy, %", "95% interval", "neurons", "p50 ms", "p99 ms", "rows/s", "mean length 25.3", "batch 32", "1 thread", "n = 872"]


def speeds(found: Report) -> list[str]:
    return [
        text for each in found.latency for text in (words.times(each.ratio("slim").value), words.milliseconds(each.timing("slim").p50_ms))
    ]


def terminal(found: Report, width: int = 80, tty: bool = True, encoding: str = "utf-8") -> str:
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    render_terminal(
        found, Console(file=buffer, width=width, force_terminal=tty, color_system="truecolor" if tty else None, legacy_windows=False)
    )
    buffer.flush()
    assert isinstance(buffer.buffer, io.BytesIO)
    return buffer.buffer.getvalue().decode(encoding)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


class Reader(HTMLParser):
    """A page's text, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.open, self.fetched = "", list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        if tag not in ("meta", "circle", "line", "rect", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("circle", "line", "rect", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "


def page(found: Report) -> str:
    reader = Reader()
    reader.feed(to_html(found))
    assert not reader.open
    assert not reader.fetched
    return reader.text.replace("\u00a0", " ")


@pytest.mark.parametrize("show", [lambda found: plain(terminal(found)), to_markdown, page], ids=["terminal", "markdown", "html"])
def test_every_figure_is_there_with_its_unit(show: object) -> None:
    found = report()
    text = show(found)  # type: ignore[operator]
    missing = [figure for figure in (*FIGURES, *UNITS, *speeds(found)) if figure not in text]
    assert not missing


@pytest.mark.parametrize("show", [to_markdown, page], ids=["markdown", "html"])
def test_notes_stages_and_the_machine_are_there(show: object) -> None:
    found = report()
    text = show(found)  # type: ignore[operator]
    expected = (
        *found.notes,
        *found.stages,
        found.plan_digest,
        "AMD EPYC",
        "AVX512_VNNI",
        "2 of 8 cores",
        "torch 2.13.0",
        "48.7",
        "relative loss of 1%",
    )
    for note in expected:
        assert note in text
    assert f"{found.latency[0].rounds} interleaved rounds" in text


def test_80_columns_are_enough_for_a_terminal() -> None:
    lines = plain(terminal(report())).splitlines()
    assert max(cell_len(line) for line in lines) <= 80
    assert "…" not in "".join(lines)
    assert "\x1b[1m" in terminal(report())


def test_a_pipe_gets_text_alone() -> None:
    text = terminal(report(), tty=False)
    assert "\x1b" not in text
    assert any(line.startswith("oracle, probe on all neurons") for line in text.splitlines())


def test_a_terminal_without_unicode_gets_ascii() -> None:
    text = plain(terminal(report(), encoding="ascii"))
    assert "<= 10.0%" in text
    assert "89.2 - 93.0" in text


def test_names_are_text_and_never_markup() -> None:
    found = report(model="[bold]x[/bold] <b>&|", data="a | b", notes=("<script>alert(1)</script>",))
    assert "[bold]x[/bold] <b>&|" in plain(terminal(found))
    assert "<script>" not in to_html(found)
    assert "<b>&amp;" not in to_html(found)
    assert "[bold]x[/bold] &lt;b&gt;&amp;|" in to_html(found)
    assert "<script>" in page(found)


def test_a_budget_that_is_not_met_is_loud() -> None:
    found = report(budgets=(BudgetResult(asked="40% macs", unit=Unit.MACS, limit=0.4, reached=0.55),))
    for text in (plain(terminal(found)), to_markdown(found), page(found)):
        assert words.NOT_MET in text
        assert "multiply-accumulates" in text
        assert "55.0%" in text
    assert '<td class="bad">' in to_html(found)


def test_without_a_fine_tuned_model_it_is_compared_with_the_oracle() -> None:
    full = report()
    rows, pairs = (row for row in full.rows if row.name != "dense"), (pair for pair in full.paired if pair.against != "dense")
    found = report(rows=tuple(rows), paired=tuple(pairs))
    for shown in (plain(terminal(found)), to_markdown(found), page(found)):
        text = " ".join(shown.split())
        assert "99.4% of oracle" in text
        assert "own head" not in text
        assert "of dense" not in text


def test_an_embedder_has_no_head() -> None:
    assert "dense, own head" in to_markdown(report())
    near = Nearness(name="slim", cosine=0.96, lowest=0.9, overlap=0.88, neighbours=10, n=140)
    found = report(vectors=(near,))
    for shown in (plain(terminal(found)), to_markdown(found), page(found)):
        assert "own head" not in shown
    assert "| dense | " in to_markdown(found)


def test_baselines_are_named_not_trained_where_slim_was() -> None:
    full = report()
    untrained = full.rows[2].model_copy(update={"name": "untrained"})
    pairs = tuple(pair.model_copy(update={"name": "untrained"}) if pair.by == "difference" else pair for pair in full.paired)
    for shown in (
        to_markdown(report(rows=(*full.rows, untrained), paired=pairs)),
        page(report(rows=(*full.rows, untrained), paired=pairs)),
    ):
        assert "slim, not trained, against random choice, not trained" in shown
        assert "largest weights, not trained: share of dense" in shown
    assert "not trained" not in to_markdown(full)


def test_what_was_not_measured_is_left_out() -> None:
    found = report(latency=(), trace=(), budgets=(), stages={}, rows=(report().rows[2],), paired=(), max_drop=None, notes=())
    for text in (plain(terminal(found)), to_markdown(found), page(found)):
        assert "Budgets" not in text
        assert "as fast" not in text
        assert "91.3" in text


def test_neurons_are_counted_where_fewer_are_read() -> None:
    sized = report()
    own = report(slim=sized.slim.model_copy(update={"neurons": sized.dense.neurons}))
    for found, names in ((sized, ["neurons read", "layers"]), (own, ["layers", "parameters"])):
        assert [row[0] for row in words.sizes(found).rows][:2] == names
        assert ("neurons read" in figures.kept(found)) is (found is sized)


@pytest.mark.parametrize(("metric", "shown"), [(Metric.SPEARMAN, "Spearman r"), (Metric.PEARSON, "Pearson r")])
def test_correlations_are_no_percentages(metric: Metric, shown: str) -> None:
    found = report(kind=TaskKind.REGRESSION, metric=metric, classes=0)
    for text in (plain(terminal(found)), to_markdown(found), page(found)):
        assert "0.913" in text
        assert "91.3%" not in text
        assert shown in text


def test_a_negative_metric_can_be_drawn() -> None:
    rows = (
        Row(name="dense", value=-0.1, low=-0.3, high=0.1, n=20, neurons=9),
        Row(name="slim", value=0.0, low=0.0, high=0.0, n=20, neurons=2),
    )
    found = report(
        kind=TaskKind.REGRESSION,
        metric=Metric.PEARSON,
        classes=0,
        rows=rows,
        trace=(Point(neurons=2, value=0.0), Point(neurons=3, value=0.0)),
    )
    assert "-0.100" in page(found)
    assert "nan" not in to_html(found).lower()
    assert "–" in to_markdown(found)


def test_markdown_tables_are_tables() -> None:
    tables = [block.splitlines() for block in to_markdown(report()).split("\n\n") if block.startswith("| ")]
    assert len(tables) == 6
    for lines in tables:
        assert re.fullmatch(r"\|---(\|---:)+\|", lines[1])
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


@pytest.mark.parametrize("draw", [figures.scores, figures.speeds, figures.kept, figures.trace])
def test_figures_are_valid_and_within_their_frame(draw: object) -> None:
    root = ElementTree.fromstring(draw(report()))  # type: ignore[operator]
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert root.attrib["aria-label"]
    for element in root:
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name, 0)) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name, 0)) <= height
        assert "fill" not in element.attrib  # colours are the page's


def test_whiskers_are_to_scale() -> None:
    root = ElementTree.fromstring(figures.speeds(report()))
    dots = [float(element.attrib["cx"]) for element in root if element.tag == "circle"]
    (reference,) = (float(element.attrib["x1"]) for element in root if element.get("class") == "reference")
    values = [each.ratio("slim").value for each in report().latency]
    assert (dots[0] - reference) / (values[0] - 1) == pytest.approx((dots[1] - reference) / (values[1] - 1), rel=0.01)


def test_the_chosen_point_is_marked_once() -> None:
    root = ElementTree.fromstring(figures.trace(report()))
    assert sum(element.get("class") == "chosen" for element in root) == 1
    assert "chosen: 61 neurons, 89.5" in ElementTree.tostring(root, encoding="unicode")
    without = figures.trace(report(trace=tuple(point for point in report().trace if point.neurons != 61)))
    assert "chosen" not in without


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.77, 0.955), (1.0, 4.6), (-0.3, 0.1), (0.91, 0.911), (0, 120)])
def test_ticks_are_round_and_few(low: float, high: float) -> None:
    found = figures.ticks(low, high)
    assert 2 <= len(found) <= 9
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    step = f"{found[1] - found[0]:.6e}"
    assert step[0] in "125"
    assert set(step[1:].partition("e")[0]) <= {".", "0"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0.00"),
        (0.5, "0.50"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (999.6, "1.00 k"),
        (1234, "1.23 k"),
        (22.7e6, "22.7 M"),
        (3e12, "3.00 T"),
    ],
)
def test_amounts_have_three_digits(value: float, shown: str) -> None:
    assert words.amount(value) == shown


def test_bytes_have_their_unit() -> None:
    assert [words.amount(value, "B") for value in (12, 90_900_000, 1.3e9)] == ["12.0 B", "90.9 MB", "1.30 GB"]
    assert [words.share(value) for value in (1.0, 0.995, 0.1, 0.0227, 0.00012, 0.0, None)] == [
        "100.0%",
        "99.5%",
        "10.0%",
        "2.3%",
        "0.012%",
        "0.0%",
        "–",
    ]
    assert [words.times(value) for value in (0.876, 3.416, 12.34)] == ["0.88×", "3.42×", "12.3×"]


def test_more_than_two_candidates_are_all_shown() -> None:
    found = report(latency=(comparison(1, 7.3, slim=3.42, int8=8.1),))
    assert found.latency[0].ratio("int8").value == pytest.approx(8.1, rel=0.05)
    for text in (plain(terminal(found)), to_markdown(found), page(found)):
        assert "batch 1, int8" in text
        assert words.times(found.latency[0].ratio("int8").value) in text
