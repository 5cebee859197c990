"""Profile of one run of an ONNX file: the execution provider and the shapes of each node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.runtime.session import OnnxSession
from prunekit.validation.scratch import no_room, temporary

_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeRun:
    """Run of one node.

    Attributes
    ----------
    name, op, provider : str
    inputs, outputs : tuple of (str, tuple of int)
        Element type and shape of each; onnxruntime leaves out weights that it has packed.
    """

    name: str
    op: str
    provider: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]


def profile(
    path: Path, feeds: Mapping[str, NDArray[np.int64]], *, threads: int = 1, device: str = "cpu", optimise: bool = True
) -> tuple[NodeRun, ...]:
    """Run an ONNX file once under onnxruntime's profiler, in a session of its own.

    Parameters
    ----------
    path : Path
    feeds : mapping
        One batch, as `OnnxSession.feeds` returns it.
    threads, device
        As in `OnnxSession`.
    optimise : bool
        Let onnxruntime fuse nodes as it does by default; without, the nodes are those of the file.

    Returns
    -------
    tuple of NodeRun
        In the order of execution.
    """
    with temporary() as folder:
        session = OnnxSession(path, threads=threads, device=device, trace=folder / "trace", optimise=optimise)
        session.run(dict(feeds))
        try:
            events = json.loads(session.end_trace().read_text(encoding="utf-8"))
        except ValueError:
            # onnxruntime does not report a trace that it could not write entirely.
            raise no_room("a trace of the model was cut off") from None
    return parse(events)


def parse(events: list[dict[str, Any]]) -> tuple[NodeRun, ...]:
    """Return the node runs among the events of a trace."""
    return tuple(
        NodeRun(
            name=event["name"].removesuffix(_SUFFIX),
            op=event["args"]["op_name"],
            provider=event["args"]["provider"],
            inputs=_shapes(event["args"]["input_type_shape"]),
            outputs=_shapes(event["args"]["output_type_shape"]),
        )
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX)
    )


def _shapes(tensors: list[dict[str, list[int]]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((kind, tuple(shape)) for tensor in tensors for kind, shape in tensor.items())
