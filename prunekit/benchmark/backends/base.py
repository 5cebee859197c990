"""Interface of backends, each with one line in the registry of this package."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

Batch = Mapping[str, NDArray[np.int64]]
#: Names of the arrays of a batch.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class ModelFiles:
    """The files of one candidate.

    Attributes
    ----------
    path : Path
        Path as the user named it.
    onnx : Path or None
        The ONNX file.
    folder : Path or None
        The directory of config.json, tokenizer and weights.
    plan : str or None
        Digest of the plan in that directory.
    """

    path: Path
    onnx: Path | None
    folder: Path | None
    plan: str | None = None


class Runner(ABC):
    """A loaded model."""

    @abstractmethod
    def feeds(self, batch: Batch) -> Any:
        """Return the input of `run`, on the device that reads it; this is not timed.

        Parameters
        ----------
        batch : mapping
            {name: int64 of shape (rows, length)} of input_ids, attention_mask and token_type_ids; the model takes those among its inputs.
        """

    @abstractmethod
    def run(self, feeds: Any) -> None:
        """Run the model; on return the work is done, on every device."""

    @abstractmethod
    def outputs(self, feeds: Any) -> dict[str, NDArray[Any]]:
        """Run the model and return {output: array}."""

    @abstractmethod
    def placement(self, feeds: Any) -> dict[str, int]:
        """Count the nodes by provider or device, and by precision where the runtime reports it: {"CPUExecutionProvider": 257}.

        Raises
        ------
        DependencyError
            If something ran on another device, or in another precision, than the backend's name indicates.
        """


@dataclass(frozen=True)
class Backend:
    """One way to run a model.

    Attributes
    ----------
    name : str
        Name on the command line.
    module : str
        Module of this package with ``load(source, threads=, variant=, calibration=) -> Runner`` and ``check(variant)``; it is
        imported when it is used.
    variant : str
        Variant within the module.
    reads : {"onnx", "checkpoint"}
        Kind of files that it takes.
    device : {"cpu", "cuda"}
    once : bool
        Whether loading takes so long that a model is loaded once, and not again for each invocation.
    """

    name: str
    module: str
    variant: str
    reads: Literal["onnx", "checkpoint"] = "onnx"
    device: Literal["cpu", "cuda"] = "cpu"
    once: bool = False

    def check(self) -> None:
        """Raise DependencyError where the runtime or the device is not there; nothing is loaded."""
        module = importlib.import_module(f"prunekit.benchmark.backends.{self.module}")
        cast("Callable[[str], None]", module.check)(self.variant)

    def load(self, source: ModelFiles, *, threads: int, calibration: Sequence[Batch] = ()) -> Runner:
        """Load a model.

        Parameters
        ----------
        source : ModelFiles
        threads : int
            Processor threads within an operator.
        calibration : sequence of mapping
            Batches for a backend that quantises.

        Raises
        ------
        DependencyError
            The runtime or the device is not there.
        ModelError
            The files are missing or broken.
        """
        module = importlib.import_module(f"prunekit.benchmark.backends.{self.module}")
        loader = cast("Callable[..., Runner]", module.load)
        return loader(source, threads=threads, variant=self.variant, calibration=calibration)
