"""The report of a run, the check of its constraints, and the files for readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from torch import nn
from transformers import PreTrainedTokenizerBase

from prunekit.arch.count import Counts
from prunekit.arch.embedding import EmbeddingModel
from prunekit.arch.load import LoadedModel
from prunekit.budget import TIMES, Unit
from prunekit.data.files import IN_MEMORY
from prunekit.data.token_types import has_types
from prunekit.errors import BudgetError
from prunekit.exporters.int8_gate import INT8_GATE
from prunekit.exporters.layout import ONNX, Card, short_name
from prunekit.exporters.onnx import OnnxFile
from prunekit.exporters.precision import FILES, LowFile
from prunekit.pipeline.data_free import DataFree
from prunekit.pipeline.file_size import bounded_dtype
from prunekit.pipeline.paired import paired
from prunekit.pipeline.records import Files, Inputs, Measured, Models, Neurons, Run
from prunekit.pipeline.vectors import nearness
from prunekit.plan import Plan, ffn_units, kept_blocks
from prunekit.recipe import Recipe
from prunekit.report.base import BASELINES, RowName
from prunekit.report.html import to_html
from prunekit.report.model import Block, BudgetResult, DeployedFile, Point, Report, Row, Sizes
from prunekit.report.tables import to_markdown
from prunekit.runtime.records import Comparison, environment
from prunekit.runtime.scores import apart
from prunekit.tasks import Task
from prunekit.validation.fingerprint import digest_at

_EMBEDDED = "all-MiniLM-L6-v2 (embedded)"
#: Where the embedded model comes from.
EMBEDDED_BASE = "sentence-transformers/all-MiniLM-L6-v2"
_ORDER: tuple[RowName, ...] = get_args(RowName)


def _rows(run: Run, models: Models, measured: Measured) -> tuple[Row, ...]:
    """Return what each model scores on the test split, in the report's order."""
    task, rows = run.inputs.data.task, []
    dense_neurons, slim_neurons = models.counts["dense"].neurons, models.counts["slim"].neurons
    for name in (name for name in _ORDER if name in measured.test):
        outputs, labels, starts = measured.test[name]
        value, low, high = task.interval(outputs, labels, starts, seed=run.recipe.seed)
        others = {metric: replace(task, metric=metric).interval(outputs, labels, starts, seed=run.recipe.seed) for metric in task.beside}
        # The two texts of a pair, and the rows of a query that has a relevant one, are one row; words of a token task are one each.
        count = len(labels) if starts is None or task.per_token else len(starts) - 1
        count = task.judged(outputs, labels, starts).rows if task.kind.traits.lists else count
        words = None if task == task.by_word or not task.per_token else task.by_word.score(outputs, labels)
        size = None if name == "bag" else dense_neurons if name in ("dense", "oracle", "dense-low", "tuned") else slim_neurons
        rows.append(
            Row(
                name=name,
                value=value,
                low=low,
                high=high,
                n=count,
                neurons=size,
                words=words,
                beside={metric: each.value for metric, each in others.items()},
                intervals={metric: (each.low, each.high) for metric, each in others.items()},
                divergence=measured.divergence.get(name),
                trained=models.alike and name in BASELINES,
                draws=measured.draws.get(name, ()),
            )
        )
    return tuple(rows)


def build_report(run: Run, neurons: Neurons | None, models: Models, files: Files, measured: Measured) -> Report:
    """Build the report of a run."""
    task, rows = run.inputs.data.task, _rows(run, models, measured)
    dense = _sizes(models.dense, models.counts["dense"], files.dense)
    slim = _sizes(models.slim, models.counts["slim"], files.slim)
    trace = () if neurons is None or neurons.choice is None else neurons.choice.trace
    budgets = _reached(run, dense, slim, models.plan, files, measured)
    return Report(
        model=_model_name(run.recipe, run.inputs.loaded),
        data=_data_name(run.recipe, run.inputs),
        kind=task.kind,
        metric=task.metric,
        classes=len(task.labels),
        labelled=run.inputs.data.labelled,
        rows=rows,
        paired=paired(task, measured.test, seed=run.recipe.seed, alike=models.alike),
        dense=dense,
        slim=slim,
        blocks=_blocks(models.plan),
        files=_scored(task, measured, rows, _slim_files(files), ("slim", "slim-low")),
        # The outputs of the probe of the dense file are computed from the neurons.
        rivals=_scored(task, measured, rows, _dense_files(files), ("dense" if run.inputs.own_head else "oracle", "dense-low")),
        mean_length=float(run.inputs.encoded["train"].lengths.mean()),
        latency=measured.latency,
        parity=files.parity,
        plan_digest=models.plan.digest,
        budgets=budgets,
        max_drop=run.recipe.max_drop,
        vectors=nearness(run.inputs.data.test, measured.test, own_space=run.recipe.space == "own", seed=run.recipe.seed)
        if task.kind.traits.vectors
        else (),
        retrieval=measured.retrieval,
        dimensions=run.inputs.shortened,
        trace=tuple(Point(neurons=size, value=value) for size, value in trace),
        notes=(
            *run.inputs.notes,
            *_notes(run.recipe, neurons, measured, budgets),
            *_precision(files.low),
            *models.notes,
            *models.text.notes,
        ),
        stages=dict(run.stage.seconds),
        seed=run.recipe.seed,
        environment=environment(),
    )


def _model_name(recipe: Recipe, loaded: LoadedModel) -> str:
    if recipe.model is None:
        return _EMBEDDED
    if loaded.in_memory:
        return f"{type(loaded.model).__name__} in memory (sha256 {(digest_at(loaded.name) or '')[:12]})"
    return short_name(recipe.model)


def _data_name(recipe: Recipe, inputs: Inputs) -> str:
    known = inputs.data.provenance
    if known["source"] == IN_MEMORY:
        return f"{IN_MEMORY} (sha256 {known['sha256'][:12]})"
    return "docstrings (embedded)" if recipe.data is None else short_name(recipe.data)


def data_free_report(recipe: Recipe, data_free: DataFree, files: Files, latency: Sequence[Comparison], seconds: dict[str, float]) -> Report:
    """Build the report of a plan that was carried out without data."""
    lengths = ", ".join(str(length) for length in data_free.lengths)
    return Report(
        model=_model_name(recipe, data_free.loaded),
        data="no data",
        kind=data_free.kind,
        metric=data_free.metric,
        classes=len(data_free.labels),
        rows=(),
        dense=_sizes(data_free.loaded.model, data_free.counts["dense"], files.dense),
        slim=_sizes(data_free.slim, data_free.counts["slim"], files.slim),
        blocks=_blocks(data_free.plan),
        files=_slim_files(files),
        rivals=_dense_files(files),
        mean_length=float(data_free.lengths.mean()),
        latency=tuple(latency),
        parity=files.parity,
        plan_digest=data_free.plan.digest,
        notes=(
            "no data was given: the weights were cut and not refitted, and no metric was measured",
            f"MACs and latency are those of random rows of {lengths} tokens",
        ),
        stages=dict(seconds),
        seed=recipe.seed,
        environment=environment(),
    )


def _blocks(plan: Plan) -> tuple[Block, ...]:
    """Return what a plan leaves of each block; nothing where it leaves everything."""
    source, kept, ffn = plan.source, kept_blocks(plan), ffn_units(plan)

    def left(block: int, units: Mapping[int, tuple[int, ...]], every: int) -> int:
        return 0 if block not in kept else len(units[block]) if block in units else every

    blocks = tuple(
        Block(heads=left(block, plan.heads, source.heads), all_heads=source.heads, ffn=left(block, ffn, source.ffn), all_ffn=source.ffn)
        for block in range(source.layers)
    )
    return blocks if any((block.heads, block.ffn) != (block.all_heads, block.all_ffn) for block in blocks) else ()


def _sizes(model: nn.Module, counts: Counts, file: OnnxFile) -> Sizes:
    return Sizes(
        neurons=counts.neurons,
        layers=int(getattr(model, "config").num_hidden_layers),  # noqa: B009 - nn.Module types attributes as tensors
        params=counts.params,
        params_layers=counts.params_layers,
        macs=counts.macs,
        bytes=file.bytes,
    )


def _slim_files(files: Files) -> tuple[DeployedFile, ...]:
    """Return the slim model's files, without scores."""
    deployed = [DeployedFile(path=ONNX, dtype="fp32", bytes=files.slim.bytes)]
    if files.low is not None:
        low = files.low
        error = None if low.fidelity is None else low.fidelity.error
        deployed.append(DeployedFile(path=FILES[low.dtype], dtype=low.dtype, bytes=low.file.bytes, error=error, weights=low.weights))
    return tuple(deployed)


def _dense_files(files: Files) -> tuple[DeployedFile, ...]:
    """Return the dense model's files, without scores."""
    deployed = [DeployedFile(dtype="fp32", bytes=files.dense.bytes, of="dense")]
    if files.low is not None and files.dense_low is not None:
        deployed.append(DeployedFile(dtype=files.low.dtype, bytes=files.dense_low.bytes, of="dense"))
    return tuple(deployed)


def _scored(
    task: Task, measured: Measured, rows: Sequence[Row], files: tuple[DeployedFile, ...], names: tuple[RowName, ...]
) -> tuple[DeployedFile, ...]:
    """Return the files with their scores on the test split; `names` are of their rows, the first that of the reference."""
    by_name, scored = {row.name: row for row in rows}, []
    for file, name in zip(files, names, strict=False):
        row = by_name[name]
        agreement, error = apart(task, measured.test[name].outputs, measured.test[names[0]].outputs)
        score = {"value": row.value, "low": row.low, "high": row.high, "agreement": agreement, "error": error}
        scored.append(file.model_copy(update=score))
    return tuple(scored)


def _reached(run: Run, dense: Sizes, slim: Sizes, plan: Plan, files: Files, measured: Measured) -> tuple[BudgetResult, ...]:
    neurons, params = slim.neurons / dense.neurons, slim.params_layers / dense.params_layers
    # A classifier on chosen neurons that came with the model stays as it is, as any other head does.
    chosen = plan.readout is not None and slim.neurons < dense.neurons
    reached = {
        Unit.MODEL: max(params, neurons) if chosen else params,
        Unit.NEURONS: neurons,
        Unit.PARAMS: params,
        Unit.MACS: slim.macs / dense.macs,
        # At every batch size that was named the interval's lower end must meet the budget.
        Unit.P95: measured.latency[0].timing("slim").p95_ms / 1e3,
        Unit.LATENCY: max(1 / comparison.ratio("slim").low for comparison in measured.latency[: len(run.recipe.batches)]),
    }
    results = []
    for budget in run.recipe.budgets:
        result = BudgetResult(asked=str(budget), unit=budget.unit, limit=budget.amount, reached=reached.get(budget.unit, 0.0))
        if budget.unit is Unit.BYTES:
            dtype = bounded_dtype(run.recipe, run.inputs, budget)
            bounded = files.slim if dtype == "fp32" or files.low is None else files.low.file
            result = result.model_copy(update={"reached": float(bounded.bytes), "dtype": dtype})
        results.append(result)
    return tuple(results)


def _precision(low: LowFile | None) -> tuple[str, ...]:
    """Return a note on the limits of the file in lower precision, and what it reached on the rows on which it was chosen."""
    if low is None or low.fidelity is None or low.dtype == "fp16":
        return ()
    limits, reached = f"an error of at most {INT8_GATE.error:.2%}", f"{low.fidelity.error:.2%}"
    if low.fidelity.agreement is not None:
        limits += f" and at least {INT8_GATE.agreement:.0%} of the predictions as in fp32"
        reached += f" and {low.fidelity.agreement:.1%}"
    kept = sum(weight.kept for weight in low.weights)
    unchanged = f"{kept} of {len(low.weights)} weights have 16 bits or more" if kept else "every weight that int8 can hold is in int8"
    balanced = f", the inputs of {len(low.balanced)} are balanced" if low.balanced else ""
    return (f"{low.dtype}: asked for {limits} on rows of validation, reached {reached}; {unchanged}{balanced}",)


def _notes(recipe: Recipe, neurons: Neurons | None, measured: Measured, budgets: Sequence[BudgetResult]) -> list[str]:
    notes = []
    choice = None if neurons is None else neurons.choice
    if choice is not None:
        notes.append(
            f"readout by {choice.method}: layers 0..{choice.layer}, {choice.candidates} neurons in {choice.clusters} clusters, "
            f"{choice.size} read; validation: oracle {choice.scores.oracle:.4f}, chosen {choice.scores.chosen:.4f}"
        )
        if not choice.target_met:
            notes.append(
                f"no size within the budget reached the target on validation ({choice.target:.4f}): the best that it allows was taken"
            )
    if recipe.dtype != "fp32" and {budget.unit for budget in recipe.budgets} & {*TIMES}:
        notes.append("a budget of time is held against the file in fp32")
    for budget in budgets:
        if budget.unit is Unit.BYTES and recipe.dtype != "fp32":
            why = "" if budget.dtype == "fp32" else ", since in fp32 it leaves less than a quarter of the layers"
            notes.append(f"{budget.asked} bounds the file in {budget.dtype}{why}")
    if recipe.effort is not None and recipe.searches:
        notes.append("the search judged candidates before any training; --max-drop was checked again on the trained model")
    if recipe.plan is not None:
        beside = "the random one is drawn" if "random" in measured.test else "there are no baselines of the same size"
        notes.append(f"the plan was given: nothing was chosen on this data, so {beside}")
    notes += [
        f"largest drop: on {drop.rows:,} rows {measured.held} {name} loses {drop.value:.2%}, up to {drop.upper:.2%} with 95% confidence"
        for name, drop in (("slim" if name == "slim" else f"slim {recipe.dtype}", drop) for name, drop in measured.drops.items())
    ]
    for name in ("dense", "oracle"):
        if name in measured.validation and measured.validation[name] > 0:
            notes.append(f"validation: slim {measured.validation['slim']:.4f}, {name} {measured.validation[name]:.4f}")
    return notes


def check_constraints(report: Report, recipe: Recipe, measured: Measured) -> None:
    """Raise BudgetError, with what was reached, if a budget or the largest drop does not hold."""
    for budget, result in zip(recipe.budgets, report.budgets, strict=True):
        if not result.met:
            raise BudgetError(
                f"{budget.option} was not met: {_amount(result)} was reached. Keep less of another unit, or allow more of this one."
            )
    if recipe.max_drop is None:
        return
    sizes = "".join(f", with {_amount(result)}" for result in report.budgets)
    binding = max(zip(recipe.budgets, report.budgets, strict=True), key=lambda pair: pair[1].reached / pair[1].limit, default=None)
    contrary = "" if binding is None else f"The budget that binds is {binding[0].option}, which contradicts it here. "
    for name, subject in (("slim", "the slim model"), ("slim-low", f"the slim model in {recipe.dtype}")):
        drop, fp32 = measured.drops.get(name), "" if name == "slim" else "Give --dtype fp32 for the other file alone. "
        if drop is not None and drop.upper > recipe.max_drop:
            raise BudgetError(
                f"--max-drop {recipe.max_drop:.2%} was not met: on rows {measured.held} {subject} loses {drop.value:.2%} ("
                f"{drop.dense:.4f} to {drop.slim:.4f}), up to {drop.upper:.2%} with 95% confidence ({drop.rows:,} rows){sizes}. {contrary}"
                f"{fp32}Keep more, give more rows, or allow a larger drop."
            )


def _amount(budget: BudgetResult) -> str:
    """Return what was reached, in words."""
    if budget.unit is Unit.BYTES:
        return f"{budget.reached / 1e6:.2f} MB"
    if budget.unit is Unit.P95:
        return f"{budget.reached * 1e3:.3g} ms at the 95th percentile"
    speed = f" ({1 / budget.reached:.2f}x as fast at the lower end of the interval)" if budget.unit is Unit.LATENCY else ""
    return f"{budget.reached:.1%} {budget.unit.value}{speed}"


def write_reports(report: Report, folder: Path) -> None:
    """Write report.json, report.md and report.html."""
    for name, text in (("json", report.to_json()), ("md", to_markdown(report)), ("html", to_html(report))):
        (folder / f"report.{name}").write_text(text, encoding="utf-8")


def card_of(run: Run, models: Models, files: Files, report: Report, name: str) -> Card:
    """Return the content of the model card that the directory does not show."""
    labels, pair = run.inputs.data.task.labels, not run.inputs.data.task.kind.traits.vectors and run.inputs.data.train.pairs is not None
    card = _card(run.recipe, models.text.tokenizer, labels, files, report, name, run.inputs.max_length, pair=pair)
    thresholds = tuple(getattr(models.slim.config, "thresholds", ()) if run.inputs.data.task.many else ())
    return _of_vectors(replace(card, thresholds=thresholds), models.slim, run.recipe)


def data_free_card(recipe: Recipe, data_free: DataFree, files: Files, report: Report, name: str) -> Card:
    """Return the content of the card of a plan that was carried out without data."""
    longest = data_free.loaded.row_length(recipe.max_length, of="compress")
    card = _card(recipe, data_free.tokenizer, data_free.labels, files, report, name, longest, pair=False)
    return _of_vectors(card, data_free.slim, recipe)


def _of_vectors(card: Card, model: nn.Module, recipe: Recipe) -> Card:
    """Return the card of an embedder with what its example needs; that of another model unchanged."""
    if not isinstance(model, EmbeddingModel):
        return card
    return replace(card, normalized=model.embedding.normalize, prompt=model.embedding.prompt(recipe.prompt))


def _card(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    labels: tuple[str, ...],
    files: Files,
    report: Report,
    name: str,
    max_length: int,
    *,
    pair: bool,
) -> Card:
    return Card(
        name=name,
        base=(recipe.model or EMBEDDED_BASE) if digest_at(recipe.model) is None else report.model,
        kind=report.kind,
        labels=labels,
        inputs=files.slim.inputs,
        outputs=files.slim.outputs,
        pad_id=0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id),
        pad_token=str(tokenizer.pad_token),
        max_length=max_length,
        plan_digest=report.plan_digest,
        results=to_markdown(report).partition("\n\n")[2],
        pad_type_id=tokenizer.pad_token_type_id if has_types(tokenizer) else 0,
        typed=has_types(tokenizer),
        padding_side="left" if tokenizer.padding_side == "left" else "right",
        pair=pair,
    )
