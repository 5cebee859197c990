"""Principal components of a co-moment, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from prunekit.errors import StatisticsError
from prunekit.stats.comoment import ComomentSum
from prunekit.stats.principal import Principal


def test_directions_are_ordered_signed_and_share_the_variance() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6)) * np.array([5.0, 3.0, 2.0, 1.0, 0.5, 0.1])
    total = ComomentSum()
    total.add(torch.from_numpy(x), torch.zeros(50, 0, dtype=torch.float64), torch.ones(50, dtype=torch.float64))
    found, pca = Principal.of(total.finish(), 3), PCA(3).fit(x)
    np.testing.assert_allclose(found.directions.abs().numpy(), np.abs(pca.components_), atol=1e-8)
    assert found.share == pytest.approx(pca.explained_variance_ratio_.sum())
    largest = found.directions.abs().argmax(1)
    assert bool((found.directions[torch.arange(3), largest] > 0).all())
    few = ComomentSum()
    few.add(torch.from_numpy(x[:4]), torch.zeros(4, 0, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    moment = few.finish()
    with pytest.raises(StatisticsError, match="4 calibration rows of 6 dimensions have 3 principal components; the plan asks for 4"):
        Principal.of(moment, 4)
