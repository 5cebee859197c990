"""The result of a run as one frozen value; the report in its three formats only prints it.

Shares are kept as shares (0.1, not 10) and sizes in their base units; every field states its unit, and so does whatever prints it.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, ValidationError

from prunekit.budget import Unit
from prunekit.errors import DataError
from prunekit.metrics import Metric
from prunekit.report.base import Frozen, Reference, RowName
from prunekit.report.embedder import Nearness, Retrieved, Shortened
from prunekit.runtime.records import Comparison, Environment, Parity, WeightError
from prunekit.tasks import TaskKind
from prunekit.validation.dtypes import Dtype
from prunekit.validation.reading import ReadError, parse_json

VERSION = 1


class Row(Frozen):
    """One classifier's score on the test split.

    Attributes
    ----------
    name : {"dense", "oracle", "dense-low", "slim", "slim-low", "untrained", "random", "magnitude", "bag", "tuned"}
        The dense model with its own head; a probe on all its neurons; whichever of the two exists, in lower precision; the slim
        model, in float32 and in lower precision; the slim model before training, where it was trained; as many neurons, or heads and
        FFN neurons under the same budgets, drawn at random or largest in magnitude; logistic regression on the TF-IDF of the words;
        and a dense model that came without a head, trained for as long as the slim one.
    value : float
        Value of the report's metric.
    low, high : float
        95% confidence interval over the draw of the rows.
    n : int
        Rows (words of a token task) that were scored.
    neurons : int or None
        Neurons that the classifier reads; None for a bag of words.
    words : float or None
        Accuracy on the words, where the metric counts entities.
    beside : {Metric: float}
        Other metrics of the same predictions.
    intervals : {Metric: (float, float)}
        95% confidence intervals of these.
    divergence : float or None
        Divergence from the dense model, in nats (of values: mean squared difference as a share of their variance), where there are
        no labels.
    trained : bool
        Whether a baseline was trained as the slim model was.
    draws : tuple of float
        Metric of each of several draws or trainings of a baseline, of which the row is the median.
    """

    name: RowName
    value: float
    low: float
    high: float
    n: int
    neurons: int | None
    words: float | None = None
    beside: dict[Metric, float] = Field(default_factory=dict)
    intervals: dict[Metric, tuple[float, float]] = Field(default_factory=dict)
    divergence: float | None = None
    trained: bool = False
    draws: tuple[float, ...] = ()


class Paired(Frozen):
    """Comparison of two classifiers on the same rows of the test split.

    Attributes
    ----------
    name, against : str
        Rows of the report.
    by : {"share", "difference"}
        Metric of `name` divided by that of `against`, or minus that of `against`.
    value, low, high : float
        Share or difference, with its paired 95% confidence interval over the draw of the rows.
    metric : Metric or None
        Metric that is compared; None: the report's.
    """

    name: RowName
    against: RowName
    by: Literal["share", "difference"]
    value: float
    low: float
    high: float
    metric: Metric | None = None

    @property
    def differs(self) -> bool:
        """Whether the interval excludes equality."""
        same = 1.0 if self.by == "share" else 0.0
        return self.low > same or self.high < same


class Sizes(Frozen):
    """Costs of one model.

    Attributes
    ----------
    neurons : int
        Neurons read by the classifier; of the dense model, all (layer, dimension) pairs.
    layers : int
        Blocks.
    params : int
        All parameters.
    params_layers : int
        Parameters of the blocks: without embeddings, pooler and head.
    macs : float
        Mean multiply-accumulates for a row, at the data's real lengths.
    bytes : int
        Size of the ONNX file, with its external data.
    """

    neurons: int
    layers: int
    params: int
    params_layers: int
    macs: float
    bytes: int


class Block(Frozen):
    """Units left in one block of the dense model.

    Attributes
    ----------
    heads, all_heads : int
        Attention units that can be removed one by one.
    ffn, all_ffn : int
        FFN neurons.
    """

    heads: int
    all_heads: int
    ffn: int
    all_ffn: int


class DeployedFile(Frozen):
    """An ONNX file.

    Attributes
    ----------
    path : str or None
        Path in the artefact's directory; None for a file that was measured and not kept.
    of : {"slim", "dense"}
        The model.
    dtype : {"fp32", "fp16", "int8", "int8-static"}
    bytes : int
        Size with external data.
    value, low, high : float or None
        The metric on the test split, measured on this file, and its 95% confidence interval; None without data.
    agreement : float or None
        Share of the test split's predictions that are those of the same model in fp32; None for values and without data.
    error : float or None
        Mean squared difference of the outputs to those in fp32, as a share of their variance.
    weights : tuple of WeightError
        Error of quantising each weight alone, largest first, and which weights were therefore kept in fp32.
    """

    path: str | None = None
    of: Literal["slim", "dense"] = "slim"
    dtype: Dtype
    bytes: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    agreement: float | None = None
    error: float | None = None
    weights: tuple[WeightError, ...] = ()

    @property
    def timing(self) -> str:
        """Name of the file in comparisons of latency."""
        return self.of if self.dtype == "fp32" else f"{self.of} {self.dtype}"

    @property
    def flips(self) -> float | None:
        """Share of the test split's predictions that differ from those in fp32; None for values and without data."""
        return None if self.agreement is None else 1 - self.agreement


class BudgetResult(Frozen):
    """A budget and the value reached.

    Attributes
    ----------
    asked : str
        As the user wrote it: "10% neurons".
    unit : Unit
    limit, reached : float
        Shares of the dense model, or bytes.
    dtype : {"fp32", "fp16", "int8", "int8-static"}
        Type of the file that a budget of bytes or of latency bounds.
    """

    asked: str
    unit: Unit
    limit: float
    reached: float
    dtype: Dtype = "fp32"

    @property
    def file(self) -> str:
        """What was asked, and of which file, where that is not the one in fp32."""
        return self.asked if self.dtype == "fp32" else f"{self.asked} in {self.dtype}"

    @property
    def met(self) -> bool:
        """Whether the value reached is within the limit."""
        return self.reached <= self.limit * (1 + 1e-9)


class Point(Frozen):
    """One step of the search.

    Attributes
    ----------
    neurons : int
        Neurons that the classifier reads.
    value : float
        The metric on the validation split.
    """

    neurons: int
    value: float


class FrontierPoint(Frozen):
    """An alternative slim model.

    Attributes
    ----------
    name : str
        Name of its plan file, or "dense".
    value : float
        The metric on the validation split.
    params : float
        Parameters of the layers, a share of the dense model's.
    speed, low, high : float
        Speed relative to dense at batch 1, with a 95% interval.
    """

    name: str
    value: float
    params: float
    speed: float
    low: float
    high: float


class Report(Frozen):
    """Result of a run.

    Attributes
    ----------
    version : int
        Version of this schema.
    model, data : str
        As the user named them.
    kind : TaskKind
    metric : Metric
    classes : int
        0 for a regression.
    labelled : bool
        Whether there were labels; if not, the dense model's predictions replaced them, and metrics are agreement with these.
    rows : tuple of Row
        "slim" is always there; "dense" where the model came fine-tuned.
    paired : tuple of Paired
        Comparisons of rows.
    dense, slim : Sizes
    blocks : tuple of Block
        Units left in each block of the dense model; empty where nothing was removed from any block.
    files : tuple of DeployedFile
        The slim model's ONNX files, the one in fp32 first.
    rivals : tuple of DeployedFile
        The dense model's files, in the same precisions.
    mean_length : float
        Tokens of a row on average, special tokens included.
    latency : tuple of Comparison
        One for each batch size; baseline "dense", candidate "slim" and, where there are any, "slim int8" and "dense int8".
    parity : Parity
        Parity of the deployed file.
    plan_digest : str
    budgets : tuple of BudgetResult
    max_drop : float or None
        Largest relative loss on held-out rows that was allowed, a share.
    trace : tuple of Point
        The metric on the validation split against the number of neurons, as measured during the search.
    frontier : tuple of FrontierPoint
        The dense model and slim ones of several speeds, from slow to fast, where requested.
    vectors : tuple of Nearness
        Similarity to the dense vectors, of an embedder.
    retrieval : tuple of Retrieved
        Retrieval quality of an embedder, where there were queries, a corpus and relevance judgements.
    dimensions : tuple of Shortened
        Quality of an embedder with fewer dimensions.
    notes : tuple of str
        Decisions taken during the run: splits, truncation, ...
    stages : dict
        {stage: seconds}.
    seed : int
    environment : Environment
    """

    version: Literal[1] = 1
    model: str
    data: str
    kind: TaskKind
    metric: Metric
    classes: int
    labelled: bool = True
    rows: tuple[Row, ...]
    paired: tuple[Paired, ...] = ()
    dense: Sizes
    slim: Sizes
    blocks: tuple[Block, ...] = ()
    files: tuple[DeployedFile, ...] = ()
    rivals: tuple[DeployedFile, ...] = ()
    mean_length: float
    latency: tuple[Comparison, ...] = ()
    parity: Parity
    plan_digest: str
    budgets: tuple[BudgetResult, ...] = ()
    max_drop: float | None = None
    trace: tuple[Point, ...] = ()
    frontier: tuple[FrontierPoint, ...] = ()
    vectors: tuple[Nearness, ...] = ()
    retrieval: tuple[Retrieved, ...] = ()
    dimensions: tuple[Shortened, ...] = ()
    notes: tuple[str, ...] = ()
    stages: dict[str, float] = Field(default_factory=dict)
    seed: int
    environment: Environment

    def row(self, name: RowName) -> Row | None:
        """Return the row of that name, or None if it was not measured."""
        return next((row for row in self.rows if row.name == name), None)

    def pair(self, name: RowName, against: RowName) -> Paired | None:
        """Return the comparison of two rows by the report's metric, or None if they were not compared."""
        return next((pair for pair in self.paired if (pair.name, pair.against, pair.metric) == (name, against, None)), None)

    @property
    def low(self) -> DeployedFile | None:
        """The slim model's file in lower precision, where there is one."""
        return next((file for file in self.files if file.dtype != "fp32"), None)

    @property
    def dense_low(self) -> DeployedFile | None:
        """The dense model's file in lower precision, where there is one."""
        return next((file for file in self.rivals if file.dtype != "fp32"), None)

    def retained(self, name: RowName, of: Reference) -> float | None:
        """Return a row's metric as a share of the dense model's, or of the oracle's.

        None where one of the two was not measured, or where the reference is not above 0, so that a share is meaningless.
        """
        row, reference = self.row(name), self.row(of)
        if row is None or reference is None or reference.value <= 0:
            return None
        return row.value / reference.value

    @property
    def verdict(self) -> str:
        """Gain and loss in one sentence, or the reason not to ship."""
        # That module imports this one.
        from prunekit.report.verdict import verdict

        return verdict(self)

    def to_json(self) -> str:
        """Return indented JSON; `verdict` comes first, and `derived` adds quantities that follow from the rest."""
        derived = {
            "retained_of_dense": self.retained("slim", "dense"),
            "retained_of_oracle": self.retained("slim", "oracle"),
            "kept": {name: getattr(self.slim, name) / getattr(self.dense, name) for name in Sizes.model_fields},
            "budgets_met": all(budget.met for budget in self.budgets),
        }
        return json.dumps({"verdict": self.verdict, **self.model_dump(mode="json"), "derived": derived}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, name: str = "report") -> Report:
        """Read a report; raise DataError with the reason in one line where it is invalid."""
        try:
            fields: Any = parse_json(text)
        except ReadError as error:
            raise DataError(f"{name} cannot be read: {error}") from None
        if not isinstance(fields, dict):
            raise DataError(f"{name} must be a JSON object. Got {type(fields).__name__} instead.")
        for name_of_derived in ("derived", "verdict"):
            fields.pop(name_of_derived, None)
        version = fields.get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise DataError(f"{name} has version {version}; this prunekit reads up to {VERSION}. Upgrade prunekit.")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(f"{name} is not a valid report: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
