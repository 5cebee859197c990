"""Puts what the stages found into the report, checks the constraints, and writes what people read."""

from __future__ import annotations

from pathlib import Path

from prunekit.budget import Budget, Unit
from prunekit.errors import BudgetError
from prunekit.exporters.layout import Card
from prunekit.measure.records import environment
from prunekit.recipe import Recipe
from prunekit.report.html import to_html
from prunekit.report.model import BudgetResult, Point, Report, Row, RowName, Sizes
from prunekit.report.tables import to_markdown
from prunekit.stages import Files, Inputs, Measured, Models, Neurons

_ORDER: tuple[RowName, ...] = ("dense", "oracle", "slim", "random", "magnitude")


def build_report(
    recipe: Recipe, inputs: Inputs, neurons: Neurons | None, models: Models, files: Files, measured: Measured, seconds: dict[str, float]
) -> Report:
    """All that a run found, as one value."""
    task, labels = inputs.data.task, inputs.encoded["test"].labels
    read = models.counts["slim"].neurons
    rows = []
    for name in (name for name in _ORDER if name in measured.test):
        outputs = measured.test[name]
        low, high = task.interval(outputs, labels, seed=recipe.seed)
        size = models.counts["dense"].neurons if name in ("dense", "oracle") else read
        rows.append(Row(name=name, value=task.score(outputs, labels), low=low, high=high, n=len(labels), neurons=size))
    dense, slim = _sizes(models, files, "dense"), _sizes(models, files, "slim")
    trace = () if neurons is None or neurons.choice is None else neurons.choice.trace
    return Report(
        model=_short(recipe.model, "all-MiniLM-L6-v2 (embedded)"),
        data=_short(recipe.data, "docstrings (embedded)") if inputs.data.provenance.get("source") != "memory" else "rows in memory",
        kind=task.kind,
        metric=task.metric,
        classes=len(task.labels),
        rows=tuple(rows),
        dense=dense,
        slim=slim,
        mean_length=float(inputs.encoded["train"].lengths.mean()),
        latency=measured.latency,
        parity=files.parity,
        plan_digest=models.plan.digest,
        budgets=tuple(_reached(budget, dense, slim, measured) for budget in recipe.budgets),
        max_drop=recipe.max_drop,
        trace=tuple(Point(neurons=size, value=value) for size, value in trace),
        notes=(*inputs.notes, *_notes(recipe, neurons, measured)),
        stages=dict(seconds),
        seed=recipe.seed,
        environment=environment(),
    )


def _short(name: str | None, default: str) -> str:
    """The last part of a path; a hub name as it is."""
    return default if name is None else Path(name).name if Path(name).exists() else name


def _sizes(models: Models, files: Files, name: str) -> Sizes:
    counts = models.counts[name]
    model = models.dense if name == "dense" else models.slim
    return Sizes(
        neurons=counts.neurons,
        layers=int(getattr(model, "config").num_hidden_layers),  # noqa: B009 - nn.Module types attributes as tensors
        params=counts.params,
        params_layers=counts.params_layers,
        macs=counts.macs,
        bytes=(files.dense if name == "dense" else files.slim).bytes,
    )


def _reached(budget: Budget, dense: Sizes, slim: Sizes, measured: Measured) -> BudgetResult:
    shares = {
        Unit.NEURONS: slim.neurons / dense.neurons,
        Unit.PARAMS: slim.params_layers / dense.params_layers,
        Unit.MACS: slim.macs / dense.macs,
        Unit.BYTES: float(slim.bytes),
        # The share of time at batch 1, where a saving is hardest.
        Unit.LATENCY: 1 / measured.latency[0].ratio("slim").value,
    }
    return BudgetResult(asked=str(budget), unit=budget.unit, limit=budget.amount, reached=shares[budget.unit])


def _notes(recipe: Recipe, neurons: Neurons | None, measured: Measured) -> list[str]:
    notes = []
    choice = None if neurons is None else neurons.choice
    if choice is not None:
        notes.append(
            f"readout by {choice.method}: layers 0..{choice.layer}, {choice.candidates} neurons in {choice.clusters} clusters, {choice.size} read; "
            f"validation {recipe.metric or ''} oracle {choice.scores.oracle:.4f}, chosen {choice.scores.chosen:.4f}".replace("  ", " ")
        )
        if not choice.target_met:
            notes.append(
                f"no size within the budget came within {recipe.neuron_delta:.0%} of its base on validation ({choice.target:.4f}): the whole budget was used"
            )
    for name in ("dense", "oracle"):
        if name in measured.validation and measured.validation[name] > 0:
            notes.append(f"validation: slim {measured.validation['slim']:.4f}, {name} {measured.validation[name]:.4f}")
    return notes


def check_constraints(report: Report, recipe: Recipe, measured: Measured) -> None:
    """Raise BudgetError, saying what was reached, if a budget or the largest drop does not hold."""
    for budget in report.budgets:
        if not budget.met:
            reached = f"{budget.reached / 1e6:.2f} MB" if budget.unit is Unit.BYTES else f"{budget.reached:.1%} {budget.unit.value}"
            raise BudgetError(
                f"--keep '{budget.asked}' was not met: {reached} was reached. Keep less of another unit, or allow more of this one."
            )
    if recipe.max_drop is None:
        return
    against = "dense" if "dense" in measured.validation else "oracle"
    reference, slim = measured.validation[against], measured.validation["slim"]
    drop = (reference - slim) / abs(reference) if reference else 0.0
    if drop > recipe.max_drop:
        raise BudgetError(
            f"--max-drop {recipe.max_drop:.2%} was not met: on validation the slim model loses {drop:.2%} ({reference:.4f} to {slim:.4f}). "
            "Keep more, or allow a larger drop."
        )


def write_reports(report: Report, folder: Path) -> None:
    """report.json, report.md, report.html."""
    for name, text in (("json", report.to_json()), ("md", to_markdown(report)), ("html", to_html(report))):
        (folder / f"report.{name}").write_text(text, encoding="utf-8")


def card_of(recipe: Recipe, inputs: Inputs, models: Models, files: Files, report: Report, name: str) -> Card:
    """What the model card says that the directory does not show."""
    tokenizer = inputs.loaded.tokenizer
    return Card(
        name=name,
        base=recipe.model or "sentence-transformers/all-MiniLM-L6-v2",
        kind=report.kind,
        labels=inputs.data.task.labels,
        inputs=files.slim.inputs,
        outputs=files.slim.outputs,
        pad_id=inputs.space.pad_id,
        pad_token=str(tokenizer.pad_token),
        max_length=recipe.max_length,
        plan_digest=models.plan.digest,
        results=to_markdown(report).partition("\n\n")[2],
        pad_type_id=tokenizer.pad_token_type_id,
        padding_side=inputs.space.padding_side,
        pair=inputs.data.train.pairs is not None,
    )
