"""The first sentence of a report: gain and loss, or the reason not to ship."""
# ruff: noqa: RUF001  (typographic signs are meant)

from __future__ import annotations

from prunekit.metrics import Metric
from prunekit.report import words
from prunekit.report.base import REFERENCES, RowName
from prunekit.report.model import DeployedFile, Paired, Report
from prunekit.runtime.records import Comparison, Ratio
from prunekit.runtime.timing import ratio_between

#: A model is faster if the interval of its speed lies above this.
FASTER = 1.05
#: Largest difference of the metric at which a bag of words, or a random baseline that is not shown to be worse, is enough.
NEAR = 0.01
_REFERENCES: dict[RowName, str] = {"dense": "dense", "oracle": "a probe on the frozen dense model"}


def verdict(report: Report) -> str:
    """Return gain and loss in one sentence, from paired intervals; "Do not ship" and the reason come first, where there is one.

    A model is refused where the interval of the speed lies above 1.05 at no batch size, where the random baseline is as good (the
    difference is at most 0.01 of the metric, and its paired interval does not lie above 0), or where a bag of words comes within 0.01 of
    the metric. A larger difference whose interval contains 0 is no reason to refuse, since too few rows can be the cause; the sentence
    states that it is not shown. Where the dense model was timed in lower precision too, the faster of the slim files must be faster than
    that as well. Where the file in lower precision meets a budget of bytes that no dense file does, neither speed nor the random
    baseline counts, and its own answers are what is retained.
    """
    reasons = [
        reason for reason in (_fits_already(report), _no_faster(report), _random_as_good(report), _words_are_enough(report)) if reason
    ]
    summary = ", ".join((*_lost(report), *_retrieved(report), *_shortened(report), *_gained(report), *_against_baselines(report)))
    low_precision = _low_precision(report)
    return (
        f"{'Do not ship: ' + '; '.join(reasons) + '. ' if reasons else ''}Slim: {summary}{f'; {low_precision}' if low_precision else ''}."
    )


def _no_faster(report: Report) -> str:
    if report.dimensions or _bounded(report) is not None:
        # Shorter vectors make a smaller index, and a file that had to fit fits, whatever the speed of the model.
        return ""
    if not report.latency or any(comparison.ratio("slim").low > FASTER for comparison in report.latency):
        return _no_faster_than_low(report)
    return "slim is no faster"


def _no_faster_than_low(report: Report) -> str:
    rival = report.dense_low
    if (
        rival is None
        or not report.latency
        or any(_lowest_speed(comparison, file, rival) > FASTER for comparison in report.latency for file in report.files)
    ):
        return ""
    return f"dense in {rival.dtype} is as fast"


def _lowest_speed(comparison: Comparison, file: DeployedFile, rival: DeployedFile) -> float:
    """Return the lower bound of the speed of a slim file relative to a dense one in lower precision."""
    return ratio_between(comparison, file.timing, rival.timing).low


def _low_precision(report: Report) -> str:
    """Compare the file in lower precision with the dense model's."""
    file, rival = report.low, report.dense_low
    if file is None or rival is None:
        return ""
    clauses = []
    pair = _against(report, "dense-low")
    if pair is not None:
        clauses.append(_difference(report, pair))
    clauses += [_as_fast(ratio_between(comparison, file.timing, rival.timing), comparison) for comparison in report.latency]
    clauses.append(f"{words.share(file.bytes / rival.bytes)} of the file's bytes")
    return f"in {file.dtype} against dense in {rival.dtype}: {', '.join(clauses)}"


def _against(report: Report, name: RowName) -> Paired | None:
    return next((pair for pair in report.paired if pair.against == name and pair.by == "difference"), None)


def _bounded(report: Report) -> DeployedFile | None:
    """Return the file in lower precision, where it meets a budget of bytes that no dense file does."""
    met = any(budget.dtype != "fp32" and budget.met for budget in report.budgets)
    return report.low if met and not _fits_already(report) else None


def _fits_already(report: Report) -> str:
    rival = report.dense_low
    if rival is None or not any(budget.dtype != "fp32" and rival.bytes <= budget.limit for budget in report.budgets):
        return ""
    return f"dense in {rival.dtype} fits already"


def _random_as_good(report: Report) -> str:
    pair = None if _bounded(report) is not None else _against(report, "random")
    return "as much chosen at random is as good" if pair is not None and pair.low <= 0 and pair.value <= NEAR else ""


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
        interval = f"{metric.formatted(slim.low)} – {metric.formatted(slim.high)}"
        divergence = (
            "" if slim.divergence is None else f", divergence {slim.divergence:.3g}{' nats' if report.classes else ' of the variance'}"
        )
        label = metric.label if metric is Metric.AGREEMENT else f"{metric.label} with dense"
        return (f"no labels were seen, {label} {metric.formatted(slim.value)} ({interval}) on held-out text{divergence}",)
    low = _bounded(report)
    for reference in REFERENCES:
        pair = report.pair("slim" if low is None else "slim-low", reference)
        if pair is not None:
            of = f"of the {report.metric.label} of {_REFERENCES[reference]}{'' if low is None else f', in {low.dtype}'}"
            retained = f"{words.share(pair.value)} ({words.between(pair)}) {of}"
            tuned = report.pair("slim", "tuned")
            as_long = [] if tuned is None else [f"{words.share(tuned.value)} ({words.between(tuned)}) of that of dense trained for as long"]
            return (retained, *as_long)
    return ("its answers were not measured",) if slim is None else (f"{report.metric.label} {report.metric.formatted(slim.value)}",)


def _retrieved(report: Report) -> tuple[str, ...]:
    """Return an embedder's share of dense's nDCG@10, in the existing index, or in its own where the vector spaces differ."""
    slim = next((result for result in report.retrieval if result.name == "slim"), None)
    if slim is None or slim.share is None:
        return ()
    where = "in dense's index" if slim.index == "dense" else "in an index of its own"
    between = words.found_between(slim)
    bounds = f" ({between})" if between else ""
    return (f"{words.share(slim.share)}{bounds} of the nDCG@10 of dense {where}",)


def _shortened(report: Report) -> tuple[str, ...]:
    """Return what an embedder's shorter vectors are worth beside whole ones."""
    if len(report.dimensions) < 2:
        return ()
    whole, short = report.dimensions[:2]
    kept = f"{words.share(short.overlap)} of the 10 nearest neighbours"
    if short.value is not None and whole.value is not None and whole.value > 0:
        kept = f"{words.share(short.value / whole.value)} of the {report.metric.label} and {kept}"
    return (f"dense with {short.dims} of {whole.dims} dimensions has {kept} of whole vectors",)


def _as_fast(ratio: Ratio, comparison: Comparison) -> str:
    interval = f"{words.times(ratio.low)} – {words.times(ratio.high)}"
    return f"{words.times(ratio.value)} ({interval}) as fast at batch {comparison.batch_size}"


def _difference(report: Report, pair: Paired) -> str:
    """Format a difference with its interval."""
    return f"{words.points(report, pair.value)} ({words.points(report, pair.low)} – {words.points(report, pair.high)})"


def _gained(report: Report) -> tuple[str, ...]:
    low = _bounded(report)
    # What is retained is then said of the file in lower precision.
    plain = "" if low is None else " in fp32"
    return (
        *(f"{_as_fast(comparison.ratio('slim'), comparison)}{plain}" for comparison in report.latency),
        f"{words.share(report.slim.bytes / report.dense.bytes)} of the file's bytes{plain}",
        *([] if low is None else [f"{words.share(low.bytes / report.dense.bytes)} in {low.dtype}"]),
    )


def _against_baselines(report: Report) -> tuple[str, ...]:
    clauses = []
    baselines: tuple[tuple[RowName, str], ...] = (("random", "the same budget at random"), ("bag", "a bag of words"))
    for name, description in baselines:
        pair = _against(report, name)
        if pair is not None:
            row = report.row(name)
            training = ", both not trained" if pair.name == "untrained" else ", both trained" if row is not None and row.trained else ""
            caveat = "" if pair.low > 0 else ", which is not shown to be worse"
            clauses.append(f"{_difference(report, pair)} against {description}{training}{caveat}")
    return tuple(clauses)
