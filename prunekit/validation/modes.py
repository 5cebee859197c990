"""The modes of torch that a caller may have switched on, as a notebook does around all it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def usual_modes() -> Iterator[None]:
    """Run as if no mode of torch were on: gradients can be computed, and nothing is in half precision that did not ask for it.

    Modes are a thread's own, and are as they were afterwards. Where torch has not been imported, none is on.
    """
    torch: Any = sys.modules.get("torch")
    with ExitStack() as stack:
        if torch is not None and hasattr(torch, "is_autocast_enabled"):  # not while it is being imported
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(mode=False))
            if not torch.is_grad_enabled():
                stack.enter_context(torch.enable_grad())
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
        yield
