"""The modes and defaults of torch that a caller may have changed, as a notebook does for all it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def usual_modes() -> Iterator[None]:
    """Run as if nothing had been changed: gradients can be computed, and tensors are of float32 and on the processor unless stated.

    All is as it was afterwards. Where torch has not been imported, nothing has been changed.
    """
    torch: Any = sys.modules.get("torch")
    with ExitStack() as stack:
        if torch is not None and hasattr(torch, "get_default_device"):  # not while it is being imported
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(mode=False))
            if not torch.is_grad_enabled():
                stack.enter_context(torch.enable_grad())
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            if (dtype := torch.get_default_dtype()) != torch.float32:
                stack.callback(torch.set_default_dtype, dtype)
                torch.set_default_dtype(torch.float32)
        yield
