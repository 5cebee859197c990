"""The metrics by name: what reports call them, their unit, and what they compare. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Need = Literal["variation", "entities", "labels"]


class Metric(StrEnum):
    """Metrics, higher is better."""

    ACCURACY = "accuracy"
    F1 = "f1"  # macro-averaged
    MATTHEWS = "matthews"
    PEARSON = "pearson"
    SPEARMAN = "spearman"
    COSINE = "cosine"  # mean over the rows, to the dense model's vectors
    ENTITY_F1 = "entity-f1"  # micro-averaged over the entities of BIO, BILOU or IOBES tags
    AGREEMENT = "agreement"  # with the predictions of the dense model, where there are no labels
    NDCG = "ndcg@10"  # of the rows of each query
    MRR = "mrr"
    MAP = "map"
    MICRO_F1 = "micro-f1"  # over the labels of rows that have any number of them
    ANSWER_F1 = "answer-f1"  # of the words of an answer, as SQuAD counts
    EXACT_MATCH = "exact-match"

    @property
    def label(self) -> str:
        """Name in reports: "macro F1"."""
        return _TRAITS[self].label

    @property
    def percent(self) -> bool:
        """Whether it is a fraction that reads as a percentage; correlations do not."""
        return _TRAITS[self].percent

    @property
    def unit(self) -> str:
        """A percent sign, or nothing."""
        return "%" if self.percent else ""

    @property
    def of_values(self) -> bool:
        """Whether it compares values, of a regression, rather than classes."""
        return _TRAITS[self].of_values

    @property
    def needs(self) -> Need | None:
        """What the labels must have for it to have a value: more than one value, an entity, or a label in some row."""
        return _TRAITS[self].needs

    def show(self, value: float) -> str:
        """Format a value, or a difference of two, without its unit."""
        return f"{100 * value:.1f}" if self.percent else f"{value:.3f}"

    def formatted(self, value: float) -> str:
        """Format a value with its unit."""
        return self.show(value) + self.unit


@dataclass(frozen=True)
class _Traits:
    label: str
    percent: bool
    of_values: bool = False
    needs: Need | None = None


_TRAITS = {
    Metric.ACCURACY: _Traits("accuracy", percent=True),
    Metric.F1: _Traits("macro F1", percent=True),
    Metric.MATTHEWS: _Traits("Matthews r", percent=False, needs="variation"),
    Metric.PEARSON: _Traits("Pearson r", percent=False, of_values=True, needs="variation"),
    Metric.SPEARMAN: _Traits("Spearman r", percent=False, of_values=True, needs="variation"),
    Metric.COSINE: _Traits("cosine to dense", percent=False),
    Metric.ENTITY_F1: _Traits("entity F1", percent=True, needs="entities"),
    Metric.MICRO_F1: _Traits("micro F1", percent=True, needs="labels"),
    Metric.NDCG: _Traits("nDCG@10", percent=True),
    Metric.MRR: _Traits("MRR", percent=True),
    Metric.MAP: _Traits("MAP", percent=True),
    Metric.AGREEMENT: _Traits("agreement with dense", percent=True),
    Metric.ANSWER_F1: _Traits("answer F1", percent=True),
    Metric.EXACT_MATCH: _Traits("exact match", percent=True),
}
