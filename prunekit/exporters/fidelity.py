"""Fidelity of one ONNX file's outputs to those of another, on the same batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import StatisticsError
from prunekit.runtime.records import Fidelity
from prunekit.runtime.session import OnnxSession

Feeds = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Replies:
    """Outputs of a file.

    Attributes
    ----------
    values : {output: ndarray of shape (n,)}
        Every number of every output, of real tokens only where there is one row for each token.
    choices : ndarray of shape (k,), int64, or None
        Class of each row or token, or the positions where an answer starts and ends; None where outputs are only numbers.
    """

    values: Mapping[str, NDArray[np.float64]]
    choices: NDArray[np.int64] | None


def replies(session: OnnxSession, batches: Iterable[Feeds]) -> Replies:
    """Run a file over batches of int64 arrays of shape (b, L), `attention_mask` among them.

    Raises
    ------
    StatisticsError
        If an output is not finite.
    ModelError
        If the file cannot be run.
    """
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in session.outputs}
    choices: list[NDArray[np.int64]] = []
    for feeds in batches:
        mask = feeds["attention_mask"].astype(bool)
        for name, output in session(feeds).items():
            tokens = name in session.per_token
            real = (output[mask] if tokens else output).astype(np.float64)
            if not np.isfinite(real).all():
                raise StatisticsError(f"The output {name!r} of {session.path.name!r} has NaN or infinity.")
            values[name].append(real.ravel())
            if tokens and output.ndim == 2:
                choices.append(np.where(mask, output, -np.inf).argmax(axis=1))
            elif name == "logits" and output.shape[-1] > 1:
                choices.append(real.argmax(axis=-1))
    return Replies({name: np.concatenate(parts) for name, parts in values.items()}, np.concatenate(choices) if choices else None)


def fidelity(got: Replies, want: Replies) -> Fidelity:
    """Compare the outputs of two files on the same batches; `want` is the reference."""
    return _compared([(got, want)])


def fidelity_of(low: OnnxSession, plain: OnnxSession, batches: Iterable[Feeds]) -> Fidelity:
    """Compare two files batch by batch, so that memory does not grow with the rows; errors as `replies`."""
    return _compared((replies(low, [feeds]), replies(plain, [feeds])) for feeds in batches)


def _compared(parts: Iterable[tuple[Replies, Replies]]) -> Fidelity:
    """Compare the outputs of a file with the reference, part by part."""
    sums: dict[str, _Sums] = {}
    same = count = 0
    for got, want in parts:
        for name, reference in want.values.items():
            sums.setdefault(name, _Sums(float(reference.mean()) if len(reference) else 0.0)).add(got.values[name], reference)
        if got.choices is not None and want.choices is not None:
            same, count = same + int((got.choices == want.choices).sum()), count + len(want.choices)
    return Fidelity(error=float(np.mean([each.error for each in sums.values()])), agreement=same / count if count else None)


@dataclass
class _Sums:
    """Sums over the numbers of an output, from which variance and error follow; `centre` keeps the precision of the variance."""

    centre: float
    count: int = 0
    first: float = 0.0
    second: float = 0.0
    squared_error: float = 0.0

    def add(self, got: NDArray[np.float64], want: NDArray[np.float64]) -> None:
        moved = want - self.centre
        self.count += len(want)
        self.first += float(moved.sum())
        self.second += float(np.square(moved).sum())
        self.squared_error += float(np.square(got - want).sum())

    @property
    def error(self) -> float:
        """The mean squared error as a share of the variance; a constant output has none to divide by."""
        variance = max(self.second / self.count - (self.first / self.count) ** 2, 0.0)
        return self.squared_error / self.count / (variance if variance > 0 else 1.0)
