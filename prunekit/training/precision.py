"""Number format in which training computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunekit.arch.view import ModelView, answers_by_span
from prunekit.training.teacher import NOWHERE, answer

#: Norm of the difference between the answers in both formats, relative to the norm of the answers' variation, at most.
TOLERANCE = 0.05


def chosen_dtype(view: ModelView, inputs: dict[str, Any], device: str, *, training: bool) -> torch.dtype | None:
    """Return the format for autocast: that of `autocast_dtype` if the model runs in it and answers nearly the same; else None.

    Parameters
    ----------
    view : ModelView
        On the CPU.
    inputs : dict
        (batch, length) tensors by name, and "first", the positions that are read.
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
        try:
            with torch.autocast("cpu", dtype=dtype):
                rough = answer(view, inputs, inputs["first"], states=False).logits
        except RuntimeError:
            # DeBERTa fills bfloat16 scores with the least number of float32, which they cannot hold.
            return None
    if answers_by_span(view.model):
        # Each row's distribution is over its own real tokens: a shift of all of them has no effect, nor have the values at padding.
        mask = exact > NOWHERE
        exact, rough = (_centred(logits, mask) for logits in (exact, rough))
    else:
        rough, exact = rough - exact.mean(0), exact - exact.mean(0)
    return dtype if float((rough - exact).norm()) <= TOLERANCE * float(exact.norm()) else None


def _centred(logits: Tensor, mask: Tensor) -> Tensor:
    filled = logits.masked_fill(~mask, 0.0)
    mean = filled.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)
    return (filled - mean).masked_fill(~mask, 0.0)


def autocast_dtype(device: str, *, training: bool) -> torch.dtype | None:
    """Return bfloat16 where the processor is faster in it (AMX, AVX512-BF16, CUDA's own flag), else None.

    With AVX512-BF16 alone forward passes take 0.55 of the time, but a step of training takes 1.05 to 1.2 times as long (MiniLM-L6 and
    a slim model with 18% of its parameters): the backward pass gains nothing, and the casts cost. Decided by the processor's flags
    and not by a measurement, so that two runs compute the same; without either flag bfloat16 is emulated, and slower.
    """
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device != "cpu":
        return None
    # torch has no public name for the processor's flags.
    native = torch.cpu._is_amx_tile_supported() or (not training and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if native else None
