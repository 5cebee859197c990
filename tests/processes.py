"""Processes of one run, started as a launcher starts them, each with an output of its own."""

from __future__ import annotations

import io
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from prunekit.data import parallel

#: The program itself, with latency measured for as short as may be.
QUICK = "import sys; from tests.lines import quick; from prunekit import cli\nwith quick(): code = cli.main(sys.argv[1:])\nsys.exit(code)"


class Ended(NamedTuple):
    """A process that has ended."""

    code: int
    out: str
    err: str


def together(root: Path, words: list[str], *, code: str | None = None, size: int = 2) -> list[Ended]:
    """Run ``python -m prunekit``, or `code`, in so many processes; return how each has ended, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    # Gloo binds to what a machine calls itself, which need not be an address where there is no network.
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **common}
    command = [sys.executable, *(["-m", "prunekit"] if code is None else ["-c", code]), *words]
    started = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]
    said = [process.communicate() for process in started]
    return [Ended(process.returncode, *words) for process, words in zip(started, said, strict=True)]


class Threads:
    """Divides work among threads as a group does among processes: all but the first have what was pickled."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._parts: dict[int, Any] = {}

    def spread(self, work: Any, items: Iterable[Any], *, beside: bool = False) -> Iterator[Any]:
        """As `parallel.spread`."""
        coming = iter(items)
        while now := list(islice(coming, self.size)):
            barrier, results = threading.Barrier(len(now)), dict[int, Any]()
            sent = [(work, now[0]), *(_sent((work, item)) for item in now[1:])]

            def run(rank: int, sent: list[Any] = sent, barrier: threading.Barrier = barrier, results: dict[int, Any] = results) -> None:
                parallel._CURRENT.set(_Thread(self, rank, barrier))
                own, item = sent[rank]
                results[rank] = own(item)

            threads = [threading.Thread(target=run, args=[rank]) for rank in range(len(now))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            yield from (results[rank] for rank in range(len(now)))

    def total(self, part: Any, add: Any) -> Any:
        """As `parallel.total` outside of all work."""
        return part

    @contextmanager
    def accompanied(self, work: Any) -> Iterator[tuple[int, list[Any]]]:
        """As `parallel.accompanied`."""
        lead, found = _Lead(self.size), dict[int, Any]()

        def run(rank: int, own: Any) -> None:
            parallel._CURRENT.set(_Follower(lead, rank))
            try:
                found[rank] = own((rank, self.size))
            except Exception as error:
                lead.up[rank].put(error)

        threads = [threading.Thread(target=run, args=[rank, _sent(work)]) for rank in lead.up]
        for thread in threads:
            thread.start()
        token, results = parallel._CURRENT.set(lead), list[Any]()
        try:
            yield self.size, results
        except Exception:
            lead.hand(parallel._StopError(), torch.zeros(0))
            raise
        finally:
            parallel._CURRENT.reset(token)
            for thread in threads:
                thread.join()
        results.extend(found[rank] for rank in lead.up)


class _Thread(parallel._Undivided):
    def __init__(self, threads: Threads, rank: int, barrier: threading.Barrier) -> None:
        self._threads, self._rank, self._barrier = threads, rank, barrier

    def total(self, part: Any, add: Any) -> Any:
        parts = self._threads._parts
        parts[self._rank] = _sent(part)
        self._barrier.wait(60)
        whole = add([parts[rank] for rank in range(self._barrier.parties)])
        self._barrier.wait(60)
        return whole


class _Lead(parallel._Undivided):
    """The first of threads that compute what it hands out."""

    def __init__(self, size: int) -> None:
        self.up: dict[int, queue.SimpleQueue[Any]] = {rank: queue.SimpleQueue() for rank in range(1, size)}
        self.down: dict[int, queue.SimpleQueue[Any]] = {rank: queue.SimpleQueue() for rank in range(1, size)}

    def total(self, part: Any, add: Any) -> Any:
        whole = add([part, *(_got(each) for each in self.up.values())])
        for each in self.down.values():
            each.put(_sent(whole))
        return whole

    def hand(self, value: Any, tensor: torch.Tensor) -> None:
        for each in self.down.values():
            each.put(value if isinstance(value, Exception) else (value, tensor.clone()))

    def add_up(self, tensor: torch.Tensor) -> None:
        for each in self.up.values():
            tensor += _got(each)


class _Follower(parallel._Undivided):
    def __init__(self, lead: _Lead, rank: int) -> None:
        self._up, self._down = lead.up[rank], lead.down[rank]

    def total(self, part: Any, add: Any) -> Any:
        self._up.put(_sent(part))
        return _got(self._down)

    def handed(self, tensor: torch.Tensor) -> Any:
        value, sent = _got(self._down)
        tensor.copy_(sent)
        return value

    def add_up(self, tensor: torch.Tensor) -> None:
        self._up.put(tensor.clone())


def _got(coming: queue.SimpleQueue[Any]) -> Any:
    value = coming.get(timeout=60)
    if isinstance(value, Exception):
        raise value
    return value


def _sent(value: Any) -> Any:
    packed = io.BytesIO()
    torch.save(value, packed)
    return torch.load(io.BytesIO(packed.getvalue()), weights_only=False)


@contextmanager
def divided(size: int) -> Iterator[None]:
    """Divide what is given to `spread` among so many threads."""
    token = parallel._CURRENT.set(Threads(size))  # type: ignore[arg-type]  # a test's own
    try:
        yield
    finally:
        parallel._CURRENT.reset(token)
