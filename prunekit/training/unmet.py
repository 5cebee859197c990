"""What happens to the model of a training that was stopped before it was the one that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NoReturn

import torch

from prunekit.errors import BudgetError, OutputError

#: Folder of the Trainer's output directory in which the model is written; with a number where that is taken.
UNMET = "unmet"


def rank() -> int:
    """Return the number of this process among those that train together, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def refuse(reason: str, output_dir: Path, save: Callable[[Path], object]) -> NoReturn:
    """Write the model from rank 0, into a folder that is not there yet, and raise BudgetError in every process.

    Parameters
    ----------
    reason : str
        A sentence.
    output_dir : Path
        The Trainer's.
    save : callable
        Writes the model into a folder; may raise OutputError, which does not take the place of the reason.
    """
    written = "The model as it is was written by rank 0."
    try:
        if rank() == 0:
            names = (UNMET if number == 1 else f"{UNMET}-{number}" for number in count(1))
            place = next(place for name in names if not (place := output_dir / name).exists())
            save(place)
            written = f"The model as it is was written to {str(place)!r}: prunekit.load reads it."
    except OutputError as error:
        written = f"The model as it is stays in memory, since it could not be written: {error}"
    finally:
        # The others wait for what was written, and must not wait in vain.
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
    raise BudgetError(f"{reason} {written}")
