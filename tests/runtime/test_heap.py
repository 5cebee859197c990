from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunekit.runtime.heap import trim


def resident() -> int:
    """The process's memory in bytes."""
    return next(1024 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))


@pytest.mark.needs("glibc")
def test_freed_tensors_are_given_back() -> None:
    # Every other one stays, so that the heap has no free end.
    tensors = [torch.ones(24_000) for _ in range(4000)]
    held = tensors[::2]
    del tensors
    before = resident()
    trim()
    assert resident() < before - 100_000_000
    assert len(held) == 2000


def test_a_library_that_cannot_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str | None]()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda name: asked.append(name) or object())
    trim()
    assert asked == [None]
