from __future__ import annotations

import pickle

import numpy as np
import pytest

from prunekit.errors import BudgetError, StatisticsError
from prunekit.pipeline.drop import Drop
from prunekit.pipeline.max_drop import NoneHoldsError, sizes, smallest
from prunekit.pruning import iterative
from prunekit.pruning.costs import Goal, Params
from prunekit.pruning.iterative import Criterion, IterativePruner
from tests.models import batch_of, build


@pytest.fixture
def start() -> IterativePruner:
    return IterativePruner(build("bert", "ForSequenceClassification"), [batch_of(12, seed=seed) for seed in range(2)])


def full(start: IterativePruner) -> Goal:
    return Goal(Params(), float(start.start.params_layers), float(start.start.params_layers), "--max-drop")


def loses(start: IterativePruner, at: float, tried: list[float]) -> object:
    """A model that loses nothing down to a share, and much below it."""

    def lose(candidate: IterativePruner) -> Drop:
        tried.append(Params().of(candidate.view) / start.start.params_layers)
        value = 0.0 if tried[-1] >= at else 0.5
        return Drop(0.9, 0.9 * (1 - value), value, value)

    return lose


@pytest.mark.parametrize("at", [0.7, 0.5, 0.3])
def test_it_goes_down_to_the_last_size_of_the_grid_that_holds(start: IterativePruner, at: float) -> None:
    shares: list[float] = []
    found, tried = smallest(start, full(start), loses(start, at, shares), 0.01)  # type: ignore[arg-type]
    reached = Params().of(found.view) / start.start.params_layers
    assert at <= reached
    # One step of 0.8, and the size of a unit.
    assert reached * 0.8 * 0.95 <= at
    # Nothing is tried after the first that fails: the bound would no longer hold for what is taken.
    assert len(tried) == len(shares)
    assert [share >= at for share in shares] == [*[True] * (len(shares) - 1), False]
    # The dense model is where it was.
    assert Params().of(start.view) == start.start.params_layers


def test_sizes_go_on_to_the_smallest_that_can_be_reached(start: IterativePruner) -> None:
    least = start.least(Params()) / start.start.params_layers
    found, tried = smallest(start, full(start), loses(start, 0.0, []), 0.01)  # type: ignore[arg-type]
    assert len(tried) == len(sizes(least))
    assert Params().of(found.view) / start.start.params_layers <= least / 0.8
    assert sizes(0.02)[-1] < 0.025
    assert sizes(0.9) == ()


def test_where_nothing_holds_the_nearest_is_named(start: IterativePruner) -> None:
    def lose(candidate: IterativePruner) -> Drop:
        share = Params().of(candidate.view) / start.start.params_layers
        return Drop(0.9, 0.8, 0.3 - 0.2 * share, 0.31 - 0.2 * share)

    with pytest.raises(
        BudgetError, match=r"--max-drop 1.00% cannot be met by a smaller model; the nearest: (7\d|80)\.\d% of the params loses"
    ):
        smallest(start, full(start), lose, 0.01)


def test_an_error_that_names_the_nearest_crosses_processes() -> None:
    copied = pickle.loads(pickle.dumps(NoneHoldsError("not met", None)))
    assert (type(copied), str(copied), copied.nearest) == (NoneHoldsError, "not met", None)


def test_what_cannot_be_solved_or_judged_counts_as_failing(start: IterativePruner) -> None:
    def lose(candidate: IterativePruner) -> Drop:
        if Params().of(candidate.view) < 0.5 * start.start.params_layers:
            raise StatisticsError("3 of 10 rows of the outputs hold NaN.")
        return Drop(0.9, 0.9, 0.0, 0.0)

    found, tried = smallest(start, full(start), lose, 0.01)
    assert 0.5 <= Params().of(found.view) / start.start.params_layers < 0.6
    broken = [str(one) for one in tried if one.drop is None]
    assert broken
    assert "41.0% of the params counts as failing: 3 of 10 rows of the outputs hold NaN." in broken


def test_where_nothing_can_be_judged_that_is_the_error(start: IterativePruner) -> None:
    def lose(candidate: IterativePruner) -> Drop:
        raise StatisticsError("10 of 10 rows of the outputs hold NaN.")

    with pytest.raises(StatisticsError, match=r"No candidate of the search for --max-drop 1.00% can be used; the last: .* 10 of 10 rows"):
        smallest(start, full(start), lose, 0.01)


def test_forks_share_what_was_recorded_and_nothing_else(start: IterativePruner) -> None:
    goal = full(start).at(0.6)
    one, other = start.fork(), start.fork()
    one.step([goal])
    assert Params().of(other.view) == start.start.params_layers
    other.step([goal])
    assert one.result().plan == other.result().plan
    weights = other.result().model.state_dict()
    assert all(np.array_equal(tensor, weights[name]) for name, tensor in one.result().model.state_dict().items())


@pytest.mark.parametrize("criterion", ["cost", "random", "magnitude"])
def test_what_the_task_feels_is_found_once_for_all_that_start_there(
    start: IterativePruner, criterion: Criterion, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = IterativePruner(start.dense.model, start.batches, criterion=criterion)
    alone.step([full(start).at(0.5)])
    found, calls = iterative.sensitivity, []
    monkeypatch.setattr(iterative, "sensitivity", lambda *given, **named: calls.append(named["seed"]) or found(*given, **named))
    start.fork().step([full(start).at(0.7)])
    twin = start.fork(criterion)
    twin.step([full(start).at(0.5)])
    assert calls == [1]
    assert twin.result().plan == alone.result().plan
    weights = twin.result().model.state_dict()
    assert all(np.array_equal(tensor, weights[name]) for name, tensor in alone.result().model.state_dict().items())
    # Further down it is another model.
    twin.step([full(start).at(0.4)])
    assert calls == [1, 2]
