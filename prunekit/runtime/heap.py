"""Memory that is free, but that the C library keeps for the process."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress


def trim() -> None:
    """Free what only cycles of references hold, and give free memory back to the system, where the C library can (glibc).

    Tensors below its threshold come from the heap, where those that are freed stay: training would begin with gigabytes that
    belong to nothing.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
