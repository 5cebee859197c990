"""The head of a model, as its files describe it. No torch, no transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import ModelError
from prunekit.tasks import TaskKind

#: The `problem_type` of a head for rows with any number of labels.
MANY_LABELS = "multi_label_classification"
#: Suffixes of the names of the classes whose heads are kept.
TEXTS, TOKENS, QUESTIONS = "ForSequenceClassification", "ForTokenClassification", ("ForQuestionAnswering", "ForQuestionAnsweringSimple")
_OUTPUTS = 2  # default of a config without num_labels
#: The logit of a probability of 1: that of 1 - 1e-434.
_FAR = 1000.0


@dataclass(frozen=True)
class Stated:
    """Description of a model's head, or of its absence.

    Attributes
    ----------
    fine_tuned : bool
        Whether there is a head for sequence or token classification, or for question answering.
    per_token : bool
        Whether it reads each token.
    spans : bool
        Whether it answers questions by the start and the end of an answer.
    many_labels : bool
        Whether its rows have any number of labels.
    names : tuple of str
        Class names in the order of its outputs.
    """

    fine_tuned: bool = False
    per_token: bool = False
    spans: bool = False
    many_labels: bool = False
    names: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of the head's outputs; None for a bare body, and for a head that answers questions."""
        return self.names if self.fine_tuned and not self.spans else None

    @property
    def kind(self) -> TaskKind | None:
        """Task kind of the head; None for a bare body."""
        if not self.fine_tuned:
            return None
        if self.spans:
            return TaskKind.QUESTIONS
        if self.per_token:
            return TaskKind.TOKENS
        if self.many_labels:
            return TaskKind.LABELS
        return TaskKind.REGRESSION if len(self.names) == 1 else TaskKind.CLASSIFICATION


def head_named(names: Sequence[str]) -> str | None:
    """Return the suffix of the first class name with a supported head; None for a body."""
    return next((suffix for name in names for suffix in (TEXTS, TOKENS, *QUESTIONS) if name.endswith(suffix)), None)


def expected_labels(names: Sequence[str] | None, *, per_token: bool, tags: str | None) -> Sequence[str] | None:
    """Return the class names that a task's data is checked against.

    None where there are none: for a bare body, for the single output of a regression, and for a head that reads texts where a
    column of tags is named.
    """
    return names if len(names or ()) > 1 and (tags is None or per_token) else None


def stated_head(config: Mapping[str, Any]) -> Stated:
    """Return the head that a checked config.json describes; a loaded model may differ, since its class fills in missing fields."""
    head = head_named(config.get("architectures") or ())
    if head is None:
        return Stated()
    id2label = config.get("id2label")
    names = (
        {int(at): str(name) for at, name in id2label.items()} if id2label else dict.fromkeys(range(config.get("num_labels") or _OUTPUTS))
    )
    ordered = tuple(f"LABEL_{at}" if names[at] is None else str(names[at]) for at in sorted(names))
    return Stated(True, head == TOKENS, head in QUESTIONS, config.get("problem_type") == MANY_LABELS, ordered)


def read_thresholds(stored: object, width: int, where: str) -> NDArray[np.float64]:
    """Return thresholds as logits (width,), from the probabilities of a config in the order of the outputs; None is 0.5 for each.

    Raises
    ------
    ModelError
        Other than one number in [0, 1] for each label.
    """
    if stored is None:
        return np.zeros(width)
    shares = [value for value in stored if type(value) in (float, int) and 0 <= value <= 1] if isinstance(stored, list) else []
    if not isinstance(stored, list) or not len(shares) == len(stored) == width:
        raise ModelError(f"{where} has thresholds that are not {width} numbers from 0 to 1, one for each label.")
    from scipy.special import logit

    # 0 and 1 are predicted always and never; their logits are far beyond any model's, and finite.
    return np.clip(logit(np.array(shares, dtype=np.float64)), -_FAR, _FAR)
