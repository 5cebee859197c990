"""The one sentence that comes first: what was gained and lost, or why not to ship."""
# ruff: noqa: RUF001  (typographic signs are meant)

from __future__ import annotations

from prunekit.metrics import Metric
from prunekit.report import words
from prunekit.report.base import REFERENCES, RowName
from prunekit.report.model import DeployedFile, Paired, Report
from prunekit.runtime.records import Comparison, Ratio
from prunekit.runtime.timing import ratio_between

#: A speed whose interval does not lie above this is none.
FASTER = 1.05
#: A bag of words that is this near is enough.
NEAR = 0.01
_REFERENCES: dict[RowName, str] = {"dense": "dense", "oracle": "a probe on the frozen dense model"}


def verdict(report: Report) -> str:
    """Say in one sentence what was gained and lost, from paired intervals; with "Do not ship" and the reason first, where there is one.

    It is refused where the interval of the speed lies above 1.05 at no batch size, where as much chosen at random is as good (the
    paired interval of the difference does not lie above 0), or where a bag of words comes within 0.01 of the metric. Where the dense
    model was timed in lower precision too, the faster of the slim files must be faster than that as well.
    """
    reasons = [reason for reason in (_no_faster(report), _random_as_good(report), _words_are_enough(report)) if reason]
    found = ", ".join((*_lost(report), *_found(report), *_gained(report), *_above(report)))
    low = _in_low(report)
    return f"{'Do not ship: ' + '; '.join(reasons) + '. ' if reasons else ''}Slim: {found}{f'; {low}' if low else ''}."


def _no_faster(report: Report) -> str:
    if not report.latency or any(found.ratio("slim").low > FASTER for found in report.latency):
        return _no_faster_than_low(report)
    return "slim is no faster"


def _no_faster_than_low(report: Report) -> str:
    rival = report.dense_low
    if rival is None or any(_over(found, file, rival) > FASTER for found in report.latency for file in report.files):
        return ""
    return f"dense in {rival.dtype} is as fast"


def _over(found: Comparison, file: DeployedFile, rival: DeployedFile) -> float:
    """How many times as fast a slim file is as a dense one in lower precision, at the lower end."""
    return ratio_between(found, file.timing, rival.timing).low


def _in_low(report: Report) -> str:
    """The file in lower precision beside the dense model in the same."""
    file, rival = report.low, report.dense_low
    if file is None or rival is None:
        return ""
    said = []
    pair = _against(report, "dense-low")
    if pair is not None:
        said.append(_points(report, pair))
    said += [_as_fast(ratio_between(found, file.timing, rival.timing), found) for found in report.latency]
    said.append(f"{words.share(file.bytes / rival.bytes)} of the file's bytes")
    return f"in {file.dtype} against dense in {rival.dtype}: {', '.join(said)}"


def _against(report: Report, name: RowName) -> Paired | None:
    return next((pair for pair in report.paired if pair.against == name and pair.by == "difference"), None)


def _random_as_good(report: Report) -> str:
    pair = _against(report, "random")
    return "as much chosen at random is as good" if pair is not None and pair.low <= 0 else ""


def _words_are_enough(report: Report) -> str:
    pair = _against(report, "bag")
    if pair is None or pair.value > NEAR:
        return ""
    return "a bag of words is better" if pair.value < 0 else "a bag of words comes within a point"


def _lost(report: Report) -> tuple[str, ...]:
    slim = report.row("slim")
    if report.metric is Metric.COSINE and slim is not None:
        return (f"a mean cosine of {slim.value:.4f} to dense",)
    if not report.labelled and slim is not None:
        metric = report.metric
        interval = f"{metric.said(slim.low)} – {metric.said(slim.high)}"
        apart = "" if slim.divergence is None else f", divergence {slim.divergence:.3g}{' nats' if report.classes else ' of the variance'}"
        named = metric.label if metric is Metric.AGREEMENT else f"{metric.label} with dense"
        return (f"no labels were seen, {named} {metric.said(slim.value)} ({interval}) on held-out text{apart}",)
    for of in REFERENCES:
        pair = report.pair("slim", of)
        if pair is not None:
            kept = f"{words.share(pair.value)} ({words.between(pair)}) of the {report.metric.label} of {_REFERENCES[of]}"
            longer = report.pair("slim", "tuned")
            as_long = (
                [] if longer is None else [f"{words.share(longer.value)} ({words.between(longer)}) of that of dense trained for as long"]
            )
            return (kept, *as_long)
    return ("its answers were not measured",) if slim is None else (f"{report.metric.label} {report.metric.said(slim.value)}",)


def _found(report: Report) -> tuple[str, ...]:
    """What an embedder finds in the index that is there already, or where that is of no use to it in its own."""
    slim = next((each for each in report.retrieval if each.name == "slim"), None)
    if slim is None or slim.share is None:
        return ()
    where = "in dense's index" if slim.index == "dense" else "in an index of its own"
    between = words.found_between(slim)
    bounds = f" ({between})" if between else ""
    return (f"{words.share(slim.share)}{bounds} of the nDCG@10 of dense {where}",)


def _as_fast(ratio: Ratio, found: Comparison) -> str:
    interval = f"{words.times(ratio.low)} – {words.times(ratio.high)}"
    return f"{words.times(ratio.value)} ({interval}) as fast at batch {found.batch_size}"


def _points(report: Report, pair: Paired) -> str:
    """A difference with its interval."""
    return f"{words.points(report, pair.value)} ({words.points(report, pair.low)} – {words.points(report, pair.high)})"


def _gained(report: Report) -> tuple[str, ...]:
    return (
        *(_as_fast(found.ratio("slim"), found) for found in report.latency),
        f"{words.share(report.slim.bytes / report.dense.bytes)} of the file's bytes",
    )


def _above(report: Report) -> tuple[str, ...]:
    said = []
    names: tuple[tuple[RowName, str], ...] = (("random", "the same budget at random"), ("bag", "a bag of words"))
    for name, what in names:
        pair = _against(report, name)
        if pair is not None:
            row = report.row(name)
            apart = ", both not trained" if pair.name == "untrained" else ", both trained" if row is not None and row.trained else ""
            said.append(f"{_points(report, pair)} against {what}{apart}")
    return tuple(said)
