"""What a model's files say of its head. No torch, no transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunekit.tasks import TaskKind

#: What a config calls a head for rows with any number of labels.
MANY_LABELS = "multi_label_classification"
#: The ends of the names of the classes whose heads are kept.
TEXTS, TOKENS, QUESTIONS = "ForSequenceClassification", "ForTokenClassification", ("ForQuestionAnswering", "ForQuestionAnsweringSimple")
_OUTPUTS = 2  # of a config that does not say how many


@dataclass(frozen=True)
class Stated:
    """A head, or none.

    Attributes
    ----------
    fine_tuned : bool
        Whether there is a head for sequence or token classification, or for question answering.
    per_token : bool
        Whether it reads each token.
    spans : bool
        Whether it answers questions by the places where an answer starts and ends.
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
        """What the head is for; None for a bare body."""
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
    """The end of the first class name that is a head prunekit works with; None for a body."""
    return next((suffix for name in names for suffix in (TEXTS, TOKENS, *QUESTIONS) if name.endswith(suffix)), None)


def expected_labels(names: Sequence[str] | None, *, per_token: bool, tags: str | None) -> Sequence[str] | None:
    """The class names that a task's data is held against.

    None where there are none: for a bare body, for the single output of a regression, and for a head that reads texts where a
    column of tags is named.
    """
    return names if len(names or ()) > 1 and (tags is None or per_token) else None


def stated_head(config: Mapping[str, Any]) -> Stated:
    """What a checked config.json says of the head; a loaded model may still say otherwise, as its class fills in what is not there."""
    head = head_named(config.get("architectures") or ())
    if head is None:
        return Stated()
    given = config.get("id2label")
    names = {int(at): str(name) for at, name in given.items()} if given else dict.fromkeys(range(config.get("num_labels") or _OUTPUTS))
    ordered = tuple(f"LABEL_{at}" if names[at] is None else str(names[at]) for at in sorted(names))
    return Stated(True, head == TOKENS, head in QUESTIONS, config.get("problem_type") == MANY_LABELS, ordered)
