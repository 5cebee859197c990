"""Analysis of a model on data, written to a directory with numbers, statistics and an HTML page."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from torch import nn

from prunekit.analyzers.base import LARGEST_COMOMENT, PROBES, Analyzer, AnalyzerResult, Need, Subject, comoment_bytes, plain
from prunekit.analyzers.registry import ANALYZERS, find
from prunekit.data.texts import load_texts
from prunekit.errors import OutputError, ParameterError, StatisticsError
from prunekit.exporters.artefact import ArtefactWriter, check_output
from prunekit.pipeline.collect import provenance, sample_size
from prunekit.pipeline.inputs import load_inputs, recipe_of
from prunekit.pipeline.observations import Base, load_base, observe, unmet
from prunekit.pipeline.records import Inputs, Run
from prunekit.recipe.signatures import with_options
from prunekit.report.analysis import Page, Section, analysis_html
from prunekit.report.progress import stages
from prunekit.report.words import machine
from prunekit.runtime.records import environment
from prunekit.stats.record import Labelled, Statistics
from prunekit.stats.rows import LIMIT
from prunekit.validation.arguments import NotEmpty, Place, Within, checked
from prunekit.validation.limits import ROWS as MOST_ROWS

VERSION = 1
#: Rows of each split that are read.
ROWS = 2000


@dataclass(frozen=True, eq=False)
class Analysis:
    """Results of an analysis.

    Attributes
    ----------
    path : Path
        The directory with `analysis.json`, `analysis.html` and `statistics.safetensors`.
    results : {name: AnalyzerResult}
        One of each analyzer that ran.
    skipped : {name: why}
        Analyzers that could not run on what was given.
    statistics : Statistics or None
        Moments over [neurons | labels] of the rows of train, and rows of train and validation; None where the moments take more
        than 2 GiB.
    page : Page
        Content of `analysis.html`.
    """

    path: Path
    results: Mapping[str, AnalyzerResult]
    skipped: Mapping[str, str]
    statistics: Statistics | None
    page: Page


@with_options("analyze")
@checked("analyze")
def analyze(
    model: Place | nn.Module | None = None,
    data: object = None,
    *,
    tokenizer: object = None,
    compare: Place | None = None,
    out_of_domain: object = None,
    analyzers: Annotated[Sequence[str], NotEmpty()] | None = None,
    rows: Annotated[int, Within(1, MOST_ROWS)] = ROWS,
    out: Place = "prunekit-analysis",
    overwrite: bool = False,
    progress: bool = False,
    **parameters: Any,
) -> Analysis:
    """Measure what is redundant in a transformer encoder, and write it down; nothing is removed.

    Parameters
    ----------
    model : path, str or PreTrainedModel, optional
        Directory or hub name of an encoder, with or without a task head, or one that is in memory; default: the embedded MiniLM-L6.
    data : path or str, or rows that are in memory already, optional
        The task's data, as `prunekit.data.load.load_data` reads it; default: the embedded docstrings.
    tokenizer : PreTrainedTokenizerBase, optional
        Of a model that is in memory, which needs it.
    compare : path or str, optional
        A second model on the same rows: the one before fine-tuning, or another seed.
    out_of_domain : path or str, or rows that are in memory already, optional
        Text from elsewhere, on which the two models are compared too; no labels are read.
    analyzers : sequence of str, optional
        Names of `prunekit.analyzers.registry.ANALYZERS`; default: all that can run on what is given.
    rows : int
        Rows of train, and of validation, that are drawn.
    out : path
        The directory to write; it appears complete, or not at all.
    overwrite : bool
        Replace an earlier analysis at `out`.
    progress : bool
        Show progress bars on stderr.
    **parameters
        The options that say how the data is read, as the signature lists them: columns, ``pooling="mean"``, ``seed=1``, ...

    Returns
    -------
    Analysis

    Raises
    ------
    PrunekitError
        With one line that says what to change. Nothing is left behind.
    """
    if out_of_domain is not None and compare is None:
        raise ParameterError("out_of_domain", "analyze", "given with a second model to compare with (compare)", out_of_domain)
    check_output(out, overwrite, of="analyze", inputs=(model, data, compare, out_of_domain))
    recipe, sources = recipe_of(model, data, tokenizer, parameters, of="analyze")
    chosen = ANALYZERS if analyzers is None else find(analyzers)
    writer = ArtefactWriter(out, overwrite, of="analyze")
    with (
        writer as folder,
        stages(progress) as stage,
        tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as scratch,
    ):
        inputs = load_inputs(recipe, None, stage, sources, most=rows)
        run = Run(recipe, inputs, Path(scratch), stage)
        writer.data = inputs.data.provenance["sha256"]
        base = None if compare is None else load_base(run, str(compare))
        running, skipped = _runnable(chosen, unmet(inputs, base), named=analyzers is not None)
        needs = frozenset().union(*(analyzer.needs for analyzer in running))
        missing_classes = _check_labels(inputs, needs)
        outside = None if out_of_domain is None else load_texts(out_of_domain, rows, seed=recipe.seed)
        memory = _memory(inputs, base, needs, clusters=any(analyzer.name == "clusters" for analyzer in running))
        stage.say(memory)
        observed = observe(run, base, outside, needs)
        results: dict[str, AnalyzerResult] = {}
        for analyzer in running:
            with stage(analyzer.name):
                results[analyzer.name] = analyzer.run(observed)
        origin = provenance(inputs, recipe.seed)
        statistics = _statistics(run, observed.model, origin) if observed.model.fits else None
        sections = tuple(Section(analyzer.name, analyzer.title, results[analyzer.name]) for analyzer in running)
        page = _page(run, compare, sections, skipped, (*inputs.notes, *missing_classes, memory))
        _write(folder, page, origin | _summary(run, compare, out_of_domain, page), statistics)
    return Analysis(Path(out).expanduser(), results, skipped, statistics, page)


def _runnable(chosen: Sequence[Analyzer], reasons: Mapping[Need, str], *, named: bool) -> tuple[tuple[Analyzer, ...], dict[str, str]]:
    """Return the analyzers whose needs are met, and why the others are skipped; raise ParameterError for others that were named."""
    skipped = {analyzer.name: reasons[need] for analyzer in chosen for need in Need if need in analyzer.needs & reasons.keys()}
    if named and skipped:
        name, why = next(iter(skipped.items()))
        raise ParameterError("analyzers", "analyze", "those that can run on what is given", name, f"{why[0].upper()}{why[1:]}.")
    return tuple(analyzer for analyzer in chosen if analyzer.name not in skipped), skipped


def _statistics(run: Run, model: Subject, origin: Mapping[str, Any]) -> Statistics:
    size, seed = sample_size(model.train.rows.width), run.recipe.seed
    train, held = (None if split is None else Labelled.of(split, size, seed) for split in (model.train, model.validation))
    assert train is not None
    return Statistics(model.train.moments, train, model.source, run.inputs.data.task.outputs, model.train.pooling, origin, held)


def _check_labels(inputs: Inputs, needs: Set[Need]) -> tuple[str, ...]:
    """Raise StatisticsError if labels are read and a drawn split has only one; return a note on classes that train lacks."""
    if not needs & {Need.VALIDATION, Need.ABLATIONS}:
        return ()
    task, names = inputs.data.task, inputs.data.task.labels
    for split in ("train", "validation") if Need.VALIDATION in needs else ("validation",):
        labels = inputs.encoded[split].labels
        if len(np.unique(labels, axis=0)) < 2:
            label = "the same" if task.many or not len(labels) else names[int(labels[0])] if names else float(labels[0])
            shown = "no label" if not len(labels) else f"one label only, {label!r}"
            raise StatisticsError(
                f"The {len(inputs.data.splits[split])} rows of {split} show {shown}: nothing can be told apart on them. "
                "Draw more (--rows), or name analyzers that read no labels (--analyzers cka,rsa,clusters,importance)."
            )
    labels = inputs.encoded["train"].labels
    present = set((np.flatnonzero(labels.any(axis=0)) if task.many else labels).tolist()) if names else set()
    missing = [name for at, name in enumerate(names) if at not in present]
    return (f"no row of train that was drawn shows {', '.join(missing)}: no probe can tell what it never saw",) if missing else ()


def _memory(inputs: Inputs, base: Base | None, needs: Set[Need], *, clusters: bool) -> str:
    """Return a note on the memory that the statistics will take."""
    source = inputs.view.source
    width = (source.layers + 1) * source.hidden
    comoment = comoment_bytes(width)
    vectors = 4 * width * len(inputs.encoded["train"].labels) * (1 if base is None else 2)
    made = "made in parts" if clusters else "not made"
    excess = "" if comoment <= LARGEST_COMOMENT else f" if it were held whole: it is {made}, and statistics.safetensors is not written"
    tree = f"; {comoment / 2e6:,.0f} MB for the tree of clusters" if clusters else ""
    probes = f"; up to {PROBES * comoment / 1e6:,.0f} MB for probes and rankings on all of them" if Need.MOMENTS in needs else ""
    return (
        f"memory: {comoment / 1e6:,.0f} MB for the co-moment of {width:,} neurons{excess}{tree}{probes}; "
        f"{vectors / 1e6:,.0f} MB for rows, in a file where they exceed {LIMIT / 1e6:,.0f} MB"
    )


def _page(run: Run, compare: str | Path | None, sections: tuple[Section, ...], skipped: Mapping[str, str], notes: tuple[str, ...]) -> Page:
    inputs, task, source = run.inputs, run.inputs.data.task, run.inputs.view.source
    against = "" if compare is None else f", against {Path(compare).name}"
    title = f"{Path(inputs.loaded.name).name} on {Path(str(inputs.data.provenance['source'])).name}{against}"
    about = (
        f"{task.kind.value.replace('-', ' ')}{f', {len(task.labels)} classes' if task.labels else ''} · "
        f"{len(inputs.data.train):,} rows of train, {len(inputs.data.validation):,} of validation · "
        f"{source.layers} layers of {source.hidden} neurons and the embeddings, {(source.layers + 1) * source.hidden:,} in all · "
        f"read at: {inputs.pooling} · seed {run.recipe.seed}"
    )
    seconds = ", ".join(f"{name} {spent:.1f} s" for name, spent in run.stage.seconds.items())
    return Page(title, about, sections, skipped, notes, f"{machine(environment())}. Time: {seconds}.")


def _summary(run: Run, compare: str | Path | None, out_of_domain: object, page: Page) -> dict[str, Any]:
    """Return what analysis.json says besides the results and the origin of the numbers."""
    outside = out_of_domain if out_of_domain is None or isinstance(out_of_domain, (str, Path)) else type(out_of_domain).__name__
    return {
        "task": plain(run.inputs.data.task),
        "source": run.inputs.view.source.model_dump(),
        "pooling": run.inputs.pooling,
        "compare": None if compare is None else str(compare),
        "out_of_domain": None if outside is None else str(outside),
        "skipped": page.skipped,
        "notes": page.notes,
        "seconds": run.stage.seconds,
    }


def _write(folder: Path, page: Page, summary: Mapping[str, Any], statistics: Statistics | None) -> None:
    results = {section.name: section.result.to_json() for section in page.sections}
    document = {"version": VERSION, **summary, "analyzers": results}
    try:
        (folder / "analysis.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (folder / "analysis.html").write_text(analysis_html(page), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"The analysis cannot be written: {error.strerror}.") from None
    if statistics is not None:
        statistics.save(folder / "statistics.safetensors")
