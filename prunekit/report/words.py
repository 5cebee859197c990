"""The report's tables and sentences as text, each number with its unit, for the terminal, Markdown and HTML."""
# ruff: noqa: RUF001  (typographic signs are meant)

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from prunekit.analyzers.figures import Table
from prunekit.budget import Unit
from prunekit.metrics import Metric
from prunekit.report.base import BASELINES, REFERENCES, RowName
from prunekit.report.embedder import Retrieved
from prunekit.report.model import Paired, Report, Row
from prunekit.runtime.records import Comparison, Environment

NAMES: dict[RowName, str] = {
    "dense": "dense, own head",
    "oracle": "oracle, probe on all neurons",
    "dense-low": "dense",
    "slim": "slim",
    "slim-low": "slim",
    "untrained": "slim, not trained",
    "random": "random choice",
    "magnitude": "largest weights",
    "bag": "bag of words",
    "tuned": "dense, trained as long",
}
UNITS = {
    Unit.MODEL: "the model (parameters of the layers, neurons of a readout)",
    Unit.NEURONS: "neurons read by the classifier",
    Unit.PARAMS: "parameters of the layers",
    Unit.MACS: "multiply-accumulates",
    Unit.LATENCY: "latency",
    Unit.BYTES: "ONNX file size",
    Unit.P95: "time of one row, 95th percentile",
}
_SHOWN: dict[Unit, Callable[[float], str]] = {Unit.BYTES: lambda n: amount(n, "B"), Unit.P95: lambda s: f"{_three_digits(1e3 * s)} ms"}
#: Symbols of zero to eight eighths.
_EIGHTHS = "·▁▂▃▄▅▆▇█"
NOT_MET = "NOT MET"
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def metric_name(report: Report) -> str:
    """Return the metric's name with its unit, if it has one: "accuracy, %"."""
    return f"{report.metric.label}, %" if report.metric.percent else report.metric.label


def metric_value(report: Report, value: float) -> str:
    """Format a value of the metric, without its unit."""
    return report.metric.show(value)


def metric_tick(report: Report, value: float) -> str:
    """Format a round value of the metric at an axis, without its unit."""
    return f"{100 * value:.10g}" if report.metric.percent else f"{value:.10g}"


def share(value: float | None) -> str:
    """Format a share as a percentage; an en dash for None."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if value >= 0.0995 or value == 0 else f"{100 * value:.2g}%"


def amount(value: float, unit: str = "") -> str:
    """Format a number with three digits and a decimal prefix: 22.7 M."""
    for scale, prefix in _SCALES:
        if value >= 0.9995 * scale:
            return f"{_three_digits(value / scale)} {prefix}{unit}"
    return f"{_three_digits(value)} {unit}".strip()


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def milliseconds(value: float) -> str:
    """Format a time in ms with three digits."""
    return _three_digits(value) if value >= 0.1 else f"{value:.3f}"


def times(value: float) -> str:
    """Format a ratio: 3.42x."""
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×"


def name_of(report: Report, name: RowName) -> str:
    """Return the name of a row; a baseline that was not trained is marked where the slim model was trained."""
    if name in ("dense-low", "slim-low") and report.low is not None:
        return f"{NAMES[name]}, {report.low.dtype}"
    if name == "dense" and report.vectors:
        return "dense"
    row = report.row(name)
    untrained = name in BASELINES and report.row("untrained") is not None and not (row is not None and row.trained)
    return f"{NAMES[name]}, not trained" if untrained else NAMES[name]


def scores(report: Report) -> Table:
    """Tabulate each model's score with its interval."""
    ordered = [row for name in NAMES if (row := report.row(name)) is not None]
    with_words = any(row.words is not None for row in ordered)
    with_divergence = any(row.divergence is not None for row in ordered)
    other_metrics = tuple(dict.fromkeys(metric for row in ordered for metric in row.beside))
    with_draws = any(row.draws for row in ordered)
    # A column with the same value in each row is left out.
    with_neurons = len({row.neurons for row in ordered if row.neurons is not None}) > 1
    other_columns = (
        *(["all draws"] * with_draws),
        *(["accuracy, words"] * with_words),
        *(metric.label for metric in other_metrics),
        *(["divergence from dense"] * with_divergence),
    )
    header = ("model", *(["neurons"] * with_neurons), metric_name(report), "95% interval", *other_columns)
    rows = tuple(
        (
            name_of(report, row.name),
            *(["–" if row.neurons is None else f"{row.neurons:,}"] * with_neurons),
            metric_value(report, row.value),
            _interval(report, row),
            *([", ".join(metric_value(report, value) for value in sorted(row.draws)) or "–"] * with_draws),
            *([share(row.words)] * with_words),
            *(_beside(row, metric) for metric in other_metrics),
            *(["–" if row.divergence is None else f"{row.divergence:.3g}"] * with_divergence),
        )
        for row in ordered
    )
    strong = next((at for at, row in enumerate(ordered) if row.name == "slim"), -1)
    counts = sorted({row.n for row in ordered})
    return Table(f"Test split, n = {' and '.join(f'{n:,}' for n in counts)}", header, rows, strong)


def _beside(row: Row, metric: Metric) -> str:
    """Format another metric, with its interval where there is one."""
    if metric not in row.beside:
        return "–"
    bounds = row.intervals.get(metric)
    interval = "" if bounds is None else f" ({metric.show(bounds[0])} – {metric.show(bounds[1])})"
    return f"{metric.formatted(row.beside[metric])}{interval}"


def _interval(report: Report, row: Row) -> str:
    return f"{metric_value(report, row.low)} – {metric_value(report, row.high)}"


def paired(report: Report) -> Table:
    """Tabulate the comparisons on the same rows, each ratio and difference with its own interval."""
    rows = []
    for pair in report.paired:
        by = "" if pair.metric is None else f", {pair.metric.label}"
        show = share if pair.by == "share" else lambda value: points(report, value)
        name = f"{name_of(report, pair.name)}: share of {'dense trained as long' if pair.against == 'tuned' else pair.against}{by}"
        if pair.by == "difference":
            name = f"{name_of(report, pair.name)}, against {name_of(report, pair.against)}"
        rows.append((name, show(pair.value), f"{show(pair.low)} – {show(pair.high)}", "yes" if pair.differs else "no"))
    return Table("Compared on the same rows", ("", "value", "95% interval", "differs"), tuple(rows))


def points(report: Report, value: float) -> str:
    """Format a difference of two values of the metric, with its sign."""
    return f"{100 * value:+.1f} points" if report.metric.percent else f"{value:+.3f}"


def sizes(report: Report) -> Table:
    """Tabulate the costs of the two models, and the share that is kept."""
    rows = tuple((name, dense, slim, share(kept)) for name, dense, slim, kept in kept_shares(report))
    return Table("Size", ("", "dense", "slim", "kept"), rows)


def kept_shares(report: Report) -> list[tuple[str, str, str, float]]:
    """List the costs: name, of dense, of slim, share that is kept; neurons where a readout reads fewer than there are."""
    dense, slim = report.dense, report.slim
    neurons = ("neurons read", f"{dense.neurons:,}", f"{slim.neurons:,}", slim.neurons / dense.neurons)
    return [
        *([neurons] if slim.neurons != dense.neurons else []),
        ("layers", str(dense.layers), str(slim.layers), slim.layers / dense.layers),
        ("parameters", amount(dense.params), amount(slim.params), slim.params / dense.params),
        ("parameters of the layers", amount(dense.params_layers), amount(slim.params_layers), slim.params_layers / dense.params_layers),
        (f"MACs a row, mean length {report.mean_length:.1f}", amount(dense.macs), amount(slim.macs), slim.macs / dense.macs),
        ("ONNX file", amount(dense.bytes, "B"), amount(slim.bytes, "B"), slim.bytes / dense.bytes),
    ]


def blocks(report: Report) -> Table:
    """Tabulate the share of each block that is left, one character each."""
    if not report.blocks:
        return Table("Blocks", (), ())
    first = report.blocks[0]
    rows = []
    for name, total, left in (
        ("heads", first.all_heads, [block.heads for block in report.blocks]),
        ("FFN neurons", first.all_ffn, [block.ffn for block in report.blocks]),
    ):
        if total:
            drawn = "".join(_EIGHTHS[math.ceil(8 * count / total)] for count in left)
            rows.append((f"{name}, of {total:,}", drawn, f"{min(left):,} – {max(left):,}"))
    last = len(report.blocks) - 1
    return Table("What is left of each block", ("", f"blocks 0 – {last}", "least – most"), tuple(rows))


def vectors(report: Report) -> Table:
    """Tabulate the similarity of an embedder's vectors to the dense model's."""
    if not report.vectors:
        return Table("Vectors", (), ())
    rows = []
    for nearness in report.vectors:
        name = next((file.timing for file in report.files[1:]), "") if nearness.name == "low" else name_of(report, nearness.name)
        cells = ["–" if value is None else f"{value:.4f}" for value in (nearness.cosine, nearness.lowest)]
        rows.append((name, *cells, share(nearness.overlap)))
    first = report.vectors[0]
    header = ("", "cosine to dense", "1st percentile", f"{first.neighbours} nearest shared with dense")
    index = "an index of dense" if first.cosine is not None else "its own index"
    return Table(f"Vectors of {first.n:,} test texts, neighbours in {index}", header, tuple(rows), 0)


def retrieval(report: Report) -> Table:
    """Tabulate the retrieval quality of an embedder, in the dense model's index and in its own."""
    if not report.retrieval:
        return Table("Retrieval", (), ())
    rows = []
    for result in report.retrieval:
        index = "" if result.name == "dense" else ", index of dense" if result.index == "dense" else ", its own index"
        name = "dense" if result.name == "dense" else name_of(report, result.name)
        cells = (
            share(result.ndcg),
            share(result.share),
            found_between(result) or "–",
            share(result.recall),
            f"{result.mrr:.3f}",
            share(result.overlap),
        )
        rows.append((f"{name}{index}", *cells))
    first = report.retrieval[0]
    header = ("", "nDCG@10", "of dense", "95% interval", "recall@100", "MRR", "first 10 shared with dense")
    return Table(f"Retrieval, {first.queries:,} queries, {first.documents:,} documents", header, tuple(rows), 1)


_REDUCTIONS = {
    "all": "all dimensions",
    "fitted": "fitted to cosines, in use",
    "components": "principal components",
    "chosen": "largest in mean square",
    "truncation": "the first ones",
    "random": "random ones",
}


def dimensions(report: Report) -> Table:
    """Tabulate the quality of the dense embedder with fewer dimensions, by the method of reduction."""
    if not report.dimensions:
        return Table("Dimensions", (), ())
    full = report.dimensions[0].value
    rows = []
    for shortened in report.dimensions:
        ratio = share(shortened.value / full) if shortened.value is not None and full is not None and full > 0 else "–"
        value = "–" if shortened.value is None else metric_value(report, shortened.value)
        rows.append((_REDUCTIONS[shortened.name], str(shortened.dims), value, ratio, share(shortened.overlap)))
    header = ("", "dimensions", metric_name(report), "of all", "10 nearest shared with all")
    return Table("Dimensions of dense", header, tuple(rows), 1)


def files(report: Report) -> Table:
    """Tabulate the files of the slim and the dense model, where the slim one has more than one."""
    if len(report.files) < 2:
        return Table("Files", (), ())
    header = ["file", "size"]
    scored = report.row("slim") is not None
    header += [metric_name(report), "flips", "error"] if scored else []
    header += [f"speed, batch {comparison.batch_size}" for comparison in report.latency]
    rows = []
    for file in (*report.files, *report.rivals):
        cells = [file.path or f"{file.of}, {file.dtype}, not kept", amount(file.bytes, "B")]
        if scored:
            cells += ["–" if file.value is None else metric_value(report, file.value), share(file.flips), _error(file.error)]
        rows.append((*cells, *(_speed(comparison, file.timing) for comparison in report.latency)))
    title = "Files; speed is against dense in fp32"
    if scored:
        title = "Files; flips are answers other than those of the same model in fp32, speed is against dense in fp32"
    return Table(title, tuple(header), tuple(rows))


def _speed(comparison: Comparison, name: str) -> str:
    return "1" if name == comparison.baseline else times(comparison.ratio(name).value)


def _error(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2g}%"


def precision(report: Report) -> tuple[str, ...]:
    """Return a sentence on the weights of each file in lower precision, and one on the error."""
    sentences = []
    for file in report.files:
        if not file.weights:
            continue
        kept = [(each.name, share(each.share), share(each.bytes_share), each.bits or 32) for each in file.weights if each.kept]
        names = ", ".join(f"{name} ({error} of the error, {size} of the bytes, {bits} bits)" for name, error, size, bits in kept)
        balanced = sum(weight.balanced for weight in file.weights)
        first = file.weights[0]
        sentences.append(
            f"{file.path}: each of {len(file.weights)} weights was tried alone on validation rows; "
            + (f"the inputs of {balanced} were balanced; " if balanced else "")
            + (f"not in int8 are {names}." if kept else f"all are in int8; {first.name} costs most, {share(first.share)} of the error.")
        )
    if any(file.error is not None for file in report.files[1:]):
        sentences.append("Error of a file: mean squared difference of its outputs to those in fp32, as a share of their variance.")
    return tuple(sentences)


def latency(report: Report) -> Table:
    """Tabulate times and the interleaved ratio at each batch size."""
    rows = []
    for comparison in report.latency:
        for timing in comparison.timings:
            ratio = next((ratio for ratio in comparison.ratios if ratio.candidate == timing.name), None)
            speed = ("1", "") if ratio is None else (times(ratio.value), f"{times(ratio.low)} – {times(ratio.high)}")
            percentiles = (milliseconds(value) for value in (timing.p50_ms, timing.p90_ms, timing.p99_ms))
            rows.append((f"batch {comparison.batch_size}, {timing.name}", *percentiles, amount(timing.rows_per_second), *speed))
    header = ("", "p50 ms", "p90 ms", "p99 ms", "rows/s", "speed", "95% interval")
    return Table(f"Latency, {conditions(report.latency)}" if report.latency else "Latency", header, tuple(rows))


def conditions(found: Iterable[Comparison]) -> str:
    """Return the runtime, device and threads of a measurement."""
    first = next(iter(found))
    threads = f"{first.threads} thread" + ("s" if first.threads != 1 else "")
    return f"onnxruntime, {first.device}, {threads}"


def budgets(report: Report) -> Table:
    """Tabulate each budget in its unit, and whether it is met."""
    rows = []
    for budget in report.budgets:
        show = _SHOWN.get(budget.unit, share)
        counted = UNITS[budget.unit] + ("" if budget.dtype == "fp32" else f", {budget.dtype}")
        rows.append((counted, f"≤ {show(budget.limit)}", show(budget.reached), "met" if budget.met else NOT_MET))
    return Table("Budgets", ("what is counted", "asked", "kept", ""), tuple(rows))


def frontier(report: Report) -> Table:
    """Tabulate slim models of several speeds."""
    rows, dense = [], next((point.value for point in report.frontier if point.name == "dense"), 0.0)
    for point in report.frontier:
        of_dense = share(point.value / dense) if dense > 0 else ""
        speed = ("1", "") if point.name == "dense" else (times(point.speed), f"{times(point.low)} – {times(point.high)}")
        rows.append((point.name, metric_value(report, point.value), of_dense, share(point.params), *speed))
    header = ("frontier/NAME.json", metric_name(report), "of dense", "params of layers", "speed, batch 1", "95% interval")
    return Table("Frontier, validation split", header, tuple(rows))


def parity(report: Report) -> str:
    """Return one sentence on the parity of the file."""
    result = report.parity
    shapes = ", ".join(f"{row.batch}×{row.length}" for row in result.shapes)
    sums = " + 1e-06 of what it is added up from" if any(row.addends for row in result.shapes) else ""
    return (
        f"The ONNX file differs from the PyTorch model by at most {result.max_abs_difference:.1e} "
        f"(allowed: {result.tolerance:.0e} + {result.relative:.0e} of the largest output{sums}) at batch × length {shapes}."
    )


def method(report: Report) -> tuple[str, ...]:
    """Return sentences on how the numbers were measured."""
    sentences = []
    for comparison in report.latency:
        clock = " of the thread's own time" if comparison.clock == "thread" else ""
        mean = f"mean length {comparison.mean_length:.1f} tokens"
        sentences.append(
            f"Latency at batch {comparison.batch_size}: {comparison.rounds} interleaved rounds over "
            f"{len(comparison.shapes)} batches ({mean}) after {comparison.warmup} to warm up, each model's turn after an untimed run; "
            f"speed is the median of the paired ratios{clock}, with a bootstrap interval"
            f"{'' if comparison.stopped == 'narrow' else ' (stopped by the time limit)'}."
        )
    if report.max_drop is not None:
        sentences.append(f"The search was allowed a relative loss of {share(report.max_drop)} on held-out rows.")
    return (*sentences, *precision(report), *report.notes)


def machine(found: Environment) -> str:
    """Return processor and versions in one line."""
    packages = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    instructions = f" ({', '.join(found.instructions)})" if found.instructions else ""
    return f"{found.processor}{instructions}, {found.affinity} of {found.cores} cores; {found.system}; Python {found.python}; {packages}"


def _retained(report: Report) -> tuple[str, str] | None:
    """Return ("98.7%", "dense"), or None if nothing can be compared."""
    if not report.labelled:
        # The metric is itself the agreement with dense.
        return None
    for reference in REFERENCES:
        value, pair = report.retained("slim", reference), report.pair("slim", reference)
        if value is not None:
            return share(value), reference if pair is None else f"{reference}; {between(pair)}"
    return None


def between(pair: Paired) -> str:
    """Format the interval of a share."""
    return f"{share(pair.low)} – {share(pair.high)}"


def found_between(each: Retrieved) -> str:
    """Format the interval of the share of dense's nDCG@10; empty where it has no bounds."""
    return "" if each.share_low is None or each.share_high is None else f"{share(each.share_low)} – {share(each.share_high)}"


def headline(report: Report) -> str:
    """Return the result in one sentence."""
    slim, kept = report.row("slim"), _retained(report)
    asked = [f"at {'least' if budget.asked.endswith('as fast') else 'most'} {budget.file}" for budget in report.budgets]
    asked += [] if report.max_drop is None else [f"a loss of at most {share(report.max_drop)}"]
    parts = [f"asked for {' and '.join(asked)}"] if asked else []
    if slim is not None:
        retained = "" if kept is None else f" ({kept[0]} of {kept[1]})"
        parts.append(f"{report.metric.label} {report.metric.formatted(slim.value)}{retained}")
    parts.append(f"{share(report.slim.params / report.dense.params)} of the parameters")
    parts += [f"{times(comparison.ratio('slim').value)} as fast at batch {comparison.batch_size}" for comparison in report.latency]
    return ", ".join(parts)


def tiles(report: Report) -> tuple[tuple[str, str], ...]:
    """Return the key figures: (value, label)."""
    slim, kept = report.row("slim"), _retained(report)
    entries = []
    if slim is not None:
        entries.append(
            (
                report.metric.formatted(slim.value),
                f"{report.metric.label}, slim" + ("" if kept is None else f"; {kept[0]} of {kept[1]}"),
            )
        )
    entries.append(
        (
            share(report.slim.params / report.dense.params),
            f"of the parameters, {amount(report.slim.params)} of {amount(report.dense.params)}",
        )
    )
    for comparison in report.latency:
        entries.append(
            (
                times(comparison.ratio("slim").value),
                f"as fast at batch {comparison.batch_size}, p50 {milliseconds(comparison.timing('slim').p50_ms)} ms",
            )
        )
    entries.append((amount(report.slim.bytes, "B"), f"ONNX file, dense {amount(report.dense.bytes, 'B')}"))
    return tuple(entries)
