"""One hostile case, how it is run, and what is wrong with how it ended."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

#: Characters of the longest error.
LONGEST = 700
_LINE = re.compile(r"error: [^\x00-\x1f\x7f-\x9f]+\n")

_TEMPORARY, _ANSWERS = "temporary", "answers"
#: What the commands of the cases write into the case's own folder.
_OUTPUTS = ("out", "plan.json", "d", "nowhere", "dangling")

#: How lines of stderr begin in which libraries say themselves what they make of the environment; notes are ours.
_LIBRARIES = ("note: ", "libgomp: ", "Unknown option TRANSFORMERS_VERBOSITY=", "Unknown option DATASETS_VERBOSITY=")

#: The value of a variable that is to be left out of the environment.
_UNSET = "(unset)"
_PROGRAM = "import sys; from prunekit import cli; sys.exit(cli.main(sys.argv[1:]))"

Make = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """Something hostile.

    Attributes
    ----------
    name : str
    argv : tuple of str
        Of the command line; ``{slim}``, ``{model}``, ... are places of `tests.campaign.places`, ``{here}`` is the case's own folder.
    call : callable or None
        Of the Python interface, in the place of `argv`; it is given the same places.
    make : callable or None
        Puts files into the case's own folder beforehand.
    environment : mapping
    stdout : str
        Where the output goes, "" for a file of the driver's.
    gone : bool
        Whether the working directory is removed before the start.
    largest : int
        Bytes that the largest file may have, as on a disk that is full; 0: any.
    may : bool
        Whether it may also be taken for what it is: then it ends with exit code 0 and nothing on stderr, and leaves its output alone.
    fresh : bool
        Whether it needs an interpreter of its own, as what is read from the environment at the start does.
    beside : tuple of str
        What its output is called, where it is not called as usual.
    """

    name: str
    argv: tuple[str, ...] = ()
    call: Callable[[dict[str, str]], object] | None = None
    make: Make | None = None
    environment: dict[str, str] = field(default_factory=dict)
    stdout: str = ""
    gone: bool = False
    largest: int = 0
    may: bool = False
    fresh: bool = False
    beside: tuple[str, ...] = ()


def run(case: Case, places: dict[str, str], scratch: Path, seconds: float, memory: int) -> str:
    """What is wrong with how a case ended; "" if nothing is.

    It runs in a child of this process, so that a crash or an endless loop of it is its own.
    """
    here = scratch / "here"
    here.mkdir(parents=True)
    (scratch / _TEMPORARY).mkdir()
    # Whoever asks whether to run something is told to.
    (scratch / _ANSWERS).write_text("y\n" * 100)
    if case.make is not None:
        case.make(here)
    before = listing(here)
    out, err = scratch / "out", scratch / "err"
    child = os.fork()
    if child == 0:
        _child(case, {**places, "here": str(here)}, here, out, err, memory)
    status, late = _wait(child, seconds)
    written = case.environment.get("PYTHONIOENCODING", "").partition(":")[0]
    said = err.read_text(encoding=written or "utf-8", errors="replace")
    if late:
        return f"hang: more than {seconds:.0f} s"
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    code = os.WEXITSTATUS(status)
    if case.may and code == 0:
        return _taken(said, set(listing(here)) - set(before), case.beside)
    if "Traceback (most recent call last)" in said or "panicked at" in said:
        return f"traceback: {said.strip().splitlines()[-1][:300]}"
    if code != 2:
        return f"exit code {code}: {said.strip()[:300]}"
    if case.stdout == "" and out.read_text(encoding="utf-8", errors="replace"):
        return "something on stdout"
    if not _LINE.fullmatch(said):
        return f"not one line: {said[:300]!r}"
    if len(said) > LONGEST:
        return f"an error of {len(said)} characters: {said[:200]!r}"
    if not case.gone and listing(here) != before:
        return f"left behind: {sorted(set(listing(here)) ^ set(before))[:3]}"
    # onnxruntime writes a file of its own there (SECURITY.md).
    left = [each for each in listing(scratch / _TEMPORARY) if each[0] != ".ses"]
    if left:
        return f"left behind in the system's directory: {left[:3]}"
    return ""


def _taken(said: str, more: set[tuple[str, int]], beside: tuple[str, ...]) -> str:
    """What is wrong with how a case ended that was taken; "" if nothing is."""
    if any(line and not line.startswith(_LIBRARIES) for line in said.splitlines()):
        return f"taken, with something on stderr: {said.strip()[:300]!r}"
    strange = sorted(name for name, _ in more if name.split("/")[0] not in (*_OUTPUTS, *beside))
    return f"left beside the output: {strange[:3]}" if strange else ""


def listing(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of all that is in a folder."""
    return sorted((str(path.relative_to(folder)), path.lstat().st_size if not path.is_dir() else 0) for path in folder.rglob("*"))


def _wait(child: int, seconds: float) -> tuple[int, bool]:
    end = time.monotonic() + seconds
    pause = 0.002
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status, False
        signal.sigtimedwait([], pause)
        pause = min(2 * pause, 0.1)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1], True


def _child(case: Case, places: dict[str, str], here: Path, out: Path, err: Path, memory: int) -> None:
    """Run the case, and end the process as `prunekit` would."""
    code = 1
    try:
        os.chdir(here)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        os.environ["TMPDIR"] = tempfile.tempdir = str(here.parent / _TEMPORARY)
        os.environ.update(case.environment)
        os.dup2(os.open(here.parent / _ANSWERS, os.O_RDONLY), 0)
        for number, place in ((1, case.stdout or str(out)), (2, str(err))):
            os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if case.gone:
            os.rmdir(here)
        if case.largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (case.largest, resource.RLIM_INFINITY))
        if case.fresh:
            words = [_filled(word, places) for word in case.argv]
            environment = {name: value for name, value in os.environ.items() if value != _UNSET}
            os.execve(sys.executable, [sys.executable, "-c", _PROGRAM, *words], environment)
        code = _call(case, places)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            code = 120 if code == 0 else code
        sys.stderr.flush()
        os._exit(code)


def _call(case: Case, places: dict[str, str]) -> int:
    from prunekit import cli
    from prunekit.errors import PrunekitError

    if case.call is None:
        return cli.main([_filled(word, places) for word in case.argv])
    try:
        case.call(places)
    except PrunekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _filled(word: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        word = word.replace(f"{{{name}}}", place)
    return word
