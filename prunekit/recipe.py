"""A Recipe is every choice that the result depends on, as one frozen value that is written beside the result.

A recipe is YAML whose keys are the options of ``prunekit compress``. Paths are kept as given and are resolved
against the current directory, as on the command line.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from prunekit.budget import Budget, parse_budgets
from prunekit.errors import ParameterError
from prunekit.tasks import Metric, Task, TaskKind

VERSION = 1
_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", re.ASCII)

_KINDS = {
    "string_type": "text (in YAML, put it in quotes)",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
}


def _percent(value: object) -> float:
    # A bare 0.5 could mean 50% or 0.5%, so the sign is asked for.
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 <= float(match[1]) < 100:
        raise ValueError("a percentage in [0%, 100%), such as '1%'")
    return float(match[1]) / 100


def _format_percent(share: float) -> str:
    return f"{share * 100:.15g}%"


def _budgets(value: object) -> object:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ParameterError("keep", "compress", "text such as '10%' or '8 MB', or a list of them", value)
    parse_budgets(texts)
    return tuple(text.strip() for text in texts)


def _path(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Percent = Annotated[float, BeforeValidator(_percent), PlainSerializer(_format_percent, return_type=str)]
Name = Annotated[str, Field(min_length=1), BeforeValidator(_path)]
Column = Annotated[str, Field(min_length=1)]


class Recipe(BaseModel):
    """What to do, completely: the same recipe on the same model and data gives the same plan.

    Every parameter may be left out. Text is checked here, so that a mistake is found before anything is loaded.

    Attributes
    ----------
    model : str or None
        Directory or hub name of a transformer encoder, with or without a task head; None is the embedded default.
    revision : str or None
        Branch, tag or commit of a model on the hub.
    trust_remote_code : bool
        Whether code that comes with the model may run.
    data : str or None
        File, directory or hub name of the task's data; None is the embedded default.
    data_config : str or None
        Configuration of a data set on the hub, such as ``sst2`` of ``glue``.
    text, text_pair, label : str or None
        Columns of a sentence task; None: found by name.
    tokens, tags : str or None
        Columns of a token task, lists of words and of their tags.
    task : TaskKind or None
        None: told by the data.
    metric : Metric or None
        None: the task's usual one.
    keep : tuple of str
        Budgets, all of which must hold; see `prunekit.budget.Budget.parse`.
    max_drop : float or None
        Largest relative loss of the metric on the validation split, a share in [0, 1); written as ``"1%"``.
    method : {"prunekit", "dalvi2020"}
        How the neurons are chosen.
    pooling : {"cls", "mean", "last"} or None
        How the tokens of a sentence become one row; None: [CLS] of a fine-tuned model, the mean of a base model.
    layer_delta : float
        Relative loss that the choice of the top layer may cost, a share in [0, 1) (Dalvi et al. 2020, section 7, LayerSelector).
    neuron_delta : float
        Relative loss that the choice of neurons may cost after it, a share in [0, 1) (the same, minimal neuron set).
    threshold : float
        Correlation distance, 1 - abs(r), below which neurons form one cluster, in [0, 1] (the same, correlation clustering).
    max_length : int
        Tokens after which an input is cut, special tokens counted.
    seed : int
        Of everything that is drawn.
    threads : int
        Processor threads with which latency is measured.

    Raises
    ------
    ParameterError
        A value outside what is allowed, or a name that is not a parameter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    model: Name | None = None
    revision: Column | None = None
    trust_remote_code: Annotated[bool, Field(strict=True)] = False
    data: Name | None = None
    data_config: Column | None = None
    text: Column | None = None
    text_pair: Column | None = None
    label: Column | None = None
    tokens: Column | None = None
    tags: Column | None = None
    task: TaskKind | None = None
    metric: Metric | None = None
    keep: Annotated[tuple[str, ...], BeforeValidator(_budgets)] = ("10%",)
    max_drop: Percent | None = None
    method: Literal["prunekit", "dalvi2020"] = "prunekit"
    pooling: Literal["cls", "mean", "last"] | None = None
    layer_delta: Percent = 0.01
    neuron_delta: Percent = 0.01
    threshold: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.3
    max_length: Annotated[int, Field(strict=True, ge=4)] = 128
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    threads: Annotated[int, Field(strict=True, ge=1)] = 1

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            _fail(error)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sentence = [name for name in ("text", "text_pair", "label") if getattr(self, name) is not None]
        words = [name for name in ("tokens", "tags") if getattr(self, name) is not None]
        if sentence and words:
            raise ParameterError(words[0], "compress", f"left out where '{sentence[0]}' is given", getattr(self, words[0]))
        if self.task is not None and self.metric is not None:
            Task(self.task, self.metric)  # raises where they do not fit
        return self

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """`keep`, read."""
        return parse_budgets(self.keep)

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some parameters changed, checked again; raises ParameterError."""
        return Recipe(**{**self.model_dump(), **changes})

    def to_yaml(self) -> str:
        """Every parameter that has a value, defaults included, in the order of the documentation."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> None:
        """Write `to_yaml` to a file."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file; raises ParameterError with one line that names the file."""
        name = str(path)
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ParameterError("recipe", "compress", "a YAML file that can be read", name, f"({reason})") from None
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ParameterError("recipe", "compress", "a YAML file", name, f"({reason})") from None
        if not isinstance(values, dict):
            raise ParameterError("recipe", "compress", "a YAML file of 'parameter: value' lines", name)
        version = values.get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise ParameterError("version", name, f"at most {VERSION}", version, "Upgrade prunekit.")
        try:
            return cls(**{str(key): value for key, value in values.items()})
        except ParameterError as error:
            raise ParameterError(error.parameter, name, error.must, error.got, error.hint) from None


def _fail(error: ValidationError) -> NoReturn:
    """Say the first thing that pydantic found, in the grammar of `ParameterError`."""
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, ParameterError):
        raise cause from None
    parameter = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(parameter, Recipe.model_fields, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"The parameters are {', '.join(Recipe.model_fields)}."
        raise ParameterError(parameter, "compress", "one that exists", first["input"], hint) from None
    if cause is not None:
        must = str(cause)
    elif "expected" in context:
        must = f"one of {context['expected']}".replace(" or ", ", ")
    else:
        must = _KINDS.get(first["type"], first["msg"].removeprefix("Input should be ").removeprefix("String should "))
    raise ParameterError(parameter, "compress", must, first["input"]) from None
