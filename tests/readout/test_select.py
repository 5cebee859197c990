from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prunekit.analyzers.correlation import CorrelationClusters
from prunekit.errors import DataError, ParameterError, StatisticsError
from prunekit.metrics import Metric
from prunekit.probes.dalvi_probe import DalviProbe
from prunekit.probes.objective import decision
from prunekit.probes.selection import smallest
from prunekit.readout.baselines import random_neurons
from prunekit.readout.dalvi2020 import grid
from prunekit.readout.select import ReadoutChoice, fit_readout, select_readout
from prunekit.stats.collected import Collected
from prunekit.stats.moments import Moments
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task, TaskKind

LAYERS, HIDDEN = 3, 24
WIDTH = (LAYERS + 1) * HIDDEN


def task(outputs: int) -> Task:
    if outputs == 1:
        return Task(TaskKind.REGRESSION, Metric.PEARSON)
    return Task(TaskKind.CLASSIFICATION, Metric.ACCURACY, tuple("abcdef"[:outputs]))


def activations(n: int, outputs: int, seed: int, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Four layers of neurons that mix hidden factors; from layer 1 on they hold all factors that the label needs."""
    generator = np.random.default_rng(seed)
    factors = generator.normal(size=(n, 8))
    fixed = np.random.default_rng(99)
    parts = []
    for layer in range(LAYERS + 1):
        mixing = fixed.normal(size=(8, HIDDEN)) * (fixed.uniform(size=(8, HIDDEN)) < 0.3)
        if layer == 0:
            mixing[:3] = 0.0
        scale, shift = fixed.exponential(size=HIDDEN) + 0.2, fixed.normal(size=HIDDEN)
        parts.append((factors @ mixing + noise * generator.normal(size=(n, HIDDEN))) * scale + shift)
    scores = factors[:, :3] @ fixed.normal(size=(3, max(outputs, 1)))
    labels = scores[:, 0] if outputs == 1 else scores.argmax(axis=1)
    return np.hstack(parts).astype(np.float32), labels


def collected(n: int, outputs: int, seed: int = 0, directory: Path | None = None, dead: int | None = None, gain: float = 0.0) -> Collected:
    x, y = activations(n, outputs, seed)
    if dead is not None:
        x[:, dead] = 3.0 if gain == 0.0 else gain * x[:, dead]
    return Collected.of(RowStore.of(x, directory=directory, limit=0 if directory else 2**28), y, outputs)


def select(outputs: int = 3, **options: object) -> ReadoutChoice:
    given = {"task": task(outputs), "layers": LAYERS, "hidden": HIDDEN, "keep": 24, **options}
    return select_readout(collected(1500, outputs), collected(400, outputs, 1), **given)


def quality(choice: ReadoutChoice, outputs: int, ids: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> float:
    x, y = activations(2000, outputs, 2)
    scores = x[:, ids].astype(np.float64) @ coef.T + intercept
    return float(np.corrcoef(scores[:, 0], y)[0, 1]) if outputs == 1 else float((scores.argmax(axis=1) == y).mean())


@pytest.mark.parametrize("method", ["prunekit", "dalvi2020"])
@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_few_neurons_do_what_all_do(outputs: int, method: str) -> None:
    choice = select(outputs, method=method)
    oracle = quality(choice, outputs, np.arange(WIDTH), choice.oracle_coef, choice.oracle_intercept)
    slim = quality(choice, outputs, choice.ids, choice.coef, choice.intercept)
    # So few rows are too few steps for the paper's probe to get far.
    assert oracle > (0.8 if method == "prunekit" else 0.55)
    assert slim > (0.93 * oracle if method == "prunekit" else 0.25)
    assert 1 <= choice.size <= 24
    assert choice.coef.shape == (outputs, choice.size)
    assert choice.intercept.shape == (outputs,)
    assert (np.diff(choice.ids) > 0).all()
    assert set(choice.neurons) <= set(range(choice.layer + 1))
    assert choice.target_met == (choice.scores.chosen >= choice.target if method == "prunekit" else choice.scores.chosen > choice.target)
    assert len(choice.scores.layers) == LAYERS + 1
    assert set(choice.seconds) == {"oracle", "layers", "clusters", "ranking", "sizes"}


def test_the_scores_are_those_of_the_returned_probes() -> None:
    validation = collected(400, 3, 1)
    for method in ("prunekit", "dalvi2020"):
        choice = select(method=method)
        for value, ids, coef, intercept in (
            (choice.scores.oracle, np.arange(WIDTH), choice.oracle_coef, choice.oracle_intercept),
            (choice.scores.chosen, choice.ids, choice.coef, choice.intercept),
        ):
            found = decision(validation.rows.columns(ids), coef, intercept).argmax(axis=1)
            assert value == pytest.approx((found == validation.labels).mean())


def test_layer_zero_does_not_suffice_and_the_top_is_not_needed() -> None:
    choice = select()
    assert 1 <= choice.layer < LAYERS
    assert choice.scores.layers[0] < 0.9 * choice.scores.oracle


def increasing(scores: list[float]) -> list[float]:
    """Least-squares increasing fit by its minimax formula."""
    ends = range(len(scores))
    return [max(min(float(np.mean(scores[a : b + 1])) for b in ends if b >= i) for a in ends if a <= i) for i in ends]


def test_a_layer_above_the_floor_by_luck_is_not_chosen() -> None:
    """Neurons that say little: the scores of the layers go up and down with the few rows they are validated on."""
    lucky = 0
    for seed in range(8):
        generator = np.random.default_rng(seed)
        splits = []
        for n in (150, 60):
            labels = generator.integers(2, size=n)
            rows = generator.normal(size=(n, 7 * 4)) + 0.08 * labels[:, None]
            splits.append(Collected.of(RowStore.of(rows.astype(np.float32)), labels, 2))
        choice = select_readout(*splits, task=task(2), layers=6, hidden=4, keep=20, layer_delta=0.05, neuron_delta=0.9)
        scores = [*choice.scores.layers]
        floor = scores[-1] - 0.05 * abs(scores[-1])
        crossed = [i for i, value in enumerate(scores) if value >= floor]
        expected = [i for i in crossed if increasing(scores)[i] >= floor - 1e-12]
        assert choice.layer == (expected[0] if expected else 6)
        lucky += crossed[0] < choice.layer
    assert lucky > 0


def test_elimination_beats_random_neurons_and_the_paper() -> None:
    train, validation = collected(1500, 3), collected(400, 3, 1)
    options = {"task": task(3), "layers": LAYERS, "hidden": HIDDEN, "keep": 6, "layer_delta": 0.5, "neuron_delta": 0.0}
    ours = select_readout(train, validation, **options)
    theirs = select_readout(train, validation, method="dalvi2020", **options)
    slim = quality(ours, 3, ours.ids, ours.coef, ours.intercept)
    assert slim > quality(theirs, 3, theirs.ids, theirs.coef, theirs.intercept)
    for seed in range(3):
        ids = random_neurons(np.arange(WIDTH), ours.size, seed=seed)
        coef, intercept, _ = fit_readout(train, validation, ids, task=task(3))
        assert slim > quality(ours, 3, ids, coef, intercept)


@pytest.mark.parametrize("method", ["prunekit", "dalvi2020"])
def test_a_budget_that_is_too_small_is_recorded(method: str) -> None:
    choice = select(method=method, keep=2, neuron_delta=0.0)
    assert not choice.target_met
    assert choice.size <= 2
    assert choice.scores.chosen < choice.target


@pytest.mark.parametrize("method", ["prunekit", "dalvi2020"])
def test_the_choice_is_deterministic_and_reads_from_a_file_alike(method: str, tmp_path: Path) -> None:
    a = select(method=method)
    b = select_readout(
        collected(1500, 3, directory=tmp_path), collected(400, 3, 1), task=task(3), layers=LAYERS, hidden=HIDDEN, keep=24, method=method
    )
    assert a.neurons == b.neurons
    np.testing.assert_allclose(a.coef, b.coef, rtol=1e-6)
    assert a.trace == b.trace


@pytest.mark.parametrize("method", ["prunekit", "dalvi2020"])
@pytest.mark.parametrize("gain", [0.0, 1e-32])
def test_a_dead_neuron_is_never_selected(method: str, gain: float) -> None:
    choice = select_readout(
        collected(800, 3, dead=HIDDEN + 5, gain=gain),
        collected(300, 3, 1, dead=HIDDEN + 5, gain=gain),
        task=task(3),
        layers=LAYERS,
        hidden=HIDDEN,
        keep=WIDTH,
        method=method,
        threshold=0.0,
        neuron_delta=0.0,
        layer_delta=0.0,
    )
    assert HIDDEN + 5 not in choice.ids
    assert np.abs(choice.oracle_coef).max() < 1e4
    assert choice.size > 10


def test_the_paper_with_torch() -> None:
    """Layer selector, base, ranking and sizes again, with a probe written in torch and the papers' words as loops."""
    train, validation = collected(640, 3), collected(300, 3, 1)
    x, y = activations(640, 3, 0)
    dev, dev_y = activations(300, 3, 1)

    def trained(ids: np.ndarray) -> tuple[np.ndarray, float]:
        layer = torch.nn.Linear(len(ids), 3)
        weight, bias = DalviProbe(3, seed=5).initial(len(ids))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        inputs, targets = torch.from_numpy(x[:, ids]), torch.from_numpy(y)
        for _ in range(10):
            for at in range(0, len(x), 128):
                loss = torch.nn.functional.cross_entropy(layer(inputs[at : at + 128]), targets[at : at + 128])
                loss = loss + 1e-5 * layer.weight.abs().sum() + 1e-5 * torch.norm(layer.weight)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            predicted = layer(torch.from_numpy(dev[:, ids])).argmax(dim=1).numpy()
        return layer.weight.detach().numpy(), float((predicted == dev_y).mean())

    choice = select_readout(
        train, validation, task=task(3), layers=LAYERS, hidden=HIDDEN, keep=WIDTH, method="dalvi2020", seed=5, layer_delta=0.03
    )
    prefixes = [trained(np.arange((i + 1) * HIDDEN)) for i in range(LAYERS + 1)]
    np.testing.assert_allclose(choice.scores.layers, [value for _, value in prefixes], atol=1e-9)
    np.testing.assert_allclose(choice.oracle_coef, prefixes[-1][0], atol=1e-4)
    floor = prefixes[-1][1] * 0.97
    assert choice.layer == next((i for i, (_, value) in enumerate(prefixes) if value > floor), LAYERS)
    width = (choice.layer + 1) * HIDDEN
    kept = CorrelationClusters.from_moments(Moments.of(x[:, :width]), 0.3, "random", 5).representatives_
    assert choice.clusters == len(kept) < width
    weight, base = trained(kept)
    assert choice.scores.base == pytest.approx(base)
    order = kept[by_definition(weight)]
    trace = []
    for size in grid(WIDTH, len(kept)):
        coef, value = trained(order[:size])
        trace.append((size, value))
        if value > base * 0.99:
            break
    np.testing.assert_allclose(choice.trace, trace, atol=1e-9)
    assert choice.ids.tolist() == sorted(order[: trace[-1][0]].tolist())
    np.testing.assert_allclose(choice.coef, coef[:, np.argsort(order[: trace[-1][0]])], atol=1e-4)


def by_definition(weight: np.ndarray) -> list[int]:
    """The paper's ranking as loops; new neurons of one p by falling weight."""
    magnitude = np.abs(weight.astype(np.float64))
    order: list[int] = []
    for step in range(1001):
        union: set[int] = set()
        for row in magnitude:
            held = 0.0
            for neuron in np.argsort(-row):
                union.add(int(neuron))
                held += row[neuron]
                if held >= step / 1000 * row.sum():
                    break
        order += sorted(union - set(order), key=lambda n: -magnitude[:, n].max())
    return order


def test_the_coarse_grid() -> None:
    assert grid(9984, 9984)[:8] == [9, 19, 29, 39, 49, 99, 199, 299]
    assert grid(9984, 9984)[-4:] == [5990, 6988, 7987, 8985]
    assert grid(9984, 100) == [9, 19, 29, 39, 49, 99]
    assert grid(9984, 3) == [3]
    assert grid(100, 100)[:3] == [1, 2, 3]


def test_the_smallest_size_is_not_found_by_luck() -> None:
    assert smallest([1, 2, 4, 8], [0.1, 0.5, 0.9, 0.9], 0.8) == 2
    assert smallest([1, 2, 4, 8], [0.1, 0.81, 0.5, 0.9], 0.8) == 3
    assert smallest([8, 4, 2, 1], [0.9, 0.85, 0.5, 0.1], 0.8) == 1
    assert smallest([1, 2], [0.1, 0.2], 0.8) is None


def test_progress_names_the_stages() -> None:
    seen: list[tuple[str, int, int]] = []
    select(progress=lambda *at: seen.append(at))
    # Sizing may begin again, with more layers or for the last fit.
    assert list(dict.fromkeys(seen)) == [("oracle", 0, 5), ("layers", 1, 5), ("clusters", 2, 5), ("ranking", 3, 5), ("sizes", 4, 5)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("method", "best"), ("keep", 0), ("layer_delta", 1.0), ("neuron_delta", -0.1), ("threshold", 2.0)],
)
def test_parameters(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=name):
        select(**{name: value})


def test_what_cannot_be_selected_from() -> None:
    good, held = collected(200, 3), collected(100, 3, 1)
    same = Collected.of(good.rows, np.zeros(200, dtype=np.int64), 3)
    options = {"task": task(3), "layers": LAYERS, "hidden": HIDDEN, "keep": 5}
    with pytest.raises(StatisticsError, match="All training labels are equal"):
        select_readout(same, held, **options)
    with pytest.raises(StatisticsError, match="120 neurons"):
        select_readout(good, held, **{**options, "layers": LAYERS + 1})
    with pytest.raises(StatisticsError, match="The task has 2 outputs"):
        select_readout(good, held, **{**options, "task": task(2)})
    still = Collected.of(RowStore.of(np.ones((200, WIDTH))), good.labels, 3)
    with pytest.raises(StatisticsError, match="No neuron varies"):
        select_readout(still, held, **options)
    with pytest.raises(DataError, match=r"class ids 0\.\.1"):
        Collected.of(good.rows, good.labels, 2)
    x, y = activations(50, 3, 0)
    x[7, 9] = np.nan
    with pytest.raises(StatisticsError, match="Column 9 holds NaN"):
        Collected.of(RowStore.of(x), y, 3)


def test_a_class_that_never_occurs_in_training() -> None:
    train, validation = collected(600, 3), collected(200, 3, 1)
    wider = [Collected.of(split.rows, split.labels, 4) for split in (train, validation)]
    choice = select_readout(*wider, task=task(4), layers=LAYERS, hidden=HIDDEN, keep=20)
    assert choice.coef.shape[0] == 4
    assert (decision(validation.rows.columns(choice.ids), choice.coef, choice.intercept).argmax(axis=1) < 3).all()


def test_clusters_are_made_when_asked_for() -> None:
    free, clustered = select(), select(threshold=0.3)
    assert free.clusters == free.candidates == (free.layer + 1) * HIDDEN
    assert clustered.clusters < clustered.candidates
    kept = CorrelationClusters.from_moments(Moments.of(activations(1500, 3, 0)[0][:, : clustered.candidates]), 0.3).representatives_
    assert set(clustered.ids.tolist()) <= set(kept.tolist())
