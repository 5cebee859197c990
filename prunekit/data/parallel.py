"""Data parallelism: passes over batches that the processes of one run divide; rank 0 runs the command, the others compute for it.

Rank 0 alone reads, decides, times, prints and writes, so that no two processes can come to different decisions. A pass over batches that
can be divided is written ``for result in spread(work, batches)``: results come in the order of the batches, whichever process computed
them, and with one process it is ``map(work, batches)``. Between passes the others wait.

A training is `accompanied` by the others: rank 0 hands out, step by step, weights and the number of a batch, each process computes the
gradients of its rows, and rank 0 adds them up.

`work` and what it returns travel between the processes of one run as pickles, as `torch.distributed` itself sends objects.
"""

from __future__ import annotations

import os
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, final

from prunekit.data.messages import Wire
from prunekit.errors import ProcessError, PrunekitError
from prunekit.validation.launcher import Place

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Within this time all processes must have come; a launcher starts them at once.
COME = timedelta(minutes=5)
#: What rank 0 does alone, such as timing or a training on a GPU, may take this long.
_WAIT = timedelta(days=30)
#: Environment variables by which accelerate, or a program that is started, would take part in a group of its own.
_READ = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class Divider(Protocol):
    """Who computes a pass: this process alone, or several.

    Attributes
    ----------
    size : int
        Number of processes among which a pass is divided; within the work of one item that is 1.
    """

    size: int

    def spread(self, work: Callable[[Item], Result], items: Iterable[Item], *, beside: bool = False) -> Iterator[Result]:
        """See `spread`."""

    def total(self, part: Result, add: Callable[[Sequence[Result]], Result]) -> Result:
        """See `total`."""

    def accompanied(self, work: Callable[[tuple[int, int]], Any]) -> AbstractContextManager[tuple[int, list[Any]]]:
        """See `accompanied`."""

    def hand(self, value: object, tensor: Tensor) -> None:
        """See `hand`."""

    def handed(self, tensor: Tensor) -> Any:
        """See `handed`."""

    def add_up(self, tensor: Tensor) -> None:
        """See `add_up`."""


class _Undivided(ABC):
    """One process: what is spread is its own."""

    size = 1

    def spread(self, work: Callable[[Item], Result], items: Iterable[Item], *, beside: bool = False) -> Iterator[Result]:
        """See `spread`."""
        return map(work, items)

    def accompanied(self, work: Callable[[tuple[int, int]], Any]) -> AbstractContextManager[tuple[int, list[Any]]]:
        """See `accompanied`."""
        return nullcontext((1, []))

    def hand(self, value: object, tensor: Tensor) -> None:
        """See `hand`."""
        assert self.size == 1, "there is somebody to hand it to"

    def handed(self, tensor: Tensor) -> Any:
        """See `handed`: nothing."""
        return None

    def add_up(self, tensor: Tensor) -> None:
        """See `add_up`."""
        assert self.size == 1, "there are other parts"

    @abstractmethod
    def total(self, part: Result, add: Callable[[Sequence[Result]], Result]) -> Result:
        """See `total`."""


@final
class _Alone(_Undivided):
    """The only process."""

    def total(self, part: Result, add: Callable[[Sequence[Result]], Result]) -> Result:
        return part


_ALONE = _Alone()
_CURRENT: ContextVar[Divider] = ContextVar("divider", default=_ALONE)


def size() -> int:
    """Return the number of processes among which `spread` divides."""
    return _CURRENT.get().size


def shares(items: int) -> list[range]:
    """Return the numbers of the items of each process, at least one each: every n-th, as `spread` hands them out."""
    return [range(rank, items, size()) for rank in range(min(size(), items))]


def spread(work: Callable[[Item], Result], items: Iterable[Item], *, beside: bool = False) -> Iterator[Result]:
    """Yield ``work(item)`` for each of `items`, in their order, computed by all processes in turn.

    Parameters
    ----------
    work : callable
        Of a class or function of this package, with all that it needs; it and its results can be pickled. What it raises in another
        process is raised here.
    items : iterable
        Read by rank 0 alone, one for each process ahead.
    beside : bool
        Only by processes on the machine of rank 0, which see its files.
    """
    return _CURRENT.get().spread(work, items, beside=beside)


def total(part: Result, add: Callable[[Sequence[Result]], Result]) -> Result:
    """Return, inside the `work` on one of `shares`, ``add`` of the parts of all processes that have one, in the order of their ranks."""
    return _CURRENT.get().total(part, add)


def accompanied(work: Callable[[tuple[int, int]], Any]) -> AbstractContextManager[tuple[int, list[Any]]]:
    """Let each other process do ``work((rank, size))`` while rank 0 is in the context, and hands out what they compute next.

    The context is the number of processes, and a list, which has at its end what the work of each other process has returned, by ranks.
    """
    return _CURRENT.get().accompanied(work)


def hand(value: object, tensor: Tensor) -> None:
    """Send a value and a tensor (k,) float32 from rank 0 to the others in `accompanied` work.

    The tensor is not to be changed until they have answered by `total` or `add_up`.
    """
    _CURRENT.get().hand(value, tensor)


def handed(tensor: Tensor) -> Any:
    """Wait, inside `accompanied` work, for what rank 0 hands out next: return the value, and fill the tensor."""
    return _CURRENT.get().handed(tensor)


def add_up(tensor: Tensor) -> None:
    """Add, in rank 0, the tensors (k,) float32 of the others to its own, in the order of their ranks; theirs stay as they are."""
    _CURRENT.get().add_up(tensor)


class _StopError(Exception):
    """What a process waits for will not come: another one has failed."""


@final
class Leader(_Undivided):
    """Rank 0, which hands out what is to be computed; the context in which it does so is that of `leading`.

    Outside of all work its part is the only one.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire, self.size = wire, wire.place.size
        self._owed: Counter[int] = Counter()

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Divide what is given to `spread` while the context is open; what else runs in it sees one process."""
        token = _CURRENT.set(self)
        hidden = {name: os.environ.pop(name) for name in _READ if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(hidden)
            _CURRENT.reset(token)

    def end(self, code: int) -> None:
        """Let the other processes end with an exit code."""
        # Who has ended already needs no message.
        with suppress(ProcessError):
            self._settle()
            others = range(1, self.size)
            self._wire.send(others, "end", code)
            for rank in others:
                self._wire.flush(rank)

    def spread(self, work: Callable[[Item], Result], items: Iterable[Item], *, beside: bool = False) -> Iterator[Result]:
        """See `spread`."""
        others = range(1, self._wire.place.beside if beside else self.size)
        self._settle()
        self._wire.send(others, "work", work)
        coming, helped = iter(items), _Helped(self, self._wire)
        now = self._hand(coming, others)
        while now:
            # One ahead, so that nobody waits while results are put away here.
            after = self._hand(coming, others)
            helped.others = others[: len(now) - 1]
            token = _CURRENT.set(helped)
            try:
                result = work(now[0])
            finally:
                _CURRENT.reset(token)
            yield result
            for rank, _ in zip(others, now[1:], strict=False):
                yield self.take(rank, "done")
            now = after
        self._wire.send(others, "work", None)

    def total(self, part: Result, add: Callable[[Sequence[Result]], Result]) -> Result:
        """See `total`."""
        return part

    @contextmanager
    def accompanied(self, work: Callable[[tuple[int, int]], Any]) -> Iterator[tuple[int, list[Any]]]:
        """See `accompanied`."""
        others, results = range(1, self.size), list[Any]()
        self._settle()
        self._wire.send(others, "work", work)
        for rank in others:
            self._wire.send([rank], "item", (rank, self.size))
            self._owed[rank] += 1
        helped = _Helped(self, self._wire)
        helped.others = others
        token = _CURRENT.set(helped)
        try:
            yield self.size, results
        except Exception:
            # Who waits for what comes next, waits in vain.
            with suppress(ProcessError):
                self._wire.send(others, "stop", None)
            raise
        finally:
            _CURRENT.reset(token)
        results.extend(self.take(rank, "done") for rank in others)
        self._wire.send(others, "work", None)

    def take(self, rank: int, word: str, into: Tensor | None = None) -> Any:
        """Return what a process answers; raise what it raised."""
        found, value = self._wire.receive(rank, into)
        if found != "part":
            self._owed[rank] -= 1
        if found == "failed":
            raise value
        assert found == word, "every process takes part in every total"
        return value

    def _hand(self, coming: Iterator[Item], others: Sequence[int]) -> tuple[Item, ...]:
        items = tuple(islice(coming, 1 + len(others)))
        for rank, item in zip(others, items[1:], strict=False):
            self._wire.send([rank], "item", item)
            self._owed[rank] += 1
        return items

    def _settle(self) -> None:
        """Wait for the answers of a pass that was given up."""
        for rank in range(1, self.size):
            while self._owed[rank]:
                word, _ = self._wire.receive(rank)
                if word == "part":
                    self._wire.send([rank], "stop", None)
                else:
                    self._owed[rank] -= 1


@final
class _Helped(_Undivided):
    """Rank 0 within the work of one item."""

    def __init__(self, leader: Leader, wire: Wire) -> None:
        self._leader, self._wire = leader, wire
        self.others: Sequence[int] = ()
        self._theirs: Tensor | None = None

    def total(self, part: Result, add: Callable[[Sequence[Result]], Result]) -> Result:
        parts = [part]
        try:
            for rank in self.others:
                parts.append(self._leader.take(rank, "part"))
            whole = add(parts)
        except BaseException:
            # Whose part has been taken would wait for the whole.
            self._wire.send(self.others[: len(parts) - 1], "stop", None)
            raise
        self._wire.send(self.others, "whole", whole)
        return whole

    def hand(self, value: object, tensor: Tensor) -> None:
        self._wire.send(self.others, "next", value, tensor)

    def add_up(self, tensor: Tensor) -> None:
        for rank in self.others:
            if self._theirs is None:
                self._theirs = tensor.clone()
            self._leader.take(rank, "part", self._theirs)
            tensor += self._theirs


@final
class Helper(_Undivided):
    """Any other process, which computes what it is handed until it is told to end."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def help(self) -> int:
        """Compute until rank 0 ends; return its exit code, 2 where it has ended without a word."""
        token = _CURRENT.set(self)
        try:
            return self._help()
        except ProcessError:
            # The launcher says which process was killed.
            return 2
        finally:
            _CURRENT.reset(token)

    def _help(self) -> int:
        work: Callable[[Any], Any] | None = None
        while True:
            word, value = self._wire.receive(0)
            if word == "end":
                return int(value)
            if word == "work":
                work = value
            if word != "item":
                # What rank 0 sent before it knew that the work had failed is for nobody.
                continue
            assert work is not None, "rank 0 sends the work first"
            try:
                answer = "done", work(value)
            except ProcessError:
                raise
            except Exception as error:
                if not isinstance(error, PrunekitError):
                    place = self._wire.place
                    error.add_note(f"In process {place.rank + 1} of {place.size}:\n{traceback.format_exc()}")
                answer = "failed", error
            self._wire.send([0], *answer)

    def total(self, part: Result, add: Callable[[Sequence[Result]], Result]) -> Result:
        """See `total`."""
        self._wire.send([0], "part", part)
        word, whole = self._wire.receive(0)
        if word == "stop":
            raise _StopError
        result: Result = whole
        return result

    def handed(self, tensor: Tensor) -> Any:
        """See `handed`."""
        word, value = self._wire.receive(0, tensor)
        if word == "stop":
            raise _StopError
        return value

    def add_up(self, tensor: Tensor) -> None:
        """See `add_up`."""
        self._wire.send([0], "part", None, tensor)


@contextmanager
def joined(place: Place) -> Iterator[Leader | Helper]:
    """Meet the other processes of the run in one `torch.distributed` group, which is left at the end.

    Raises
    ------
    ProcessError
        Not all processes have come within five minutes.
    """
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous(f"env://?rank={place.rank}&world_size={place.size}", timeout=COME))
        store = distributed.PrefixStore("prunekit", store)  # type: ignore[attr-defined]  # torch does not say that it exports it
        store.set(str(place.rank), "here")
        store.wait([str(rank) for rank in range(place.size)], COME)
        # What is trained on a GPU is averaged by nccl, everything else is computed on the processor.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=_WAIT)
    except (RuntimeError, ValueError, OSError) as error:
        met = f"{os.environ['MASTER_ADDR'][:200]}:{os.environ['MASTER_PORT'][:20]}"
        raise ProcessError(
            f"The {place.size} processes that WORLD_SIZE announces have not met at {met}: {str(error).splitlines()[0][:200]}. Start them "
            "with torchrun, or leave WORLD_SIZE unset for one process."
        ) from error
    try:
        wire = Wire(place)
        yield Helper(wire) if place.rank else Leader(wire)
    finally:
        distributed.destroy_process_group()
