"""How far the answers of one ONNX file are from those of another, on the same batches."""

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
    """What a file answers.

    Attributes
    ----------
    values : {output: ndarray of shape (n,)}
        Every number of every output, of real tokens only where there is one row for each token.
    choices : ndarray of shape (k,), int64, or None
        The class of each row or token, or the place where an answer starts and ends; None where numbers are all there is.
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
        for name, found in session(feeds).items():
            tokens = name in session.per_token
            real = (found[mask] if tokens else found).astype(np.float64)
            if not np.isfinite(real).all():
                raise StatisticsError(f"The output {name!r} of {session.path.name!r} has NaN or infinity.")
            values[name].append(real.ravel())
            if tokens and found.ndim == 2:
                choices.append(np.where(mask, found, -np.inf).argmax(axis=1))
            elif name == "logits" and found.shape[-1] > 1:
                choices.append(real.argmax(axis=-1))
    return Replies({name: np.concatenate(parts) for name, parts in values.items()}, np.concatenate(choices) if choices else None)


def fidelity(got: Replies, want: Replies) -> Fidelity:
    """Compare what two files answered on the same batches; `want` is the reference."""
    errors = []
    for name, reference in want.values.items():
        spread = float(reference.var())
        apart = float(((got.values[name] - reference) ** 2).mean())
        # Outputs that never vary carry nothing that could be lost.
        errors.append(apart / spread if spread > 0 else apart)
    agreement = None
    if got.choices is not None and want.choices is not None:
        agreement = float((got.choices == want.choices).mean())
    return Fidelity(error=float(np.mean(errors)), agreement=agreement)
