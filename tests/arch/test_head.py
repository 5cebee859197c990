from __future__ import annotations

import numpy as np
import pytest

from prunekit.arch.head import read_thresholds
from prunekit.errors import ModelError
from prunekit.metrics.label_sets import probabilities


@pytest.mark.parametrize("stored", [[0.5], [0.5, 1.5], [0.5, "a"], [0.5, True], [0.5, float("nan")], 0.5, {"a": 0.5}])
def test_thresholds_of_a_config_are_checked(stored: object) -> None:
    with pytest.raises(ModelError, match="not 2 numbers from 0 to 1"):
        read_thresholds(stored, 2, "The model 'm'")


def test_thresholds_come_back_as_they_were() -> None:
    cut = np.array([-3.0, 0.0, 2.5])
    np.testing.assert_allclose(read_thresholds(probabilities(cut).tolist(), 3, "m"), cut, atol=1e-12)
    assert np.array_equal(read_thresholds(None, 2, "m"), [0.0, 0.0])


def test_thresholds_of_0_and_1_are_always_and_never_passed() -> None:
    cut = read_thresholds([0.0, 1, 0.5], 3, "m")
    assert np.isfinite(cut).all()
    assert ((np.array([[-700.0, 700.0, 0.1]]) - cut) > 0).tolist() == [[True, False, True]]
    assert probabilities(cut).tolist() == [0.0, 1.0, 0.5]
