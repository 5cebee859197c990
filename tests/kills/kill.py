"""One run that is killed, what is found afterwards, and what the next run makes of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: What lies beside the output and is somebody else's, by names that are nearly prunekit's own.
OTHERS = {"thesis.txt": "irreplaceable", ".out.tmp-mine/notes": "mine", ".out.tmp-0123456789abcdef/notes": "mine"}
#: Among the temporary files: what onnxruntime writes when it is imported, and what `tests.lines` does, in `PROGRAM`.
_NOT_OURS = (".ses", "prunekit-lines-")
_LEFT = re.compile(r"\.out\.(tmp-[0-9a-f]{16}|recover-[0-9a-f]{12})")
#: Latency is measured for as short as may be, so that kills land in everything else.
PROGRAM = """
import sys
from prunekit.cli import main
if sys.argv[1] in ("compress", "plan"):
    from tests.lines import quick
    with quick():
        sys.exit(main(sys.argv[1:]))
sys.exit(main(sys.argv[1:]))
"""

#: Waits for the moment, and kills the process with the number that it is given.
Killer = Callable[[int], None]


@dataclass(frozen=True)
class Kind:
    """A command that is killed.

    Attributes
    ----------
    words : tuple of str
        The command line.
    old : Path or None
        What lies where the output goes.
    names : frozenset of str
        Files of an output that is complete.
    program : str
        What runs the words, which are its arguments, and ``show OUT --verify``.
    forks : bool
        Whether this process may be forked, which has imported everything and has no threads.
    """

    words: tuple[str, ...]
    old: Path | None
    names: frozenset[str]
    program: str = PROGRAM
    forks: bool = True


@dataclass(frozen=True)
class Ended:
    """How a kill ended.

    Attributes
    ----------
    fault : str
        What is not as promised; "" if nothing is.
    output : str
        "none", "old" or "new"; "finished" where the run was over before the kill.
    left : int
        Entries beside the output.
    temporary : int
        Entries in the system's directory of temporary files.
    """

    fault: str
    output: str
    left: int = 0
    temporary: int = 0


def start(words: Sequence[str], home: Path, *, fresh: bool = False, program: str = PROGRAM) -> int:
    """Start a command in a process of its own, a fresh interpreter or a fork of this one; its number."""
    (home / "temporary").mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(home / "temporary")}
    with (home / "said").open("w", encoding="utf-8") as said:
        if fresh:
            streams = [(os.POSIX_SPAWN_DUP2, said.fileno(), number) for number in (1, 2)]
            return os.posix_spawn(sys.executable, [sys.executable, "-c", program, *words], environment, file_actions=streams)
        child = os.fork()
        if child == 0:
            _command(words, home, environment, said.fileno(), program)
    return child


def _command(words: Sequence[str], home: Path, environment: dict[str, str], said: int, program: str) -> None:
    """Run a command, and end this process as it ends."""
    code = 1
    try:
        os.environ.update(environment)
        os.chdir(home)
        for number in (1, 2):
            os.dup2(said, number)
        sys.argv = ["prunekit", *words]
        exec(program, {})  # the same text as in a fresh interpreter
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def runs(child: int) -> bool:
    """Whether a process still runs; it is left to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def wait(child: int, seconds: float) -> int:
    """The exit code of a process, negative for a signal; it is killed where it takes longer."""
    end, pause = time.monotonic() + seconds, 0.0005
    while runs(child) and time.monotonic() < end:
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        pause = min(2 * pause, 0.02)
    if runs(child):
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def near_the_commit(home: Path, seconds: float, longest: float) -> Callable[[int], int]:
    """Kill a process some seconds after the last file of its output, the manifest, was begun."""

    def kill(child: int) -> int:
        end = time.monotonic() + longest
        while runs(child) and not any(home.glob(".out.tmp-*/new/manifest.json")) and time.monotonic() < end:
            time.sleep(0.0003)
        return wait(child, seconds)

    return kill


def killed(kind: Kind, home: Path, kill: Callable[[int], int], *, fresh: bool = False, longest: float = 600.0) -> Ended:
    """Kill one run, look at what is there, run it again to its end, and look again.

    Parameters
    ----------
    kind : Kind
        Its command line names ``out``, in `home`, as the output.
    home : Path
        A directory that does not exist yet.
    kill : callable
        Waits for its moment, kills the process with a number, and returns its exit code.
    fresh : bool
        Whether the run is in a fresh interpreter, which is killed in its imports too.
    longest : float
        Seconds that the next run may take.
    """
    beside, out = home / "beside", home / "beside" / "out"
    for name, text in OTHERS.items():
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).write_text(text, encoding="utf-8")
    if kind.old is not None:
        (shutil.copytree if kind.old.is_dir() else shutil.copyfile)(kind.old, out)
    words = [word.replace("{out}", str(out)) for word in kind.words]
    if kill(start(words, home, fresh=fresh or not kind.forks, program=kind.program)) != -signal.SIGKILL:
        return Ended("", "finished")
    output, left = _output(kind, out), [name for name in os.listdir(beside) if name != "out" and not _is_others(name)]
    temporary = len(_temporary(home))
    strange = [name for name in left if _LEFT.fullmatch(name) is None]
    fault = f"{strange[0]!r} is nothing that the next run clears" if strange else ""
    if output not in ("none", "old", "new"):
        fault, output = output, "half"
    elif output == "none" and kind.old is not None:
        fault = "the old output is gone"
    if output == "new" and "--overwrite" not in words:
        # What is there is whole, and is not replaced unasked.
        words.append("--overwrite")
    if wait(start(words, home, fresh=not kind.forks, program=kind.program), longest) != 0:
        fault = fault or f"the next run failed: {(home / 'said').read_text(encoding='utf-8')[-300:]}"
    elif (after := _output(kind, out)) != "new":
        fault = fault or f"after the next run: {after}"
    kept = {name for name in os.listdir(beside) if name != "out" and not _is_others(name)}
    if kept:
        fault = fault or f"left by the next run: {sorted(kept)[0]!r}"
    if _temporary(home):
        fault = fault or f"left by the next run in TMPDIR: {_temporary(home)[0]!r}"
    if any(not (beside / name).is_file() or (beside / name).read_text(encoding="utf-8") != text for name, text in OTHERS.items()):
        fault = "somebody else's file is gone"
    return Ended(fault, output, len(left), temporary)


def _temporary(home: Path) -> list[str]:
    return [name for name in os.listdir(home / "temporary") if not name.startswith(_NOT_OURS)]


def _is_others(name: str) -> bool:
    return name in {other.partition("/")[0] for other in OTHERS}


def _output(kind: Kind, out: Path) -> str:
    """What lies where the output goes: "none", "old", "new", or what is wrong with it."""
    if not out.exists():
        return "none"
    if kind.old is not None and _content(out) == _content(kind.old):
        return "old"
    names = frozenset(name for name, _ in _content(out))
    if names != kind.names:
        return f"half of an output: {sorted(names ^ kind.names)[:3]}"
    words = ["show", str(out), *(["--verify"] if out.is_dir() else [])]
    home = out.parent.parent
    if wait(start(words, home, fresh=not kind.forks, program=kind.program), 600.0) != 0:
        return f"an output that is not whole: {(home / 'said').read_text(encoding='utf-8')[-300:]}"
    return "new"


def _content(out: Path) -> frozenset[tuple[str, bytes]]:
    if out.is_file():
        return frozenset([("", out.read_bytes())])
    return frozenset((path.relative_to(out).as_posix(), path.read_bytes()) for path in out.rglob("*") if path.is_file())


def names_of(out: Path) -> frozenset[str]:
    """Names of the files of an output."""
    return frozenset(name for name, _ in _content(out))
