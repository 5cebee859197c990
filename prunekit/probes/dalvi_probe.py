"""The probe of Dalvi et al. (2020), as trained by their released code (aux_classifier/utils.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from prunekit.errors import StatisticsError
from prunekit.probes.objective import RowSource

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
# Sizes of one name are equal in a call: m rows, d neurons, k outputs.
Labels = Shaped[NDArray[Any], " m"]
Weight = Float32[Singles, "k d"]
Bias = Float32[Singles, " k"]
Start = tuple[Weight, Bias]
Solution = tuple[Float64[Floats, "_ _"], Float64[Floats, " _"]]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # Adam as Kingma and Ba (2015) and torch.optim have it


@dataclass(frozen=True)
class DalviProbe:
    """One linear layer, trained by Adam on mini-batches taken in order.

    The loss of a batch is its mean cross-entropy (for a regression, the mean squared error) + l1 * sum |W| + l2 * |W|_F: the
    second norm is not squared, and the bias is free. Nothing is shuffled, standardised or stopped early.

    Attributes
    ----------
    outputs : int
        Classes, or 1 for a regression.
    l1, l2, lr : float
    epochs, batch : int
    seed : int
        Seed of the initial weights, uniform in +-1/sqrt(inputs), as in a new linear layer.
    """

    outputs: int
    l1: float = 1e-5
    l2: float = 1e-5
    lr: float = 1e-3
    epochs: int = 10
    batch: int = 128
    seed: int = 0

    def initial(self, width: int) -> Start:
        """Draw initial weights, (outputs, width), and bias, (outputs,)."""
        generator = np.random.default_rng(self.seed)
        bound = 1.0 / np.sqrt(width)
        weight = generator.uniform(-bound, bound, (self.outputs, width)).astype(np.float32)
        return weight, generator.uniform(-bound, bound, self.outputs).astype(np.float32)

    def fit(self, rows: RowSource, labels: Labels, widths: Sequence[int] | None = None, start: Start | None = None) -> list[Solution]:
        """Train one probe for each prefix of the columns, all in the same passes over the rows.

        Parameters
        ----------
        rows : RowSource
            (n, D) neurons.
        labels : (n,) int64 class ids, or float64 targets
        widths : sequence of int, optional
            Columns that each probe reads; by default one probe on all.
        start : (weight, bias), optional
            Initial weights of the single probe, instead of those of the seed.

        Returns
        -------
        list of (coef (outputs, width), intercept (outputs,)), float64

        Raises
        ------
        StatisticsError
            The training diverged.
        """
        prefixes = list(widths or [rows.shape[1]])
        assert start is None or len(prefixes) == 1
        state = _State([self.initial(width) if start is None else start for width in prefixes], self)
        # A batch is too small for several threads: synchronising them would take longer than the work.
        with threadpool_limits(1):
            for _ in range(self.epochs):
                for first, chunk in rows.chunks(self.batch * max(1, 2**21 // (self.batch * max(1, rows.shape[1])))):
                    for at in range(0, len(chunk), self.batch):
                        x = np.asarray(chunk[at : at + self.batch], dtype=np.float32)
                        state.step(x, labels[first + at : first + at + len(x)])
        return state.solutions()


class _State:
    """Weights of all probes in one flat vector, so that Adam is one vector operation."""

    def __init__(self, starts: Sequence[tuple[Float32[Singles, "k _"], Float32[Singles, " k"]]], probe: DalviProbe) -> None:
        self._probe = probe
        self._theta = np.concatenate([np.concatenate([weight.ravel(), bias]) for weight, bias in starts])
        self._gradient, self._first, self._second = (np.zeros_like(self._theta) for _ in range(3))
        self._scratch = np.empty_like(self._theta)
        # Weight, bias, and the gradients of both.
        self._views: list[tuple[Weight, Bias, Weight, Bias]] = []
        at = 0
        for weight, bias in starts:
            middle, stop = at + weight.size, at + weight.size + bias.size
            self._views.append(
                (
                    self._theta[at:middle].reshape(weight.shape),
                    self._theta[middle:stop],
                    self._gradient[at:middle].reshape(weight.shape),
                    self._gradient[middle:stop],
                )
            )
            at = stop
        self._steps = 0

    def step(self, x: Float32[Singles, "m d"], labels: Labels) -> None:
        """Train on one mini-batch."""
        probe = self._probe
        for weight, bias, weight_gradient, bias_gradient in self._views:
            view = x[:, : weight.shape[1]]
            if len(weight) == 2:
                # The gradients of two classes are opposite: one product with the rows in each direction, not two.
                residuals = _binary_residuals(view @ (weight[1] - weight[0]) + (bias[1] - bias[0]), labels)
                np.matmul(residuals[:, 1], view, out=weight_gradient[1])
                np.negative(weight_gradient[1], out=weight_gradient[0])
            else:
                residuals = _residuals(view @ weight.T + bias, labels)
                np.matmul(residuals.T, view, out=weight_gradient)
            weight_gradient += np.float32(probe.l1) * np.sign(weight)
            norm = np.sqrt(np.vdot(weight, weight))
            if norm > 0:
                weight_gradient += np.float32(probe.l2 / norm) * weight
            residuals.sum(axis=0, out=bias_gradient)
        self._adam()

    def _adam(self) -> None:
        self._steps += 1
        gradient, scratch = self._gradient, self._scratch
        self._first += np.float32(1 - _BETA1) * (gradient - self._first)
        np.square(gradient, out=scratch)
        self._second *= np.float32(_BETA2)
        self._second += np.float32(1 - _BETA2) * scratch
        np.sqrt(self._second, out=scratch)
        scratch *= np.float32(1.0 / np.sqrt(1.0 - _BETA2**self._steps))
        scratch += np.float32(_EPSILON)
        np.divide(self._first, scratch, out=scratch)
        scratch *= np.float32(self._probe.lr / (1.0 - _BETA1**self._steps))
        self._theta -= scratch

    def solutions(self) -> list[Solution]:
        """Return weights and biases of all probes."""
        if not np.isfinite(self._theta).all():
            raise StatisticsError("The training of the probe diverged: the neurons are too large for its learning rate.")
        return [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias, _, _ in self._views]


def _residuals(scores: Float32[Singles, "m k"], labels: Labels) -> Float32[Singles, "m k"]:
    """Return the gradient of the mean loss with respect to the scores, (m, K)."""
    m = len(labels)
    if scores.shape[1] == 1:
        return np.asarray(2.0 / m * (scores - labels[:, None]), dtype=np.float32)
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    scores[np.arange(m), labels] -= 1.0
    scores /= np.float32(m)
    return scores


def _binary_residuals(margins: Float32[Singles, " m"], labels: Labels) -> Float32[Singles, "m 2"]:
    """Return the same for two classes, (m, 2), from the difference of their scores, (m,)."""
    second = (0.5 * (1.0 + np.tanh(0.5 * margins)) - labels) / len(labels)
    return np.stack([-second, second], axis=1).astype(np.float32)
