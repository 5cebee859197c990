"""Interface of analyzers: a name, the required inputs, and a function from collected values to a frozen result.

An analyzer never sees a model. Whatever takes a run of the model (rows, gradients, ablated models) is collected once,
beforehand, for all requested analyzers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Int64
from numpy.typing import NDArray

from prunekit.analyzers.figures import Figure
from prunekit.plan import Source
from prunekit.probes.selection import Split
from prunekit.probes.trees import Sentence
from prunekit.stats.collected import Ablations, Collected, UnitScores
from prunekit.stats.cross import column_mean, column_squares
from prunekit.stats.moments import non_constant
from prunekit.stats.sample import Sample
from prunekit.tasks import Task

Ints = Int64[NDArray[np.int64], " _"]
#: Size of the largest co-moment that is held in memory, in bytes.
LARGEST_COMOMENT = 2 * 2**30
#: Most co-moments that probes and rankings hold at once.
PROBES = 6


def comoment_bytes(width: int) -> int:
    """Return the size of the float64 co-moment of `width` neurons, in bytes."""
    return 8 * width**2


class Need(Enum):
    """An input of an analyzer, and the condition under which the analyzer can run."""

    ROWS = "rows"
    """`Subject.train`: the pooled neurons of every row, with the moments over [neurons | labels]."""
    VALIDATION = "validation"
    """`Subject.validation`: the same for the validation split."""
    TOKENS = "tokens"
    """`Subject.train.tokens`: a seeded sample of single tokens."""
    MOMENTS = "moments"
    """`Subject.train.moments` in memory, several copies of it. Where one takes more than `LARGEST_COMOMENT` the analyzer cannot run."""
    TREES = "trees"
    """`Subject.trees`: a token task's dependency trees. Without columns head and deprel the analyzer cannot run."""
    COMPARE = "compare"
    """`Observations.base`: a second model on the same rows. Without --compare the analyzer cannot run."""
    SAME_TOKENS = "same tokens"
    """The second model splits the text into the same tokens."""
    UNITS = "units"
    """`Observations.units`: importance of every head and FFN neuron; with labels where the model has a head for them."""
    ONE_LABEL = "one label"
    """Every row has one label. On rows with any number of labels the analyzer cannot run."""
    ABLATIONS = "ablations"
    """`Observations.ablations`: outputs of the model's own head with parts of the model removed. The model must have a head."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One model on the task's rows.

    Attributes
    ----------
    name : str
        Name of the model, as the user entered it.
    source : Source
        Shape of the model: D = (layers + 1) * hidden neurons, layer after layer, layer 0 the embedding output.
    train : Collected
        (n, D) pooled rows in random order, their labels, the moments over [neurons | labels], and a sample of single tokens.
    validation : Collected or None
        The same for the validation split, where an analyzer needs it.
    trees : (sentences of train, sentences of validation) or None
        Dependency trees over the words, one row each; sentences with a lost word are left out.
    """

    name: str
    source: Source
    train: Collected
    validation: Collected | None = None
    trees: tuple[tuple[Sentence, ...], tuple[Sentence, ...]] | None = None

    @property
    def layers(self) -> int:
        """Number of layers with the embedding output, L + 1."""
        return self.source.layers + 1

    @property
    def fits(self) -> bool:
        """Whether the co-moment takes at most `LARGEST_COMOMENT`; where it takes more, avoid `train.moments`."""
        return comoment_bytes(self.train.rows.width) <= LARGEST_COMOMENT

    @cached_property
    def non_constant(self) -> Bool[NDArray[np.bool_], " d"]:
        """Mask of the non-constant neurons, (D,); see `Moments.non_constant`."""
        rows = self.train.rows
        if self.fits:
            return self.train.moments.non_constant(rows.width)
        mean = column_mean(rows)
        return non_constant(len(rows), mean, column_squares(rows, mean))

    def columns(self, layer: int) -> slice:
        """Return the slice of the neurons of a layer."""
        return slice(layer * self.source.hidden, (layer + 1) * self.source.hidden)


@dataclass(frozen=True, eq=False)
class Observations:
    """All collected values; None for those that no analyzer needs or that are not available.

    Attributes
    ----------
    task : Task
    model : Subject
        The model that is analysed.
    base : Subject or None
        The model that it is compared with (before fine-tuning, or another seed), on the same rows.
    outside : (Sample, Sample) or None
        Tokens of text outside the task, by the model and by the base.
    units : tuple of UnitScores or None
    ablations : Ablations or None
    seed : int
    types : ((n,), (m,)) int64 or None
        For a token task, the type of each word of train and of validation: the id of its first sub-word. None where a row is
        a text.
    """

    task: Task
    model: Subject
    base: Subject | None = None
    outside: tuple[Sample, Sample] | None = None
    units: tuple[UnitScores, ...] | None = None
    ablations: Ablations | None = None
    seed: int = 0
    types: tuple[Ints, Ints] | None = None


class AnalyzerResult(ABC):
    """Result of an analyzer: a frozen dataclass of numbers, strings, tuples, mappings, arrays and other such dataclasses."""

    @abstractmethod
    def summary(self) -> tuple[str, ...]:
        """Return the findings about this model, one short line each, the most important first."""

    @abstractmethod
    def figures(self) -> tuple[Figure, ...]:
        """Return the figures to look at, each with its note."""

    @final
    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain JSON values; numbers that are not finite become null."""
        values = plain(self)
        assert isinstance(values, dict)
        return values


@final
@dataclass(frozen=True)
class Analyzer:
    """One entry of the registry.

    Attributes
    ----------
    name : str
        Value of `--analyzers`.
    title : str
        Its heading on the page.
    needs : frozenset of Need
    run : callable
        Observations -> AnalyzerResult; raises StatisticsError where the values are degenerate.
    """

    name: str
    title: str
    needs: frozenset[Need]
    run: Callable[[Observations], AnalyzerResult]


def plain(value: object) -> Any:
    """Convert a value of a result to plain JSON values."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | str):
        return value
    return {field.name: plain(getattr(value, field.name)) for field in fields(value)}  # type: ignore[arg-type]  # is_dataclass holds


def layer_names(count: int) -> tuple[str, ...]:
    """Return the names of a model's layers: "emb", "1", ..., `count` of them."""
    return ("emb", *(str(layer) for layer in range(1, count)))


def splits_of(subject: Subject) -> tuple[Split, Split]:
    """Return train and validation of a model whose analyzer needs both."""
    assert subject.validation is not None
    return _split_of(subject.train), _split_of(subject.validation)


def _split_of(collected: Collected) -> Split:
    return Split(collected.rows, collected.labels, collected.moments)
