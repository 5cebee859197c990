"""onnxruntime, on the processor, or on CUDA with inputs and outputs bound to the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from numpy.typing import NDArray

from prunekit.benchmark.backends.base import Batch, ModelFiles, Runner
from prunekit.errors import DependencyError
from prunekit.runtime.profile import NodeRun, profile
from prunekit.runtime.session import CPU, CUDA, OnnxSession, provider_of


@final
class OrtRunner(Runner):
    """An ONNX file on the processor."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = OnnxSession(path, threads=threads)

    def feeds(self, batch: Batch) -> Any:
        return self._session.feeds(batch)

    def run(self, feeds: Any) -> None:
        self._session.run(feeds)

    def outputs(self, feeds: Any) -> dict[str, NDArray[Any]]:
        return self._session(feeds)

    def placement(self, feeds: Any) -> dict[str, int]:
        return placed(profile(self._session.path, feeds, threads=self._session.threads), CPU)


@final
class OrtCudaRunner(Runner):
    """An ONNX file on CUDA; a batch is copied to the device once, before it is timed, and outputs stay there."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = OnnxSession(path, threads=threads, device="cuda")

    def feeds(self, batch: Batch) -> Any:
        feeds = self._session.feeds(batch)
        return feeds, self._session.bind(feeds)

    def run(self, feeds: Any) -> None:
        self._session.run_bound(feeds[1])

    def outputs(self, feeds: Any) -> dict[str, NDArray[Any]]:
        return self._session(feeds[0])

    def placement(self, feeds: Any) -> dict[str, int]:
        return placed(profile(self._session.path, feeds[0], threads=self._session.threads, device="cuda"), CUDA)


def check(variant: str) -> None:
    """See `Backend.check`."""
    provider_of(variant)


def load(source: ModelFiles, *, threads: int, variant: str, calibration: Sequence[Batch]) -> Runner:
    """See `Backend.load`."""
    assert source.onnx is not None
    return OrtCudaRunner(source.onnx, threads) if variant == "cuda" else OrtRunner(source.onnx, threads)


def placed(runs: Sequence[NodeRun], provider: str) -> dict[str, int]:
    """Count nodes by the provider that ran them.

    Nodes that compute shapes belong on the processor, and onnxruntime puts them there; one that makes floating-point
    numbers anywhere but on `provider` is a fallback.

    Raises
    ------
    DependencyError
        A fallback.
    """
    fallbacks = [run for run in runs if run.provider != provider and any("float" in kind for kind, _ in run.outputs)]
    if fallbacks:
        raise DependencyError(
            f"onnxruntime ran {len(fallbacks)} of {len(runs)} nodes on {fallbacks[0].provider}, not on {provider} as asked, "
            f"first {fallbacks[0].name!r} ({fallbacks[0].op}). No time was taken."
        )
    return dict(Counter(run.provider for run in runs))
