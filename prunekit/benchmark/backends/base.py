"""What a backend is: a way to run a model, with one line in the registry of this package."""

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
#: What a batch holds.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Source:
    """The files of one candidate.

    Attributes
    ----------
    path : Path
        As the user named it.
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
        """What `run` takes, where it takes it: not part of what is timed.

        Parameters
        ----------
        batch : mapping
            {name: int64 of shape (rows, length)} of input_ids, attention_mask and token_type_ids; the model takes those it knows.
        """

    @abstractmethod
    def run(self, feeds: Any) -> None:
        """Run it; when this returns, the work is done, on every device."""

    @abstractmethod
    def outputs(self, feeds: Any) -> dict[str, NDArray[Any]]:
        """Run it and return {output: array}."""

    @abstractmethod
    def placement(self, feeds: Any) -> dict[str, int]:
        """Where the nodes ran, and in which precision where the runtime says so: {"CPUExecutionProvider": 257}.

        Raises
        ------
        DependencyError
            If something ran elsewhere, or otherwise, than the backend's name says.
        """


@dataclass(frozen=True)
class Backend:
    """One way to run a model.

    Attributes
    ----------
    name : str
        As the command line calls it.
    module : str
        Module of this package with ``load(source, threads=, variant=, calibration=) -> Runner`` and ``check(variant)``; it is
        imported when it is used.
    variant : str
        Which of the module's ways.
    reads : {"onnx", "checkpoint"}
        Which files of a candidate it takes.
    device : {"cpu", "cuda"}
    once : bool
        Whether loading takes so long that a model is loaded once, and not anew for each sitting.
    """

    name: str
    module: str
    variant: str
    reads: Literal["onnx", "checkpoint"] = "onnx"
    device: Literal["cpu", "cuda"] = "cpu"
    once: bool = False

    def check(self) -> None:
        """Raise DependencyError where the runtime or the device is not there; nothing is loaded."""
        found = importlib.import_module(f"prunekit.benchmark.backends.{self.module}")
        cast("Callable[[str], None]", found.check)(self.variant)

    def load(self, source: Source, *, threads: int, calibration: Sequence[Batch] = ()) -> Runner:
        """Load a model.

        Parameters
        ----------
        source : Source
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
        found = importlib.import_module(f"prunekit.benchmark.backends.{self.module}")
        loader = cast("Callable[..., Runner]", found.load)
        return loader(source, threads=threads, variant=self.variant, calibration=calibration)
