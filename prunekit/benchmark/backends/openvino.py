"""OpenVINO on the processor, reading the same ONNX file: float32, bfloat16, or int8 as NNCF makes it from calibration rows."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from prunekit.benchmark.backends.base import Batch, ModelFiles, Runner
from prunekit.errors import DependencyError, ModelError
from prunekit.validation.escape import reason
from prunekit.validation.install import install

_INSTALL = f"Install it with: {install('openvino')}"
#: Precision of each variant, as named in the executed graph of OpenVINO.
_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "i8"}


@final
class OpenVinoRunner(Runner):
    """An ONNX file, compiled for the processor.

    Parameters
    ----------
    model : openvino.Model
    variant : {"fp32", "bf16", "int8"}
    threads : int
    """

    def __init__(self, model: Any, variant: str, threads: int) -> None:
        openvino = runtime()
        self._variant = variant
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Set explicitly: the default is bfloat16 wherever the processor has it.
            "INFERENCE_PRECISION_HINT": "bf16" if variant == "bf16" else "f32",
            # Pinned threads would take the core from the candidate whose turn is next.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._compiled = openvino.Core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot compile the model: {reason(error)}") from None
        self._request = self._compiled.create_infer_request()
        self._inputs = [port.get_any_name() for port in self._compiled.inputs]
        self._outputs = [port.get_any_name() for port in self._compiled.outputs]

    def feeds(self, batch: Batch) -> dict[str, NDArray[np.int64]]:
        return {name: batch[name] for name in self._inputs}

    def run(self, feeds: Any) -> None:
        self._request.infer(feeds, share_inputs=True, share_outputs=True)

    def outputs(self, feeds: Any) -> dict[str, NDArray[Any]]:
        results = self._request.infer(feeds)
        return {name: np.array(results[name]) for name in self._outputs}

    def placement(self, feeds: Any) -> dict[str, int]:
        self._request.infer(feeds)
        device = list(self._compiled.get_property("EXECUTION_DEVICES"))
        nodes = [node.get_rt_info() for node in self._compiled.get_runtime_model().get_ops()]
        seen = Counter(f"{' '.join(device)} {info['runtimePrecision'].astype(str)}" for info in nodes)
        if not any(place.split()[-1] == _PRECISIONS[self._variant] for place in seen):
            raise DependencyError(f"OpenVINO ran nothing in {self._variant} on this processor. No time was taken.")
        return dict(seen)


def runtime() -> Any:
    """Import openvino.

    Raises
    ------
    DependencyError
        If it is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise DependencyError(f"openvino is not installed. {_INSTALL}") from None
    return openvino


def check(variant: str) -> None:
    """See `Backend.check`."""
    runtime()
    if variant == "int8" and find_spec("nncf") is None:
        raise DependencyError(f"nncf, which makes OpenVINO's int8, is not installed. {_INSTALL}")


def load(source: ModelFiles, *, threads: int, variant: str, calibration: Sequence[Batch]) -> Runner:
    """See `Backend.load`."""
    assert source.onnx is not None
    check(variant)
    openvino = runtime()
    try:
        model = openvino.Core().read_model(str(source.onnx))
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot read {str(source.onnx)!r}: {reason(error)}") from None
    return OpenVinoRunner(_quantised(model, source.onnx, calibration) if variant == "int8" else model, variant, threads)


def _quantised(model: Any, path: Path, calibration: Sequence[Batch]) -> Any:
    """Quantise a model after training, with NNCF's settings for transformers."""
    with _quiet():
        import nncf

        names = [port.get_any_name() for port in model.inputs]
        rows = nncf.Dataset([{name: batch[name] for name in names} for batch in calibration])
        try:
            return nncf.quantize(model, rows, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration))
        except (RuntimeError, nncf.ValidationError) as error:
            raise ModelError(f"NNCF cannot quantise {str(path)!r}: {reason(error)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress NNCF's log and its progress bars, which it prints on stdout."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
