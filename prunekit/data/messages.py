"""Messages between the processes of one run: pickles over the group of `torch.distributed`, and tensors as they are."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prunekit.errors import ProcessError
from prunekit.validation.launcher import Place

if TYPE_CHECKING:
    from torch import Tensor


class Wire:
    """Messages between rank 0 and the others, each a word and a value."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._sent: dict[int, list[Any]] = {}

    def send(self, ranks: Iterable[int], word: str, value: object, raw: Tensor | None = None) -> None:
        """Send a message, and a tensor (k,) float32 as it is, without waiting until it is received."""
        import torch
        from torch import distributed

        packed = io.BytesIO()
        torch.save((word, value), packed)
        body = torch.frombuffer(packed.getbuffer(), dtype=torch.uint8)
        for rank in ranks:
            self.flush(rank)
            with self._connected(rank):
                parts = torch.tensor([len(body), 0 if raw is None else len(raw)]), body, *([] if raw is None else [raw])
                self._sent[rank] = [(distributed.isend(part, rank, tag=tag), part) for tag, part in enumerate(parts)]

    def flush(self, rank: int) -> None:
        """Wait until what was sent to a process is received."""
        with self._connected(rank):
            for sent, _ in self._sent.pop(rank, ()):
                sent.wait()

    def receive(self, rank: int, into: Tensor | None = None) -> tuple[str, Any]:
        """Wait for the next message of a process; a tensor that comes with it is written into another one, or dropped."""
        import torch
        from torch import distributed

        with self._connected(rank):
            length = torch.empty(2, dtype=torch.int64)
            distributed.recv(length, rank, tag=0)
        # No memory for it is another error than a process that has ended.
        body, raw = torch.empty(int(length[0]), dtype=torch.uint8), int(length[1])
        if into is None or len(into) != raw:
            into = torch.empty(raw)
        with self._connected(rank):
            distributed.recv(body, rank, tag=1)
            if raw:
                distributed.recv(into, rank, tag=2)
        word, value = torch.load(io.BytesIO(body.numpy().tobytes()), weights_only=False)
        return str(word), value

    @contextmanager
    def _connected(self, rank: int) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ProcessError(f"Process {rank + 1} of {self.place.size} (rank {rank}) has ended, and with it the run.") from error
