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

from prunekit.budget import Budget, Effort, Unit, parse_budgets
from prunekit.errors import ParameterError
from prunekit.metrics import Metric
from prunekit.tasks import Task, TaskKind
from prunekit.validation.arguments import Place, checked
from prunekit.validation.indices import format_indices, parse_indices
from prunekit.validation.limits import BATCH, LAYERS, POSITIONS, RECIPE_BYTES, SEEDS, THREADS
from prunekit.validation.reading import ReadError, parse_yaml, place_fault, read_text, shown

VERSION = 2
#: What may be kept where nothing at all is said of it, and where a frontier is all that is asked for.
DEFAULT_KEEP = ("10%",)
FRONTIER_KEEP = ("50% latency",)
NO_EFFORT = "none"
_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", re.ASCII)

_FACTOR = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*x\s*", re.ASCII)

_KINDS = {
    "string_type": "text (in YAML, put it in quotes)",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "model_attributes_type": "a recipe",
}


def _percent(value: object) -> float:
    # A bare 0.5 could mean 50% or 0.5%, so the sign is asked for.
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 <= float(match[1]) < 100:
        raise ValueError("a percentage in [0%, 100%), such as '1%'")
    return float(match[1]) / 100


def _factor(value: object) -> float:
    match = _FACTOR.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 1 < float(match[1]) <= 1000:
        raise ValueError("a factor above 1x, such as '3x'")
    return float(match[1])


def _format_factor(factor: float) -> str:
    return f"{factor:.15g}x"


def _format_percent(share: float) -> str:
    return f"{share * 100:.15g}%"


def _budgets(value: object) -> object:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ParameterError("keep", "compress", "text such as '10%' or '8 MB', or a list of them", value)
    found = tuple(text.strip() for text in texts)
    if found in ((), ("none",)):
        return ()
    parse_budgets(found)
    return found


def _blocks(value: object) -> object:
    """Blocks as ranges, "0-3,5", or as a list."""
    must = "blocks to keep, increasing, such as '0-3' or '0,2,4'"
    items = (value,) if isinstance(value, int) and not isinstance(value, bool) else value
    try:
        found = parse_indices(items) if isinstance(items, str) else items
    except ValueError:
        found = None
    if not isinstance(found, (list, tuple)) or not found or not all(type(block) is int and 0 <= block < LAYERS for block in found):
        raise ParameterError("layers", "compress", must, value)
    if sorted(set(found)) != list(found):
        raise ParameterError("layers", "compress", must, value)
    return tuple(found)


def _drop(value: object) -> object:
    """Sub-blocks as "ffn:4-5" and "attention:3", in this order, one text each."""
    texts = (value,) if isinstance(value, str) else value
    must = "FFN or attention blocks, such as 'ffn:4-5' or 'attention:3', or a list of them"
    found: dict[str, tuple[int, ...]] = {}
    for text in texts if isinstance(texts, (list, tuple)) else (value,):
        kind, _, numbers = text.partition(":") if isinstance(text, str) else ("", "", "")
        try:
            blocks = parse_indices(numbers)
        except ValueError:
            blocks = ()
        kind = kind.strip()
        if kind not in ("ffn", "attention") or not blocks or kind in found or sorted(set(blocks)) != list(blocks):
            raise ParameterError("drop", "compress", must, value)
        found[kind] = blocks
    return tuple(f"{kind}:{format_indices(found[kind])}" for kind in sorted(found, reverse=True))


def _effort(value: object) -> object:
    if value is None:
        return NO_EFFORT
    if not isinstance(value, str):
        raise ParameterError("recover", "compress", "text such as 'auto', 'none', '10min' or '3epochs'", value)
    if value.strip() != NO_EFFORT:
        Effort.parse(value)
    return value.strip()


def _path(value: object) -> object:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str) and value and (fault := place_fault(value)) is not None:
        raise ValueError(f"a name or a path that can exist ({fault})")
    return value


Percent = Annotated[float, BeforeValidator(_percent), PlainSerializer(_format_percent, return_type=str)]
Factor = Annotated[float, BeforeValidator(_factor), PlainSerializer(_format_factor, return_type=str)]
Name = Annotated[str, Field(strict=True, min_length=1), BeforeValidator(_path)]
Column = Annotated[str, Field(strict=True, min_length=1)]
Blocks = Annotated[tuple[int, ...], BeforeValidator(_blocks), PlainSerializer(format_indices, return_type=str)]


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
    group : str or None
        Column of what rows have in common (a document, a query): rows of one group stay on one side of every cut.
    task : TaskKind or None
        None: told by the data.
    metric : Metric or None
        None: the task's usual one.
    keep : tuple of str
        Budgets, all of which must hold; see `prunekit.budget.Budget.parse`. "10%" where nothing below says what to remove; with
        `speedup`, `max_drop`, `layers`, `drop`, `vocabulary` or `plan` it may be empty (in YAML ``none``), and is by default.
    speedup : float or None
        How many times as fast the slim file must be, a factor above 1, at the lower end of what is measured; written as ``"3x"``.
        The same as a budget of latency.
    batch : int or None
        Rows in a batch at which a budget of latency must hold besides a batch of one.
    layers : tuple of int or None
        Blocks kept, as ranges: ``"0-3"``; None: all that the readout needs.
    drop : tuple of str
        Sub-blocks that go before anything is chosen (and trained), ``"ffn:4-5"`` and ``"attention:3"`` (Sridhar & Sarah 2020).
    affine : bool
        Whether a least-squares affine map takes the place of each FFN block that `drop` names.
    vocabulary : {"all", "data"}
        "data": tokens that train does not use leave the embedding and the tokenizer, but for those that spell any other text.
    uniform : bool
        Whether a budget of params or macs must leave all blocks with equally many heads and FFN neurons.
    multiple_of : {1, 8, 16, 32}
        What the FFN widths that such a budget leaves must be a multiple of.
    plan : str or None
        A plan file that is carried out as it is; then nothing of the above is chosen, and without `data` nothing is fitted.
    dtype : {"fp32", "fp16", "int8", "int8-static"}
        Of a second ONNX file beside the one in fp32, which is always there: none, half precision, or int8 with activations in the
        range of each batch, or in fixed ranges from train.
    max_drop : float or None
        Largest relative loss of the metric on the validation split, a share in [0, 1); written as ``"1%"``. Where nothing else says
        what to remove, the smallest model that keeps to it is searched for.
    frontier : bool
        Whether slim models of several speeds are made and measured besides the one that ships; "50% latency" ships where nothing
        else says what to.
    recover : str
        How long the slim model is trained after the cut, ``"10min"`` or ``"3epochs"``: by distillation from the dense model where
        that has a head for the task, else on the labels. ``"auto"``: until validation stops improving, for 5 minutes at most, where
        layers, heads or FFN neurons were cut and there is data to train on; ``"none"``: not at all.
    freeze : str or None
        Blocks that this training leaves alone, ``"layers:0-3"``.
    method : {"prunekit", "dalvi2020"}
        How the neurons are chosen.
    pooling : {"cls", "mean", "last"} or None
        How the tokens of a sentence become one row; None: [CLS] of a fine-tuned model, the mean of a base model.
    layer_delta : float
        Relative loss that the choice of the top layer may cost, a share in [0, 1) (Dalvi et al. 2020, section 7, LayerSelector).
    neuron_delta : float
        Relative loss that the choice of neurons may cost after it, a share in [0, 1) (the same, minimal neuron set).
    threshold : float or None
        Correlation distance, 1 - abs(r), below which neurons form one cluster, in [0, 1] (the same, correlation clustering);
        None: 0.3 for dalvi2020, no clusters for prunekit.
    max_length : int or None
        Tokens after which an input is cut, special tokens counted; not more than the model has positions. None: 128, or as many as
        the model has where that is less.
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

    version: Literal[2] = 2
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
    group: Column | None = None
    task: TaskKind | None = None
    metric: Metric | None = None
    keep: Annotated[tuple[str, ...], BeforeValidator(_budgets)] = DEFAULT_KEEP
    speedup: Factor | None = None
    batch: Annotated[int, Field(strict=True, ge=2, le=BATCH)] | None = None
    layers: Blocks | None = None
    drop: Annotated[tuple[str, ...], BeforeValidator(_drop)] = ()
    affine: Annotated[bool, Field(strict=True)] = False
    vocabulary: Literal["all", "data"] = "all"
    uniform: Annotated[bool, Field(strict=True)] = False
    multiple_of: Literal[1, 8, 16, 32] = 1
    plan: Name | None = None
    dtype: Literal["fp32", "fp16", "int8", "int8-static"] = "fp32"
    max_drop: Percent | None = None
    frontier: Annotated[bool, Field(strict=True)] = False
    recover: Annotated[str, BeforeValidator(_effort)] = "auto"
    freeze: Column | None = None
    method: Literal["prunekit", "dalvi2020"] = "prunekit"
    pooling: Literal["cls", "mean", "last"] | None = None
    layer_delta: Percent = 0.01
    neuron_delta: Percent = 0.01
    threshold: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    max_length: Annotated[int, Field(strict=True, ge=4, le=POSITIONS)] | None = None
    seed: Annotated[int, Field(strict=True, ge=0, lt=SEEDS)] = 0
    threads: Annotated[int, Field(strict=True, ge=1, le=THREADS)] = 1

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
        self._removes_something()
        if self.freeze is not None and self.effort is None:
            raise ParameterError("freeze", "compress", "left out where nothing is trained (leave out --recover none)", self.freeze)
        return self

    def _removes_something(self) -> None:
        """What is to be removed is named once: by a plan, or by budgets and units; nothing named is the default budget."""
        cuts = self._names_units
        named = cuts or self.speedup is not None or (self.max_drop is not None and self.method == "prunekit")
        if (named or self.frontier) and "keep" not in self.model_fields_set:
            # Frozen, but not yet seen by anybody.
            object.__setattr__(self, "keep", () if named else FRONTIER_KEEP)
        if not self.keep and not named:
            raise ParameterError("keep", "compress", "given where nothing else says what to remove", "none")
        if self.speedup is not None and self.keep and Unit.LATENCY in {budget.unit for budget in parse_budgets(self.keep)}:
            must = "left out beside a budget of latency, which it would be one more of"
            raise ParameterError("speedup", "compress", must, _format_factor(self.speedup))
        if self.uniform and self.drop:
            raise ParameterError("uniform", "compress", "left out where sub-blocks of some blocks are dropped", "true")
        if self.affine and "ffn" not in self.dropped:
            raise ParameterError("affine", "compress", "left out where no FFN block is dropped (add --drop ffn:4-5)", "true")
        if self.plan is not None:
            for name in ("keep", "speedup", "batch", "layers", "drop", "affine", "vocabulary", "uniform", "multiple_of", "frontier"):
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
        """`drop`, read: the blocks of "ffn" and of "attention"."""
        return {kind: parse_indices(blocks) for kind, _, blocks in (text.partition(":") for text in self.drop)}

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """`keep` and `speedup`, read."""
        kept = parse_budgets(self.keep) if self.keep else ()
        return kept if self.speedup is None else (*kept, Budget.speedup(self.speedup))

    @property
    def effort(self) -> Effort | None:
        """`recover`, read; None where nothing is trained."""
        return None if self.recover == NO_EFFORT else Effort.parse(self.recover)

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes at which a budget of latency must hold."""
        return (1,) if self.batch is None else (1, self.batch)

    @property
    def searches(self) -> bool:
        """Whether `max_drop` alone says what to remove."""
        return self.max_drop is not None and not self._names_units and not self.budgets

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some parameters changed, checked again; raises ParameterError."""
        return Recipe(**{**self.model_dump(exclude_unset=True), **changes})

    def to_yaml(self) -> str:
        """Every parameter that has a value, defaults included, in the order of the documentation."""
        fields = self.model_dump(mode="json", exclude_none=True)
        if not self.drop:
            del fields["drop"]
        return yaml.safe_dump({**fields, "keep": fields["keep"] or "none"}, sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> None:
        """Write `to_yaml` to a file."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")

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
        """The inverse of `to_yaml`; raises ParameterError with one line that says `name`."""
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
            return cls(**(_upgraded(named) if version == 1 else named))
        except ParameterError as error:
            raise ParameterError(error.parameter, name, error.must, error.got, error.hint) from None


def _upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a recipe of version 1, whose bare percentages counted neurons and which trained only where it was told to."""
    named = ("speedup", "layers", "drop", "vocabulary", "plan", "frontier")
    searched = "max_drop" in values and values.get("method") != "dalvi2020"
    keep = values.get("keep", None if searched or any(name in values for name in named) else "10%")
    texts = [keep] if isinstance(keep, str) else keep
    if isinstance(texts, list):
        texts = [f"{text.strip()} neurons" if isinstance(text, str) and _PERCENT.fullmatch(text) else text for text in texts]
    return {"recover": NO_EFFORT, **values, "version": VERSION, **({} if keep is None else {"keep": texts})}


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
