"""Which number format training computes in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunekit.arch.view import ModelView, answers_by_span
from prunekit.training.teacher import NOWHERE, answer

#: Norm of the difference between the answers in both formats, relative to the norm of the answers' variation, at most.
TOLERANCE = 0.05


def chosen_dtype(view: ModelView, inputs: dict[str, Any], device: str, *, training: bool) -> torch.dtype | None:
    """The format for autocast: that of `autocast_dtype`, if the model's answers to some rows hardly differ in it; else None.

    Parameters
    ----------
    view : ModelView
        On the CPU.
    inputs : dict
        (batch, length) tensors by name, and "first", the places that are read.
    device : str
        Where training runs.
    training : bool
        Whether for steps of training, or for forward passes alone.
    """
    dtype = autocast_dtype(device, training=training)
    if dtype is None:
        return None
    with torch.no_grad():
        exact = answer(view, inputs, inputs["first"], states=False).logits
        with torch.autocast("cpu", dtype=dtype):
            rough = answer(view, inputs, inputs["first"], states=False).logits
    if answers_by_span(view.model):
        # Each row's distribution is over its own real tokens: a shift of all of them says nothing, nor does what stands at padding.
        there = exact > NOWHERE
        exact, rough = (_centred(logits, there) for logits in (exact, rough))
    else:
        rough, exact = rough - exact.mean(0), exact - exact.mean(0)
    return dtype if float((rough - exact).norm()) <= TOLERANCE * float(exact.norm()) else None


def _centred(logits: Tensor, there: Tensor) -> Tensor:
    filled = logits.masked_fill(~there, 0.0)
    mean = filled.sum(-1, keepdim=True) / there.sum(-1, keepdim=True)
    return (filled - mean).masked_fill(~there, 0.0)


def autocast_dtype(device: str, *, training: bool) -> torch.dtype | None:
    """bfloat16 where the processor is faster in it (AMX, AVX512-BF16, CUDA's own flag), else None.

    With AVX512-BF16 alone forward passes take 0.55 of the time, but a step of training takes 1.05 to 1.2 times as long (MiniLM-L6 and
    a slim model with 18% of its parameters): the backward pass gains nothing, and the casts cost. Decided by the processor's flags
    and not by a trial, so that two runs compute alike; without either flag bfloat16 is emulated, and slower.
    """
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device != "cpu":
        return None
    # torch has no public name for the processor's flags.
    native = torch.cpu._is_amx_tile_supported() or (not training and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if native else None
