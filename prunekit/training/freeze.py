"""Freezing of parameters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from prunekit.arch.view import ModelView, find
from prunekit.errors import ParameterError
from prunekit.validation.indices import parse_freeze


def freeze_blocks(view: ModelView, text: str, blocks: Sequence[int], *, of: str = "recover") -> list[nn.Parameter]:
    """Freeze some blocks, and the embeddings where the lowest one is among them (Merchant et al. 2020).

    Parameters
    ----------
    view : ModelView
        Its parameters are changed in place.
    text : str
        ``"layers:0-3"``, in the dense model's numbering.
    blocks : sequence of int
        The dense model's numbers of the blocks that are kept.
    of : str
        Whose parameter this is, for the message.

    Returns
    -------
    list of Parameter
        Those that were trainable before.

    Raises
    ------
    ParameterError
        If a block is not there, or the family stores all blocks as one.
    """
    wanted = parse_freeze(text, of=of)
    missing = [block for block in wanted if block not in blocks]
    if missing:
        raise ParameterError("freeze", of, f"blocks that are kept ({', '.join(map(str, blocks))})", text)
    if view.spec.shared_blocks and len(wanted) < len(blocks):
        raise ParameterError("freeze", of, f"all blocks or none ({view.spec.shared_blocks})", text)
    parts: list[nn.Module | nn.Parameter] = [view.blocks[0 if view.spec.shared_blocks else blocks.index(block)] for block in wanted]
    if wanted[0] == blocks[0]:
        parts += [part for path in view.spec.embeddings if (part := find(view.body, path)) is not None]
    parameters = [parameter for part in parts for parameter in ([part] if isinstance(part, nn.Parameter) else part.parameters())]
    frozen = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen
