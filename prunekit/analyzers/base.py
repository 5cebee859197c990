"""What an analyzer is: a name, what it needs, and a function from collected values to a frozen result.

An analyzer never sees a model. What takes a run of the model (rows, gradients, ablated models) is collected once, before,
for all analyzers that are asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from prunekit.analyzers.figures import Figure
from prunekit.plan import Source
from prunekit.probes.selection import Split
from prunekit.probes.trees import Sentence
from prunekit.stats.collected import Ablations, Collected, UnitScores
from prunekit.stats.cross import column_mean, column_squares
from prunekit.stats.moments import alive
from prunekit.stats.sample import Sample
from prunekit.tasks import Task

Ints = NDArray[np.int64]
#: Bytes that a co-moment may have to be held whole.
MEMORY = 2 * 2**30
#: Co-moments that probes and rankings hold at once, at most.
PROBES = 6


def comoment_bytes(width: int) -> int:
    """Bytes of the co-moment of so many neurons, float64."""
    return 8 * width**2


class Need(Enum):
    """What an analyzer reads, and what must be there for it to run."""

    ROWS = "rows"
    """`Subject.train`: the pooled neurons of every row, with the moments over [neurons | labels]."""
    VALIDATION = "validation"
    """`Subject.validation`: the same of the validation split."""
    TOKENS = "tokens"
    """`Subject.train.tokens`: a seeded sample of single tokens."""
    MOMENTS = "moments"
    """`Subject.train.moments` whole and in memory, a few times over. Where it takes more than `MEMORY` the analyzer cannot run."""
    TREES = "trees"
    """`Subject.trees`: a token task's dependency trees. Without columns head and deprel the analyzer cannot run."""
    COMPARE = "compare"
    """`Inputs.base`: a second model on the same rows. Without --compare the analyzer cannot run."""
    SAME_TOKENS = "same tokens"
    """The second model splits the text into the same tokens."""
    UNITS = "units"
    """`Inputs.units`: what every head and FFN neuron does; with labels where the model has a head for them."""
    ONE_LABEL = "one label"
    """Every row has one label. On rows with any number of labels the analyzer cannot run."""
    ABLATIONS = "ablations"
    """`Inputs.ablations`: what the model's own head answers without parts of the model. It must have one."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One model on the task's rows.

    Attributes
    ----------
    name : str
        How the model was given.
    source : Source
        Its shape: D = (layers + 1) * hidden neurons, layer after layer, layer 0 the embedding output.
    train : Collected
        (n, D) pooled rows in random order, their labels, the moments over [neurons | labels], and a sample of single tokens.
    validation : Collected or None
        The same of the validation split, where an analyzer needs it.
    trees : (sentences of train, sentences of validation) or None
        Dependency trees over the words that the rows are; sentences of which a word was lost are left out.
    """

    name: str
    source: Source
    train: Collected
    validation: Collected | None = None
    trees: tuple[tuple[Sentence, ...], tuple[Sentence, ...]] | None = None

    @property
    def layers(self) -> int:
        """Layers with the embedding output, L + 1."""
        return self.source.layers + 1

    @property
    def fits(self) -> bool:
        """Whether the co-moment is small enough to be held; where not, `train.moments` is better not asked for."""
        return comoment_bytes(self.train.rows.width) <= MEMORY

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """Neurons that say anything, (D,); see `Moments.alive`."""
        rows = self.train.rows
        if self.fits:
            return self.train.moments.alive(rows.width)
        mean = column_mean(rows)
        return alive(len(rows), mean, column_squares(rows, mean))

    def columns(self, layer: int) -> slice:
        """The neurons of a layer."""
        return slice(layer * self.source.hidden, (layer + 1) * self.source.hidden)


@dataclass(frozen=True, eq=False)
class Inputs:
    """All that was collected; what no analyzer needs, or what is not there, is None.

    Attributes
    ----------
    task : Task
    model : Subject
        The model that is analysed.
    base : Subject or None
        The model that it is compared with (before fine-tuning, or another seed), on the same rows.
    outside : (Sample, Sample) or None
        Tokens of text from elsewhere, by the model and by the base.
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


class Result(ABC):
    """What an analyzer found: a frozen dataclass of numbers, strings, tuples, mappings, arrays and other such dataclasses."""

    @abstractmethod
    def summary(self) -> tuple[str, ...]:
        """What it says about this model, one short line each; the first is the most important."""

    @abstractmethod
    def figures(self) -> tuple[Figure, ...]:
        """What a person should look at, each with its note."""

    @final
    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values; numbers that are not finite become null."""
        found = plain(self)
        assert isinstance(found, dict)
        return found


@final
@dataclass(frozen=True)
class Analyzer:
    """One entry of the registry.

    Attributes
    ----------
    name : str
        As `--analyzers` takes it.
    title : str
        Its heading on the page.
    needs : frozenset of Need
    run : callable
        Inputs -> Result; raises StatisticsError where the values are degenerate.
    """

    name: str
    title: str
    needs: frozenset[Need]
    run: Callable[[Inputs], Result]


def plain(value: object) -> Any:
    """A value of a result as JSON knows it."""
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
    """Names of a model's layers: "emb", "1", ..., `count` of them."""
    return ("emb", *(str(layer) for layer in range(1, count)))


def splits_of(subject: Subject) -> tuple[Split, Split]:
    """Train and validation of a model whose analyzer needs both."""
    assert subject.validation is not None
    return _split_of(subject.train), _split_of(subject.validation)


def _split_of(found: Collected) -> Split:
    return Split(found.rows, found.labels, found.moments)
