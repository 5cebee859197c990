"""PyTorch, on a checkpoint: eager, in bfloat16 by autocast, compiled, and in float16 on CUDA with fused attention."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunekit.benchmark.backends.base import Batch, ModelFiles, Runner
from prunekit.errors import DependencyError, ModelError
from prunekit.exporters.source import load_source
from prunekit.validation.escape import LINE, reason


@final
class TorchRunner(Runner):
    """A checkpoint as a PyTorch module.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    inputs, outputs : tuple of str
        Names of its inputs and outputs.
    device : {"cpu", "cuda"}
    half : bool
        Autocast to bfloat16.
    compiled : bool
    """

    def __init__(
        self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], *, device: str, half: bool, compiled: bool
    ) -> None:
        self._model = model.to(device)
        self._call: Callable[..., Any] = torch.compile(self._model, dynamic=True) if compiled else self._model
        self._inputs, self._outputs, self._device, self._half = inputs, outputs, device, half

    def feeds(self, batch: Batch) -> dict[str, Tensor]:
        return {name: torch.from_numpy(batch[name]).to(self._device) for name in self._inputs}

    def run(self, feeds: Any) -> None:
        self._forward(feeds)
        if self._device == "cuda":
            torch.cuda.synchronize()

    def outputs(self, feeds: Any) -> dict[str, NDArray[Any]]:
        result = self._forward(feeds)
        return {name: getattr(result, name).float().cpu().numpy() for name in self._outputs}

    def placement(self, feeds: Any) -> dict[str, int]:
        seen: Counter[str] = Counter()
        hooks = [module.register_forward_hook(_placement_hook(seen)) for module in self._model.modules() if not any(module.children())]
        try:
            with torch.inference_mode(), torch.autocast(self._device, torch.bfloat16, enabled=self._half):
                self._model(**feeds)
        finally:
            for hook in hooks:
                hook.remove()
        elsewhere = [place for place in seen if not place.startswith(self._device)]
        if elsewhere:
            raise DependencyError(f"PyTorch ran modules on {', '.join(elsewhere)}, not on {self._device} as asked. No time was taken.")
        if self._half and not any("bfloat16" in place for place in seen):
            raise DependencyError("PyTorch ran nothing in bfloat16, as was asked. No time was taken.")
        return dict(seen)

    def _forward(self, feeds: dict[str, Tensor]) -> Any:
        with torch.inference_mode(), torch.autocast(self._device, torch.bfloat16, enabled=self._half):
            return self._call(**feeds)


def _placement_hook(seen: Counter[str]) -> Callable[[nn.Module, Any, Any], None]:
    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen[f"{output.device.type} {str(output.dtype).removeprefix('torch.')}"] += 1

    return count


def compiler() -> str:
    """Return the C++ compiler that torch.compile calls."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def check(variant: str) -> None:
    """See `Backend.check`."""
    if variant == "sdpa-fp16" and not torch.cuda.is_available():
        raise DependencyError("PyTorch finds no CUDA device here. Run this backend on a machine with a GPU and a CUDA build of torch.")
    if variant == "compile" and shutil.which(compiler()) is None:
        raise DependencyError(f"torch.compile needs a C++ compiler, and {compiler()!r} is not on the PATH. Install it, or name one in CXX.")


def load(source: ModelFiles, *, threads: int, variant: str, calibration: Sequence[Batch]) -> Runner:
    """See `Backend.load`."""
    assert source.folder is not None
    check(variant)
    device = "cuda" if variant == "sdpa-fp16" else "cpu"
    torch.set_num_threads(threads)
    loaded = load_source(source.folder)
    model = loaded.model
    if variant == "sdpa-fp16":
        body: Any = model
        try:
            body.set_attn_implementation("sdpa")
        except (AttributeError, ValueError) as error:
            raise ModelError(f"The model {str(source.path)!r} has no fused attention in PyTorch: {reason(error, LINE)}") from None
        model = model.half()
    return TorchRunner(model, loaded.inputs, loaded.outputs, device=device, half=variant == "bf16", compiled=variant == "compile")
