from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prunekit.errors import StatisticsError
from prunekit.probes.dalvi_probe import DalviProbe
from prunekit.stats.rows import RowStore


def reference(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, probe: DalviProbe) -> tuple[np.ndarray, np.ndarray]:
    """The training loop of the paper, written with torch."""
    layer = torch.nn.Linear(x.shape[1], probe.outputs)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    optimizer = torch.optim.Adam(layer.parameters(), lr=probe.lr)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(probe.epochs):
        for at in range(0, len(x), probe.batch):
            scores = layer(inputs[at : at + probe.batch])
            target = targets[at : at + probe.batch]
            if probe.outputs == 1:
                loss = torch.nn.functional.mse_loss(scores[:, 0], target.float())
            else:
                loss = torch.nn.functional.cross_entropy(scores, target)
            loss = loss + probe.l1 * layer.weight.abs().sum() + probe.l2 * torch.norm(layer.weight, 2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def data(outputs: int, n: int = 700, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(outputs)
    x = generator.normal(size=(n, width)).astype(np.float32)
    scores = x[:, :outputs] + generator.normal(size=(n, outputs))
    return x, scores[:, 0] if outputs == 1 else scores.argmax(axis=1)


@pytest.mark.parametrize("outputs", [1, 2, 5])
@pytest.mark.parametrize("penalty", [1e-5, 1e-2])
def test_the_training_is_that_of_torch(outputs: int, penalty: float) -> None:
    x, y = data(outputs)
    probe = DalviProbe(outputs, l1=penalty, l2=penalty, epochs=4)
    weight, bias = probe.initial(20)
    [(found, intercept)] = probe.fit(RowStore.of(x), y)
    expected, expected_bias = reference(x, y, weight, bias, probe)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(intercept, expected_bias, atol=1e-4)
    assert np.abs(found - weight).max() > 1e-2


def test_weights_that_start_at_zero() -> None:
    x, y = data(3)
    probe = DalviProbe(3, epochs=1)
    start = np.zeros((3, 20), dtype=np.float32), np.zeros(3, dtype=np.float32)
    [(found, _)] = probe.fit(RowStore.of(x), y, start=start)
    np.testing.assert_allclose(found, reference(x, y, *start, probe)[0], atol=1e-4)


def test_prefixes_are_trained_as_if_alone(tmp_path: Path) -> None:
    x, y = data(3)
    probe = DalviProbe(3, epochs=2)
    with RowStore.of(x, directory=tmp_path, limit=0) as rows:
        together = probe.fit(rows, y, [5, 20])
    for (coef, intercept), width in zip(together, (5, 20), strict=True):
        [(alone, bias)] = probe.fit(RowStore.of(x[:, :width]), y)
        np.testing.assert_allclose(coef, alone, atol=1e-6)
        np.testing.assert_allclose(intercept, bias, atol=1e-6)


def test_initial_weights_are_those_of_a_fresh_layer() -> None:
    weight, bias = DalviProbe(50, seed=1).initial(400)
    assert weight.shape == (50, 400)
    assert np.abs(weight).max() <= 1 / 20
    assert np.abs(bias).max() <= 1 / 20
    # A uniform in +-1/20 has a standard deviation of 1 / (20 sqrt(3)).
    assert weight.std() == pytest.approx(1 / (20 * np.sqrt(3)), rel=0.02)
    assert (DalviProbe(50, seed=2).initial(400)[0] != weight).any()


def test_divergence_stops() -> None:
    x, y = data(1)
    x[3, 3] = np.inf
    with pytest.raises(StatisticsError, match="diverged"), np.errstate(all="ignore"):
        DalviProbe(1, epochs=1).fit(RowStore.of(x), y)
