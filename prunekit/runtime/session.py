"""ONNX files as functions of numpy arrays, by onnxruntime alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.errors import DependencyError, ModelError, ParameterError
from prunekit.tasks import ENDS
from prunekit.validation.escape import LINE, reason
from prunekit.validation.install import install

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
DEVICES = {"cpu": CPU, "cuda": CUDA}
_EXTRAS = {"cpu": "cpu", "cuda": "gpu"}
_FATAL_ONLY = 4  # onnxruntime's log level; other messages are raised as the errors below


def runtime(device: str = "cpu") -> Any:
    """Import onnxruntime.

    Raises
    ------
    DependencyError
        If it is not installed, or is incomplete since a second copy was uninstalled.
    """
    try:
        import onnxruntime
    except ImportError:
        raise DependencyError(f"onnxruntime is not installed. Install it with: {install(_EXTRAS[device])}") from None
    # onnxruntime and onnxruntime-gpu overwrite each other: uninstalling one leaves the other incomplete.
    if not callable(getattr(onnxruntime, "InferenceSession", None)):
        raise DependencyError(
            "onnxruntime is broken, as after removing one of onnxruntime and onnxruntime-gpu. Remove both, then: "
            f"{install(_EXTRAS[device])}"
        )
    return onnxruntime


def check_device(dtype: str, device: str, *, of: str) -> None:
    """Raise where a file of this precision is not for the device, or the device's runtime is not installed; loads nothing else.

    Raises
    ------
    ParameterError, DependencyError
    """
    if dtype.startswith("int8") and device == "cuda":
        raise ParameterError("dtype", of, "fp32 or fp16 for cuda", dtype, "onnxruntime runs int8 products on the processor.")
    provider_of(device)


def provider_of(device: str) -> tuple[Any, str]:
    """Import onnxruntime, and name its execution provider for a device, "cpu" or "cuda".

    Raises
    ------
    DependencyError
        No onnxruntime, or one that does not know the device.
    """
    ort, provider = runtime(device), DEVICES[device]
    if provider not in ort.get_available_providers():
        raise DependencyError(f"The installed onnxruntime has no {provider}. Install it with: {install(_EXTRAS[device])}")
    return ort, provider


class OnnxSession:
    """An ONNX file, loaded.

    Parameters
    ----------
    path : path
        The file; external data is looked for beside it.
    threads : int
        Processor threads within an operator.
    device : {"cpu", "cuda"}
    trace : path, optional
        Prefix of a file for onnxruntime's profiler, which `end_trace` closes.
    optimise : bool
        Whether onnxruntime may rewrite the graph, as it does by default.
    tf32 : bool
        Whether CUDA may round the factors of float32 products to 10 bits, as it does by default.

    Attributes
    ----------
    path : Path
    inputs, outputs : tuple of str
        Their names, in the order of the file.
    per_token : frozenset of str
        Outputs of one row per token: their second axis is `sequence_length`.

    Raises
    ------
    DependencyError
        No onnxruntime, or one that does not know the device.
    ModelError
        A file that is missing or broken.
    ParameterError
        Threads below 1 or an unknown device.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 1,
        device: str = "cpu",
        trace: str | Path | None = None,
        optimise: bool = True,
        tf32: bool = True,
    ) -> None:
        if threads < 1:
            raise ParameterError("threads", "OnnxSession", "at least 1", threads)
        if device not in DEVICES:
            raise ParameterError("device", "OnnxSession", "one of cpu, cuda", device)
        self.path, self.threads, self.device = Path(path), threads, device
        if not self.path.is_file():
            raise ModelError(f"The ONNX file {str(path)!r} does not exist.")
        ort, provider = provider_of(device)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = _FATAL_ONLY
        # Threads that spin while another session runs would slow it down by half.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if trace is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(trace)
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings = {"use_tf32": str(int(tf32))} if provider == CUDA else {}
        try:
            self._session = ort.InferenceSession(str(self.path), options, providers=[(provider, settings)])
        except ort_errors(ort) as error:
            raise ModelError(f"The ONNX file {str(path)!r} cannot be loaded: {reason(error, LINE)}") from None
        # onnxruntime falls back to the processor with no more than a line in its log.
        if self._session.get_providers()[0] != provider:
            raise DependencyError(f"onnxruntime cannot use {provider} here: it fell back to {self._session.get_providers()[0]}.")
        self.inputs = tuple(node.name for node in self._session.get_inputs())
        self.outputs = tuple(node.name for node in self._session.get_outputs())
        self.per_token = frozenset(node.name for node in self._session.get_outputs() if "sequence_length" in node.shape[1:2])

    def answers(self, batch: Mapping[str, NDArray[np.int64]]) -> NDArray[Any]:
        """Return the outputs of a batch that are scored: the logits, or the vector of an embedder.

        For a file with one output for the start of an answer and one for its end, both of them, (batch, length, 2).
        """
        outputs = self(batch)
        if set(ENDS) <= outputs.keys():
            return np.stack([outputs[name] for name in ENDS], axis=-1)
        return outputs[next((name for name in ("logits", "sentence_embedding") if name in outputs), self.outputs[0])]

    def __call__(self, batch: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        """Run the file on a batch.

        Parameters
        ----------
        batch : mapping
            {name: int64 of shape (batch, length)}; names that the file does not take are left out.

        Returns
        -------
        dict
            {output: array}.

        Raises
        ------
        ModelError
            If the batch lacks an input, or onnxruntime fails.
        """
        missing = [name for name in self.inputs if name not in batch]
        if missing:
            raise ModelError(f"The ONNX file {str(self.path)!r} takes {', '.join(self.inputs)}; {', '.join(missing)} was not given.")
        try:
            arrays = self._session.run(None, {name: batch[name] for name in self.inputs})
        except ort_errors(sys.modules["onnxruntime"]) as error:
            raise ModelError(f"The ONNX file {str(self.path)!r} cannot be run: {reason(error, LINE)}") from None
        return dict(zip(self.outputs, arrays, strict=True))

    def feeds(self, batch: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        """Return the inputs of a batch that the file takes, for loops that time `run` alone."""
        return {name: batch[name] for name in self.inputs}

    def run(self, feeds: dict[str, NDArray[np.int64]]) -> None:
        """Run the file on the result of `feeds`, and discard the outputs."""
        self._session.run(None, feeds)

    def bind(self, feeds: Mapping[str, NDArray[np.int64]]) -> Any:
        """Copy the result of `feeds` to the device, for `run_bound`."""
        ort = sys.modules["onnxruntime"]
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self.device, 0))
        for name in self.outputs:
            binding.bind_output(name, self.device, 0)
        return binding

    def run_bound(self, binding: Any) -> None:
        """Run the file on the result of `bind`; outputs stay on the device, and are complete on return."""
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    def end_trace(self) -> Path:
        """Close the profiler's file and return its name."""
        return Path(self._session.end_profiling())


def ort_errors(ort: Any) -> tuple[type[Exception], ...]:
    """Return onnxruntime's own exceptions, which have no common base class but Exception."""
    native = ort.capi.onnxruntime_pybind11_state
    return (
        native.EPFail, native.Fail, native.InvalidArgument, native.InvalidGraph, native.InvalidProtobuf,
        native.NoModel, native.NoSuchFile, native.NotImplemented, native.RuntimeException, RuntimeError,
    )  # fmt: skip
