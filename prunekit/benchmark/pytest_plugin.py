"""A pytest fixture for tests such as ``assert ratio.low > 1.5``; nothing is imported before it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from prunekit.runtime.records import Ratio


@pytest.fixture
def prunekit_bench(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., Ratio]:
    """Time one model against another: ``prunekit_bench(model, baseline, length=128)``.

    It takes the two, `batch_size` (1) and `length` (128, or "data" with ``data=``), and the other parameters of
    `prunekit.bench`; 20 seconds at most where no `time_budget` is given. It returns the `Ratio`: how many times as fast the
    model is as the baseline, with `low` and `high` of its 95% interval. The tables are shown where the test fails, and the
    ratio is a property of the test in JUnit's XML.
    """

    def compare(model: str | Path, baseline: str | Path, *, batch_size: int = 1, length: Any = 128, **parameters: Any) -> Ratio:
        from prunekit.benchmark.bench import bench
        from prunekit.benchmark.formats import to_markdown

        lengths = length if length == "data" else [length]
        options = {"time_budget": 20.0, "memory": False, **parameters}
        benchmark = bench(model, baseline=baseline, batch_sizes=[batch_size], lengths=lengths, **options)
        ratio = benchmark.ratio()
        request.node.add_report_section("call", "prunekit", to_markdown(benchmark))
        record_property("prunekit_ratio", f"{ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f})")
        return ratio

    return compare
