"""What a notebook has switched on in torch does not hold within a call, and is on afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import prunekit
from prunekit.validation.arguments import checked
from tests.lines import checkpoint, data, quick


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable[[], Any]] = {
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "dtype": default_dtype,
    "device": lambda: torch.device("meta"),
}


def modes() -> tuple[bool, bool, bool, torch.dtype, str]:
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    return *modes, torch.get_default_dtype(), torch.get_default_device().type


@pytest.mark.parametrize("case", MODES)
def test_a_call_runs_in_the_usual_modes(case: str) -> None:
    inside = checked("modes")(modes)
    with MODES[case]():
        before = modes()
        assert inside() == (False, True, False, torch.float32, "cpu") != before
        assert modes() == before


@pytest.mark.parametrize("case", ["inference", "autocast", "device"])
def test_a_plan_does_not_depend_on_them(case: str) -> None:
    with quick():
        usual = prunekit.make_plan(str(checkpoint("sequence")), str(data("text")), keep="50% params")
        with MODES[case]():
            found = prunekit.make_plan(str(checkpoint("sequence")), str(data("text")), keep="50% params")
    assert found == usual
