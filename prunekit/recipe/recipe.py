"""`Recipe`: all parameters that the result depends on, as one frozen value that is written beside the result.

A recipe is YAML whose keys are the options of ``prunekit compress``. Paths are kept as given and are resolved
against the current directory, as on the command line.
"""

from __future__ import annotations

import os
from numbers import Real
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError, field_validator, model_validator

from prunekit.budget import Budget, Effort, Unit, parse_budgets
from prunekit.errors import OutputError, ParameterError
from prunekit.recipe.fields import NO_EFFORT, format_factor, is_percent, refuse
from prunekit.recipe.options import Options
from prunekit.tasks import Task, TaskKind
from prunekit.validation.arguments import Place, checked
from prunekit.validation.indices import parse_indices
from prunekit.validation.limits import RECIPE_BYTES
from prunekit.validation.reading import ReadError, read_text, shown
from prunekit.validation.yaml_text import parse_yaml

VERSION = 3
#: Budget where only a frontier is requested.
FRONTIER_KEEP = ("50% latency",)


class Recipe(Options):
    """Complete parameters of a run: the same recipe on the same model and data gives the same plan.

    Every parameter is optional. Text is checked here, so that a mistake is reported before anything is loaded.

    The fields are those of `prunekit.recipe.options.Options`, which documents each.

    Raises
    ------
    ParameterError
        A value outside what is allowed, or a name that is not a parameter.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            refuse(error, type(self).model_fields)

    @field_validator("multiple_of", "threshold", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        """Refuse values that only equal a number or convert to one: booleans (numpy's too), complex numbers."""
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise ValueError("a number")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sentence = [name for name in ("text", "text_pair", "label") if getattr(self, name) is not None]
        words = [name for name in ("tokens", "tags") if getattr(self, name) is not None]
        if sentence and words:
            raise ParameterError(words[0], "compress", f"left out where '{sentence[0]}' is given", getattr(self, words[0]))
        if self.task is not None and self.metric is not None:
            Task(self.task, self.metric)  # raises where they do not fit
        self._check_embedder_options()
        if self.task is not None:
            self.check_kind(self.task)
        self._check_removal()
        if self.freeze is not None and self.effort is None:
            raise ParameterError("freeze", "compress", "left out where nothing is trained (leave out --recover none)", self.freeze)
        return self

    def _check_embedder_options(self) -> None:
        """Refuse the parameters of an embedder for every other task."""
        if self.task is None or not self.task.traits.vectors:
            for name, other in (("prompt", None), ("space", "dense"), ("dims", None), ("retrieval", None), ("pooling", "max")):
                if (getattr(self, name) == other) == (name == "pooling"):
                    raise ParameterError(name, "compress", "given for an embedder only (--task embedding)", getattr(self, name))

    def check_kind(self, kind: TaskKind) -> None:
        """Raise ParameterError for a parameter that a task of this kind, named or inferred from the data, does not have."""
        if self.stride is not None and not kind.traits.spans:
            raise ParameterError("stride", "compress", "left out where no questions are answered", self.stride)
        if kind.traits.readout:
            return
        subject = "an embedder" if kind.traits.vectors else kind.value
        if self.pooling is not None and kind.traits.spans:
            raise ParameterError("pooling", "compress", f"left out for {subject}, which reads every token", self.pooling)
        if self.method != "prunekit":
            raise ParameterError("method", "compress", f"prunekit for {subject}, which has no classifier to read neurons", self.method)
        counted = [budget for budget in self.budgets if budget.unit is Unit.NEURONS]
        if counted:
            must = f"of the model, params, macs, latency or bytes for {subject}, which has no classifier to read neurons"
            raise ParameterError("keep", "compress", must, str(counted[0]))

    def _check_removal(self) -> None:
        """Check that a plan, or budgets and units, name once what to remove; with neither, the default budget holds."""
        cuts = self._names_units
        named = cuts or self.speedup is not None or self.p95 is not None or (self.max_drop is not None and self.method == "prunekit")
        if (named or self.frontier) and "keep" not in self.model_fields_set:
            # The instance is frozen, but not in use yet.
            object.__setattr__(self, "keep", () if named else FRONTIER_KEEP)
        if not self.keep and not named:
            raise ParameterError("keep", "compress", "given where nothing else says what to remove", "none")
        if self.speedup is not None and self.keep and Unit.LATENCY in {budget.unit for budget in parse_budgets(self.keep)}:
            must = "left out beside a budget of latency, which it would be one more of"
            raise ParameterError("speedup", "compress", must, format_factor(self.speedup))
        if self.uniform and self.drop:
            raise ParameterError("uniform", "compress", "left out where sub-blocks of some blocks are dropped", "true")
        if self.affine and "ffn" not in self.dropped:
            raise ParameterError("affine", "compress", "left out where no FFN block is dropped (add --drop ffn:4-5)", "true")
        if self.plan is not None:
            for name in (
                "keep",
                "speedup",
                "p95",
                "batch",
                "layers",
                "drop",
                "affine",
                "vocabulary",
                "uniform",
                "multiple_of",
                "frontier",
                "baselines",
            ):
                value = getattr(self, name)
                if value != (() if name == "keep" else type(self).model_fields[name].default):
                    must = "left out where a plan is given, which says what is kept"
                    raise ParameterError(name, "compress", must, self.model_dump()[name])
            return
        units = {budget.unit for budget in self.budgets}
        for name in ("uniform", "multiple_of"):
            if getattr(self, name) != type(self).model_fields[name].default and not (units - {Unit.NEURONS} or self.searches):
                must = "left out where only neurons are counted, since it rounds the widths of what other budgets leave"
                raise ParameterError(name, "compress", must, getattr(self, name))
        if self.batch is not None and Unit.LATENCY not in units:
            must = "left out without a budget of latency (or speedup), which must hold at it"
            raise ParameterError("batch", "compress", must, self.batch)

    @property
    def _names_units(self) -> bool:
        return self.layers is not None or bool(self.drop) or self.vocabulary != "all" or self.plan is not None

    @property
    def dropped(self) -> dict[str, tuple[int, ...]]:
        """`drop`, parsed: the blocks of "ffn" and of "attention"."""
        return {kind: parse_indices(blocks) for kind, _, blocks in (text.partition(":") for text in self.drop)}

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """`keep`, `speedup` and `p95`, parsed."""
        kept = parse_budgets(self.keep) if self.keep else ()
        faster = () if self.speedup is None else (Budget.speedup(self.speedup),)
        return (*kept, *faster, *(() if self.p95 is None else (Budget.p95(self.p95),)))

    @property
    def effort(self) -> Effort | None:
        """`recover`, parsed; None where nothing is trained."""
        return None if self.recover == NO_EFFORT else Effort.parse(self.recover)

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes at which a budget of latency must hold."""
        return (1,) if self.batch is None else (1, self.batch)

    @property
    def searches(self) -> bool:
        """Whether `max_drop` alone determines what to remove."""
        return self.max_drop is not None and not self._names_units and not self.budgets

    def replace(self, **changes: Any) -> Recipe:
        """Return a copy with some parameters changed, validated again; raises ParameterError."""
        return Recipe(**{**self.model_dump(exclude_unset=True), **changes})

    def to_yaml(self) -> str:
        """Return every parameter that has a value, defaults included, in the order of the documentation."""
        fields = self.model_dump(mode="json", exclude_none=True)
        if not self.drop:
            del fields["drop"]
        return yaml.safe_dump({**fields, "keep": fields["keep"] or "none"}, sort_keys=False, allow_unicode=True)

    @checked("Recipe.save")
    def save(self, path: Place) -> None:
        """Write `to_yaml` to a file; raise OutputError where that fails."""
        try:
            Path(path).expanduser().write_text(self.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"The recipe {str(path)!r} cannot be written: {error.strerror or error}.") from error

    @classmethod
    @checked("Recipe.load")
    def load(cls, path: Place) -> Recipe:
        """Read a recipe file; raises ParameterError with one line that names the file."""
        name = os.fspath(path)
        try:
            text = read_text(path, RECIPE_BYTES)
        except ReadError as error:
            raise ParameterError("recipe", "compress", "a YAML file that can be read", name, f"({error})") from None
        return cls.from_yaml(text, name=name)

    @classmethod
    @checked("Recipe.from_yaml")
    def from_yaml(cls, text: str, *, name: str = "recipe") -> Recipe:
        """Invert `to_yaml`; raises ParameterError with one line that names `name`."""
        try:
            values = parse_yaml(text)
        except ReadError as error:
            raise ParameterError("recipe", "compress", "a YAML file that can be read", name, f"({error})") from None
        if not isinstance(values, dict):
            raise ParameterError("recipe", "compress", "a YAML file of 'parameter: value' lines", name)
        version = values.get("version", VERSION)
        if type(version) is not int or version > VERSION:
            raise ParameterError("version", name, f"at most {VERSION}", version, "Upgrade prunekit.")
        named = {shown(key): value for key, value in values.items()}
        try:
            return cls(**_upgrade(named, version))
        except ParameterError as error:
            raise ParameterError(error.parameter, name, error.must, error.got, error.hint) from None


def _upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
    """Return the parameters of a recipe of an earlier version as those of the current one.

    Before version 3 the default dtype was fp32. In version 1 percentages without a unit counted neurons, and nothing was trained by
    default.
    """
    if version not in range(1, VERSION):
        return values
    values = {"dtype": "fp32", **values, "version": VERSION}
    if version > 1:
        return values
    named = ("speedup", "layers", "drop", "vocabulary", "plan", "frontier")
    searched = "max_drop" in values and values.get("method") != "dalvi2020"
    keep = values.get("keep", None if searched or any(name in values for name in named) else "10%")
    texts = [keep] if isinstance(keep, str) else keep
    if isinstance(texts, list):
        texts = [f"{text.strip()} neurons" if isinstance(text, str) and is_percent(text) else text for text in texts]
    return {"recover": NO_EFFORT, **values, **({} if keep is None else {"keep": texts})}
