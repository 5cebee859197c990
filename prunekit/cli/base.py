"""The program itself: its entry point, its exit codes, and its error messages.

Anything that takes time to import is imported inside a command, so that ``--help`` answers at once.
Exit codes: 0 done; 1 a constraint that cannot be met, or a directory that is not what was written; 2 a usage error;
130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO

import typer

from prunekit import __version__
from prunekit.cli.mistakes import usage
from prunekit.errors import PrunekitError
from prunekit.validation.escape import one_line, terminal
from prunekit.validation.launcher import Place, launched

# Base class of all usage errors; Typer does not export it by name.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]

_PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,  # rich takes longer to import than everything else here
    "pretty_exceptions_enable": False,
    # Typer loads pydantic to check the values of its own options that were not given.
    "context_settings": {
        "help_option_names": ["-h", "--help"],
        "default_map": {"help": False, "install_completion": False, "show_completion": False},
    },
}

app = typer.Typer(name="prunekit", **_PLAIN)


_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
#: Commands whose work processes of one run divide, and options with which each process does its own.
_DIVIDED = {"compress", "plan", "apply", "collect", "analyze", "export", "bench"}
_ALONE = {"--shard", "--help", "-h", "--version"}


#: How the variables begin by which launchers of several processes speak to accelerate, which reads them when a training starts.
_LAUNCHERS = ("ACCELERATE_", "WORLD_SIZE", "LOCAL_RANK", "RANK", "OMPI_", "PMI_", "MV2_")
#: Beginnings of the names of modules that read them.
_LAUNCHED = ("accelerate.", "transformers.training_args", "torch.distributed.")


class _Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP; not a KeyboardInterrupt, which Typer would answer on its own."""


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return the exit code; unexpected errors keep their traceback."""
    if sys.stdout is None:
        # The next file opened would take its descriptor, and printed output would go into that file.
        _complain("The standard output is closed. Send it to /dev/null if nobody is to read it.")
        return 2
    if sys.flags.optimize > 1:
        _complain("Python runs without docstrings, which transformers reads. Leave out -OO, or PYTHONOPTIMIZE=2.")
        return 2
    if sys.stderr is None:
        # As above; but a run does not need the standard error.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # to the end of the process
    for stream in (sys.stdout, sys.stderr):
        # Characters outside of a terminal's encoding are escaped instead of raising an error.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        place = None if _independent(sys.argv[1:] if argv is None else argv) else launched(os.environ)
    except PrunekitError as error:
        _complain(str(error))
        return error.exit_code
    # Ignored signals stay ignored, as nohup requires.
    numbers = [number for number in _INTERRUPTS if signal.getsignal(number) is not signal.SIG_IGN]
    # Before processes have met, and in those that only compute, nothing is written that a signal must not cut short.
    handlers = {number: signal.signal(number, _interrupt if place is None else signal.SIG_DFL) for number in numbers}
    try:
        return _caught(partial(_run, argv)) if place is None else _caught(partial(_with_others, place, argv, numbers))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _independent(argv: Sequence[str]) -> bool:
    """Return whether processes that a launcher started need not talk to each other: each collects a part of its own, or shows something."""
    return not argv or argv[0] not in _DIVIDED or any(word.partition("=")[0] in _ALONE for word in argv)


def _with_others(place: Place, argv: Sequence[str] | None, interrupts: Sequence[signal.Signals]) -> int:
    """Run a command line as rank 0 of several processes, or compute for the one that does, and return the exit code of all."""
    from prunekit.data.parallel import Helper, joined

    with joined(place) as group:
        if isinstance(group, Helper):
            # What is sent is read by what takes seconds to import; the other process imports it meanwhile.
            from transformers.dynamic_module_utils import init_hf_modules

            import prunekit.pipeline.compress  # noqa: F401

            # Code that came with a model is found by its name there.
            init_hf_modules()  # type: ignore[no-untyped-call]  # transformers does not annotate it
            return group.help()
        for number in interrupts:
            signal.signal(number, _interrupt)
        code = 1
        try:
            with group.leading():
                code = _caught(partial(_run, argv))
        finally:
            # Who interrupts does not wait for what the others are computing: they end when this process does.
            if code != INTERRUPTED:
                group.end(code)
        return code


def _run(argv: Sequence[str] | None) -> int:
    code = int(app(args=None if argv is None else list(argv), prog_name="prunekit", standalone_mode=False) or 0)
    sys.stdout.flush()
    return code


def _caught(run: Callable[[], int]) -> int:
    """Return the exit code of what is run; say in a line what the user can mend."""
    try:
        return run()
    except PrunekitError as error:
        _complain(str(error))
        return error.exit_code
    except OSError as error:
        _complain(_system(error))
        return 2
    except ValueError as error:
        name = _variable(error)
        if name is None:
            raise
        _complain(f"The variable {name} of the environment holds {os.environ[name][:200]!r}, which no library takes. Leave it unset.")
        return 2
    except MemoryError:
        _complain("There is not enough memory for this model and these data.")
        return 2
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "prunekit"
        message = usage(error)
        _complain(f"{message}{'' if message.endswith('?') else '.'} See '{command} --help'.")
        return 2
    except _Interrupted as stopped:
        with contextlib.suppress(OSError):
            print("; ".join(["interrupted, nothing was written", *getattr(stopped, "__notes__", ())]), file=sys.stderr)
        return INTERRUPTED


def _variable(error: ValueError) -> str | None:
    """Return the environment variable whose value a library refused, on import or for training; None for any other error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__")) for frame in frames if frame.f_code.co_name == "<module>"]
    imported = any(not module.startswith("prunekit") for module in modules)
    # RANK=0 is in the text of many an error of another origin.
    launched = any(str(frame.f_globals.get("__name__")).startswith(_LAUNCHED) for frame in frames)
    known = {name: value for name, value in os.environ.items() if imported or (launched and name.startswith(_LAUNCHERS))}
    # Libraries repeat what they refuse: "invalid literal for int() with base 10: 'abc'"; some do so without quotes, or in capitals.
    text = f"{error} ".lower()
    repeated = {name: value.lower() for name, value in known.items() if value}
    refused = [name for name, value in repeated.items() if f"'{value}'" in text or f" {value} " in text or f" {value}, " in text]
    return max(refused, key=lambda name: len(repeated[name]), default=None)


def _system(error: OSError) -> str:
    """Describe an error of the system that no check foresaw: a closed pipe, a full disk, a directory that was removed."""
    if error.filename is None:
        # Only printed output has no file name.
        _discard(sys.stdout)
        return f"The output cannot be printed: {error.strerror or error}."
    return f"{error.strerror or error}: {str(error.filename)[:200]!r}."


def _complain(message: str) -> None:
    # Where the stream is closed, only the exit code remains.
    try:
        print(f"error: {one_line(message)}", file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Redirect a stream to the null device: at exit Python would flush it again, and fail with an exit code of its own."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(text: str, file: TextIO | None = None) -> None:
    """Print text that is partly external, with control characters escaped."""
    for line in text.split("\n"):
        print(terminal(line), file=file)


def _help_if_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", show_default=False)] = False,
) -> None:
    """Find what a task does not need of a transformer encoder, remove it, and measure what ships."""
    if version:
        print(f"prunekit {__version__}")
        raise typer.Exit
    _help_if_alone(context)
