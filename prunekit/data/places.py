"""Places of a row that are read: the words of a token task, or where an answer to a question may start and end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.metrics.spans import NOWHERE

IntArray = NDArray[np.int64]

#: Tokens of the longest answer.
LONGEST = 30


@dataclass(frozen=True, eq=False)
class Words:
    """Words kept, flat over the rows: `places` within the unpadded row, `starts` (n + 1,) as offsets by row.

    Of all words, kept or not: `labels` (w,) and `offsets` (n + 1,); each word kept is `ids[i]`-th of its row.
    """

    places: NDArray[np.int32]
    starts: IntArray
    ids: NDArray[np.int32]
    labels: IntArray
    offsets: IntArray

    def take(self, rows: IntArray) -> Words:
        """Return the words of some rows, in the order given."""
        kept, every = ranges(self.starts[rows], self.starts[rows + 1]), ranges(self.offsets[rows], self.offsets[rows + 1])
        return Words(
            self.places[kept],
            offsets_of(np.diff(self.starts)[rows]),
            self.ids[kept],
            self.labels[every],
            offsets_of(np.diff(self.offsets)[rows]),
        )

    def every(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Expand outputs (m, C) of the words kept to outputs (w, C) of all; those of a word without a token are minus infinity."""
        expanded = np.full((len(self.labels), outputs.shape[1]), -np.inf, dtype=outputs.dtype)
        owner = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        expanded[self.offsets[owner] + self.ids] = outputs
        return expanded


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of the contexts of n questions, w in all, and the m places at which an answer may start or end, flat over the windows.

    Attributes
    ----------
    places : int32 ndarray of shape (m,)
        Within the unpadded window. The first of each window stands for no answer, the others are the tokens of the context.
    starts : int64 ndarray of shape (w + 1,)
        Where the places of each window begin.
    characters : int32 ndarray of shape (m, 2)
        Of the context: the first character of each token, and the one after its last.
    questions : int64 ndarray of shape (w,)
        The question of each window.
    references : object ndarray of shape (n,)
        `prunekit.metrics.spans.Reference` of each question.
    silent : bool
        Whether "no answer" is an answer.
    """

    places: NDArray[np.int32]
    starts: IntArray
    characters: NDArray[np.int32]
    questions: IntArray
    references: NDArray[np.object_]
    silent: bool

    def take(self, rows: IntArray) -> Windows:
        """Return some windows, in the order given, and their questions."""
        kept = ranges(self.starts[rows], self.starts[rows + 1])
        taken, questions = np.unique(self.questions[rows], return_inverse=True)
        return replace(
            self,
            places=self.places[kept],
            starts=offsets_of(np.diff(self.starts)[rows]),
            characters=self.characters[kept],
            questions=questions.astype(np.int64),
            references=self.references[taken],
        )

    def spans(self, outputs: NDArray[Any]) -> IntArray:
        """Return the answer to each question by the logits of its windows.

        It is the span of at most `LONGEST` tokens in one window with the largest sum of its logits, or none, where that is an answer and
        the sum of the two logits for it is larger in every window (Devlin et al. 2019).

        Parameters
        ----------
        outputs : ndarray of shape (m, 2)
            The logits that an answer starts and that it ends at each place.

        Returns
        -------
        int64 ndarray of shape (n, 2)
            As `prunekit.metrics.spans.judged_answers` takes them.
        """
        scores = np.asarray(outputs, dtype=np.float64)
        total, first = len(scores), self.starts[:-1]
        owner = np.repeat(np.arange(len(first)), np.diff(self.starts))
        is_first = np.zeros(total, dtype=bool)
        is_first[first] = True
        begin = np.where(is_first, -np.inf, scores[:, 0])
        best, until = np.full(total, -np.inf), np.zeros(total, dtype=np.int64)
        for length in range(min(LONGEST, total)):
            stop = total - length
            sums = np.where(owner[:stop] == owner[length:], begin[:stop] + scores[length:, 1], -np.inf)
            better = sums > best[:stop]
            best[:stop][better], until[:stop][better] = sums[better], np.flatnonzero(better) + length
        question_of = self.questions[owner]
        count = len(self.references)
        # Sorted by question, then by descending score; of equal scores the first.
        order = np.lexsort((np.arange(total), -best, question_of))
        top = order[np.searchsorted(question_of[order], np.arange(count))]
        answers = np.stack([self.characters[top, 0], self.characters[until[top], 1]], axis=1).astype(np.int64)
        unanswered = np.isneginf(best[top])
        if self.silent:
            least = np.full(count, np.inf)
            np.minimum.at(least, self.questions, scores[first].sum(axis=1))
            unanswered |= least > best[top]
        answers[unanswered] = NOWHERE
        return answers


def offsets_of(lengths: IntArray) -> IntArray:
    """Return where each of some consecutive parts begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def ranges(starts: IntArray, stops: IntArray) -> IntArray:
    """Concatenate the ranges [start, stop)."""
    lengths = stops - starts
    shifts: IntArray = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.arange(lengths.sum()) + shifts
