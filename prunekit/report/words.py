"""The report's tables as text, each number with its unit: what the terminal, Markdown and HTML have in common."""
# ruff: noqa: RUF001  (typographic signs are meant)

from __future__ import annotations

import math
from collections.abc import Iterable

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
}
#: Nothing, and an eighth to all of it.
_EIGHTHS = "·▁▂▃▄▅▆▇█"
NOT_MET = "NOT MET"
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def metric_name(report: Report) -> str:
    """The metric with its unit, if it has one: "accuracy, %"."""
    return f"{report.metric.label}, %" if report.metric.percent else report.metric.label


def metric_value(report: Report, value: float) -> str:
    """A value of the metric, without its unit."""
    return report.metric.show(value)


def metric_tick(report: Report, value: float) -> str:
    """A round value of the metric at an axis, without its unit."""
    return f"{100 * value:.10g}" if report.metric.percent else f"{value:.10g}"


def share(value: float | None) -> str:
    """A share as a percentage; an n-dash for None."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if value >= 0.0995 or value == 0 else f"{100 * value:.2g}%"


def amount(value: float, unit: str = "") -> str:
    """A number with three digits and a decimal prefix: 22.7 M."""
    for scale, prefix in _SCALES:
        if value >= 0.9995 * scale:
            return f"{_three(value / scale)} {prefix}{unit}"
    return f"{_three(value)} {unit}".strip()


def _three(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def milliseconds(value: float) -> str:
    """A time in ms with three digits."""
    return _three(value) if value >= 0.1 else f"{value:.3f}"


def times(value: float) -> str:
    """A ratio: 3.42x."""
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×"


def name_of(report: Report, name: RowName) -> str:
    """What a row is called: a baseline that was not trained says so where the slim model was."""
    if name in ("dense-low", "slim-low") and report.low is not None:
        return f"{NAMES[name]}, {report.low.dtype}"
    row = report.row(name)
    untrained = name in BASELINES and report.row("untrained") is not None and not (row is not None and row.trained)
    return f"{NAMES[name]}, not trained" if untrained else NAMES[name]


def scores(report: Report) -> Table:
    """Each classifier's score with its interval."""
    order = [row for name in NAMES if (row := report.row(name)) is not None]
    words = any(row.words is not None for row in order)
    apart = any(row.divergence is not None for row in order)
    others = tuple(dict.fromkeys(metric for row in order for metric in row.beside))
    several = any(row.draws for row in order)
    # A column that says the same in each row says nothing.
    read = len({row.neurons for row in order if row.neurons is not None}) > 1
    beside = (
        *(["all draws"] * several),
        *(["accuracy, words"] * words),
        *(each.label for each in others),
        *(["divergence from dense"] * apart),
    )
    header = ("classifier", *(["neurons"] * read), metric_name(report), "95% interval", *beside)
    rows = tuple(
        (
            name_of(report, row.name),
            *(["–" if row.neurons is None else f"{row.neurons:,}"] * read),
            metric_value(report, row.value),
            _interval(report, row),
            *([", ".join(metric_value(report, value) for value in sorted(row.draws)) or "–"] * several),
            *([share(row.words)] * words),
            *(_beside(row, each) for each in others),
            *(["–" if row.divergence is None else f"{row.divergence:.3g}"] * apart),
        )
        for row in order
    )
    strong = next((at for at, row in enumerate(order) if row.name == "slim"), -1)
    counts = sorted({row.n for row in order})
    return Table(f"Test split, n = {' and '.join(f'{n:,}' for n in counts)}", header, rows, strong)


def _beside(row: Row, metric: Metric) -> str:
    """Another metric, with its interval where there is one."""
    if metric not in row.beside:
        return "–"
    found = row.intervals.get(metric)
    between = "" if found is None else f" ({metric.show(found[0])} – {metric.show(found[1])})"
    return f"{metric.said(row.beside[metric])}{between}"


def _interval(report: Report, row: Row) -> str:
    return f"{metric_value(report, row.low)} – {metric_value(report, row.high)}"


def paired(report: Report) -> Table:
    """How the classifiers compare on the same rows, each ratio and difference with its own interval."""
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
    """A difference of two values of the metric, with its sign."""
    return f"{100 * value:+.1f} points" if report.metric.percent else f"{value:+.3f}"


def sizes(report: Report) -> Table:
    """What the two models cost, and the share that is kept."""
    dense, slim = report.dense, report.slim
    rows = [
        ("neurons read", f"{dense.neurons:,}", f"{slim.neurons:,}", slim.neurons / dense.neurons),
        ("layers", str(dense.layers), str(slim.layers), slim.layers / dense.layers),
        ("parameters", amount(dense.params), amount(slim.params), slim.params / dense.params),
        ("parameters of the layers", amount(dense.params_layers), amount(slim.params_layers), slim.params_layers / dense.params_layers),
        (f"MACs a row, mean length {report.mean_length:.1f}", amount(dense.macs), amount(slim.macs), slim.macs / dense.macs),
        ("ONNX file", amount(dense.bytes, "B"), amount(slim.bytes, "B"), slim.bytes / dense.bytes),
    ]
    return Table("Size", ("", "dense", "slim", "kept"), tuple((*row[:3], share(row[3])) for row in rows))


def blocks(report: Report) -> Table:
    """What is left of each block, a character each: from nothing to all of it."""
    if not report.blocks:
        return Table("Blocks", (), ())
    first = report.blocks[0]
    rows = []
    for name, every, left in (
        ("heads", first.all_heads, [block.heads for block in report.blocks]),
        ("FFN neurons", first.all_ffn, [block.ffn for block in report.blocks]),
    ):
        if every:
            drawn = "".join(_EIGHTHS[math.ceil(8 * count / every)] for count in left)
            rows.append((f"{name}, of {every:,}", drawn, f"{min(left):,} – {max(left):,}"))
    last = len(report.blocks) - 1
    return Table("What is left of each block", ("", f"blocks 0 – {last}", "least – most"), tuple(rows))


def vectors(report: Report) -> Table:
    """How near an embedder's vectors are to the dense one's."""
    if not report.vectors:
        return Table("Vectors", (), ())
    rows = []
    for each in report.vectors:
        name = next((file.timing for file in report.files[1:]), "") if each.name == "low" else name_of(report, each.name)
        cells = ["–" if value is None else f"{value:.4f}" for value in (each.cosine, each.lowest)]
        rows.append((name, *cells, share(each.overlap)))
    first = report.vectors[0]
    header = ("", "cosine to dense", "1st percentile", f"{first.neighbours} nearest shared with dense")
    index = "an index of dense" if first.cosine is not None else "its own index"
    return Table(f"Vectors of {first.n:,} test texts, neighbours in {index}", header, tuple(rows), 0)


def retrieval(report: Report) -> Table:
    """How well an embedder finds documents, in the dense model's index and in its own."""
    if not report.retrieval:
        return Table("Retrieval", (), ())
    rows = []
    for each in report.retrieval:
        index = "" if each.name == "dense" else ", index of dense" if each.index == "dense" else ", its own index"
        name = "dense" if each.name == "dense" else name_of(report, each.name)
        cells = share(each.ndcg), share(each.share), found_between(each) or "–", share(each.recall), f"{each.mrr:.3f}", share(each.overlap)
        rows.append((f"{name}{index}", *cells))
    first = report.retrieval[0]
    header = ("", "nDCG@10", "of dense", "95% interval", "recall@100", "MRR", "first 10 shared with dense")
    return Table(f"Retrieval, {first.queries:,} queries, {first.documents:,} documents", header, tuple(rows), 1)


_WAYS = {
    "all": "all dimensions",
    "components": "principal components",
    "chosen": "largest in mean square",
    "truncation": "the first ones",
    "random": "random ones",
}


def dimensions(report: Report) -> Table:
    """What fewer dimensions of the dense embedder are worth, by how they are chosen."""
    if not report.dimensions:
        return Table("Dimensions", (), ())
    whole = report.dimensions[0].value
    rows = []
    for each in report.dimensions:
        of = share(each.value / whole) if each.value is not None and whole is not None and whole > 0 else "–"
        value = "–" if each.value is None else metric_value(report, each.value)
        rows.append((_WAYS[each.name], str(each.dims), value, of, share(each.overlap)))
    header = ("", "dimensions", metric_name(report), "of all", "10 nearest shared with all")
    return Table("Dimensions of dense", header, tuple(rows), 1)


def files(report: Report) -> Table:
    """The files of the slim model beside each other and beside those of the dense one, where there is more than one."""
    if len(report.files) < 2:
        return Table("Files", (), ())
    header = ["file", "size"]
    scored = report.row("slim") is not None
    header += [metric_name(report), "flips", "error"] if scored else []
    header += [f"speed, batch {found.batch_size}" for found in report.latency]
    rows = []
    for file in (*report.files, *report.rivals):
        cells = [file.path or f"{file.of}, {file.dtype}, not kept", amount(file.bytes, "B")]
        if scored:
            cells += ["–" if file.value is None else metric_value(report, file.value), share(file.flips), _error(file.error)]
        rows.append((*cells, *(_speed(found, file.timing) for found in report.latency)))
    title = "Files; speed is against dense in fp32"
    if scored:
        title = "Files; flips are answers other than those of the same model in fp32, speed is against dense in fp32"
    return Table(title, tuple(header), tuple(rows))


def _speed(found: Comparison, name: str) -> str:
    return "1" if name == found.baseline else times(found.ratio(name).value)


def _error(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2g}%"


def precision(report: Report) -> tuple[str, ...]:
    """What was found about the weights of a file in lower precision, a sentence each."""
    said = []
    for file in report.files:
        if not file.weights:
            continue
        kept = [weight for weight in file.weights if weight.kept]
        names = ", ".join(
            f"{weight.name} ({share(weight.share)} of the error, {share(weight.bytes_share)} of the bytes)" for weight in kept
        )
        helped = sum(weight.balanced for weight in file.weights)
        first = file.weights[0]
        said.append(
            f"{file.path}: each of {len(file.weights)} weights was tried alone on validation rows; "
            + (f"the inputs of {helped} were balanced; " if helped else "")
            + (f"in fp32 stayed {names}." if kept else f"none stayed in fp32; {first.name} costs most, {share(first.share)} of the error.")
        )
    if any(file.error is not None for file in report.files[1:]):
        said.append("Error of a file: mean squared difference of its outputs to those in fp32, as a share of their variance.")
    return tuple(said)


def latency(report: Report) -> Table:
    """Times and the interleaved ratio at each batch size."""
    rows = []
    for found in report.latency:
        for timing in found.timings:
            ratio = next((ratio for ratio in found.ratios if ratio.candidate == timing.name), None)
            speed = ("1", "") if ratio is None else (times(ratio.value), f"{times(ratio.low)} – {times(ratio.high)}")
            percentiles = (milliseconds(value) for value in (timing.p50_ms, timing.p90_ms, timing.p99_ms))
            rows.append((f"batch {found.batch_size}, {timing.name}", *percentiles, amount(timing.rows_per_second), *speed))
    header = ("", "p50 ms", "p90 ms", "p99 ms", "rows/s", "speed", "95% interval")
    return Table(f"Latency, {conditions(report.latency)}" if report.latency else "Latency", header, tuple(rows))


def conditions(found: Iterable[Comparison]) -> str:
    """Where it was measured, in a few words."""
    first = next(iter(found))
    threads = f"{first.threads} thread" + ("s" if first.threads != 1 else "")
    return f"onnxruntime, {first.device}, {threads}"


def budgets(report: Report) -> Table:
    """Each budget in its unit, and whether it holds."""
    rows = []
    for budget in report.budgets:
        show = (lambda value: amount(value, "B")) if budget.unit is Unit.BYTES else share
        rows.append((UNITS[budget.unit], f"≤ {show(budget.limit)}", show(budget.reached), "met" if budget.met else NOT_MET))
    return Table("Budgets", ("what is counted", "asked", "kept", ""), tuple(rows))


def frontier(report: Report) -> Table:
    """Slim models of several speeds, to choose from."""
    rows, dense = [], next((point.value for point in report.frontier if point.name == "dense"), 0.0)
    for point in report.frontier:
        of = share(point.value / dense) if dense > 0 else ""
        speed = ("1", "") if point.name == "dense" else (times(point.speed), f"{times(point.low)} – {times(point.high)}")
        rows.append((point.name, metric_value(report, point.value), of, share(point.params), *speed))
    header = ("frontier/NAME.json", metric_name(report), "of dense", "params of layers", "speed, batch 1", "95% interval")
    return Table("Frontier, validation split", header, tuple(rows))


def parity(report: Report) -> str:
    """One sentence on the parity of the file."""
    found = report.parity
    shapes = ", ".join(f"{row.batch}×{row.length}" for row in found.shapes)
    return (
        f"The ONNX file differs from the PyTorch model by at most {found.max_abs_difference:.1e} "
        f"(allowed: {found.tolerance:.0e} + {found.relative:.0e} of the largest output) at batch × length {shapes}."
    )


def method(report: Report) -> tuple[str, ...]:
    """How the numbers came about, a sentence each."""
    said = []
    for found in report.latency:
        clock = " of the thread's own time" if found.clock == "thread" else ""
        mean = f"mean length {found.mean_length:.1f} tokens"
        said.append(
            f"Latency at batch {found.batch_size}: {found.rounds} interleaved rounds over {len(found.shapes)} batches ({mean}) after "
            f"{found.warmup} to warm up, each model's turn after an untimed run; speed is the median of the paired ratios{clock}, with a "
            f"bootstrap interval"
            f"{'' if found.stopped == 'narrow' else ' (stopped by the time limit)'}."
        )
    if report.max_drop is not None:
        said.append(f"The search was allowed a relative loss of {share(report.max_drop)} on held-out rows.")
    return (*said, *precision(report), *report.notes)


def machine(found: Environment) -> str:
    """Processor and versions, one line."""
    packages = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    instructions = f" ({', '.join(found.instructions)})" if found.instructions else ""
    return f"{found.processor}{instructions}, {found.affinity} of {found.cores} cores; {found.system}; Python {found.python}; {packages}"


def _kept(report: Report) -> tuple[str, str] | None:
    """("98.7%", "dense"), or None if nothing can be compared."""
    if not report.labelled:
        # The metric is itself how far the two agree.
        return None
    for of in REFERENCES:
        value, pair = report.retained("slim", of), report.pair("slim", of)
        if value is not None:
            return share(value), of if pair is None else f"{of}; {between(pair)}"
    return None


def between(pair: Paired) -> str:
    """The interval of a share."""
    return f"{share(pair.low)} – {share(pair.high)}"


def found_between(each: Retrieved) -> str:
    """The interval of the share of dense's nDCG@10; nothing where it has no bounds."""
    return "" if each.share_low is None or each.share_high is None else f"{share(each.share_low)} – {share(each.share_high)}"


def headline(report: Report) -> str:
    """The result in one sentence."""
    slim, kept = report.row("slim"), _kept(report)
    asked = [f"at most {budget.asked}" for budget in report.budgets]
    asked += [] if report.max_drop is None else [f"a loss of at most {share(report.max_drop)}"]
    parts = [f"asked for {' and '.join(asked)}"] if asked else []
    if slim is not None:
        retained = "" if kept is None else f" ({kept[0]} of {kept[1]})"
        parts.append(f"{report.metric.label} {report.metric.said(slim.value)}{retained}")
    parts.append(f"{share(report.slim.params / report.dense.params)} of the parameters")
    parts += [f"{times(found.ratio('slim').value)} as fast at batch {found.batch_size}" for found in report.latency]
    return ", ".join(parts)


def tiles(report: Report) -> tuple[tuple[str, str], ...]:
    """The few figures that come first: (value, what it is)."""
    slim, kept = report.row("slim"), _kept(report)
    found = []
    if slim is not None:
        found.append(
            (
                report.metric.said(slim.value),
                f"{report.metric.label}, slim" + ("" if kept is None else f"; {kept[0]} of {kept[1]}"),
            )
        )
    found.append(
        (
            share(report.slim.params / report.dense.params),
            f"of the parameters, {amount(report.slim.params)} of {amount(report.dense.params)}",
        )
    )
    for each in report.latency:
        found.append(
            (times(each.ratio("slim").value), f"as fast at batch {each.batch_size}, p50 {milliseconds(each.timing('slim').p50_ms)} ms")
        )
    found.append((amount(report.slim.bytes, "B"), f"ONNX file, dense {amount(report.dense.bytes, 'B')}"))
    return tuple(found)
