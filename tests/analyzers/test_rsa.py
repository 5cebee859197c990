from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr

from prunekit.analyzers.rsa import rsa, run
from prunekit.errors import StatisticsError
from tests.analyzers.subjects import inputs_of, rows_of


def test_rsa_is_that_of_scipy() -> None:
    generator = np.random.default_rng(0)
    a = generator.standard_normal((70, 12)) + 1
    b = a @ generator.standard_normal((12, 20)) + generator.standard_normal((70, 20))
    expected = pearsonr(1 - pdist(a, "cosine"), 1 - pdist(b, "cosine")).statistic
    assert rsa(a, b) == pytest.approx(expected, abs=1e-12)


def test_layer_by_layer_against_the_base() -> None:
    rows = rows_of(50, layers=3, hidden=8)
    base = rows.copy()
    base[:, 16:] = rows_of(50, layers=1, hidden=8, seed=9)
    found = run(inputs_of(rows, hidden=8, base=base, tokens=True))
    np.testing.assert_allclose(found.inside[:2], 1.0, atol=1e-12)
    assert found.inside[2] < 0.5
    assert "part from layer 2 on" in found.summary()[0]


def test_a_rotation_changes_nothing() -> None:
    rows = rows_of(40, layers=1, hidden=10).astype(np.float64)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))[0]
    assert rsa(rows, 3 * rows @ rotation) == pytest.approx(1.0, abs=1e-12)


def test_equal_tokens_have_no_structure() -> None:
    assert np.isnan(rsa(np.ones((5, 3)), np.random.default_rng(0).standard_normal((5, 3))))


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_tokens(n: int) -> None:
    with pytest.raises(StatisticsError, match="at least three tokens"):
        rsa(np.ones((n, 3)), np.ones((n, 3)))


def test_nan_is_an_error() -> None:
    rows = np.ones((4, 3))
    rows[1, 1] = np.nan
    with pytest.raises(StatisticsError, match="NaN"):
        rsa(rows, rows)
