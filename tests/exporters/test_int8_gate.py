from __future__ import annotations

import pytest

from prunekit.exporters.int8_gate import Int8Gate
from prunekit.runtime.records import Fidelity


@pytest.mark.parametrize(("error", "agreement", "passes"), [(0.1, 0.9, True), (0.1001, 0.9, False), (0.1, 0.89, False), (0.1, None, True)])
def test_the_gate_holds_errors_and_predictions(error: float, agreement: float | None, passes: bool) -> None:
    assert Int8Gate(0.1, 0.9).passes(Fidelity(error, agreement)) is passes
