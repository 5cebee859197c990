"""What every command has in common: the program itself, how it ends, and how a mistake is said.

Anything that takes time to import is imported inside a command, so that ``--help`` answers at once.
Exit codes: 0 done; 1 a constraint that cannot be met, or a directory that is not what was written; 2 a mistake in what was asked;
130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO

import typer

from prunekit import __version__
from prunekit.cli.mistakes import usage
from prunekit.errors import PrunekitError
from prunekit.validation.escape import one_line, terminal

# The base of all that can be wrong with a command line; Typer does not export it by name.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]

_PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,  # rich takes longer to import than everything else here
    "pretty_exceptions_enable": False,
    # Typer loads pydantic to check the values of its own options that nobody gave.
    "context_settings": {
        "help_option_names": ["-h", "--help"],
        "default_map": {"help": False, "install_completion": False, "show_completion": False},
    },
}

app = typer.Typer(name="prunekit", **_PLAIN)


_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP; not a KeyboardInterrupt, which Typer would answer on its own."""


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return the exit code; unexpected errors keep their traceback."""
    if sys.stdout is None:
        # A file that is opened next would take its place, and whatever is printed would go into that.
        _complain("The standard output is closed. Send it to /dev/null if nobody is to read it.")
        return 2
    if sys.stderr is None:
        # As above; but a run is not refused because nobody listens to what it says meanwhile.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # to the end of the process
    for stream in (sys.stdout, sys.stderr):
        # A terminal that does not know a character is shown its number; that is no reason to fail.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    # What is ignored stays so: nohup asks for it.
    numbers = [number for number in _INTERRUPTS if signal.getsignal(number) is not signal.SIG_IGN]
    handlers = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        code = int(app(args=None if argv is None else list(argv), prog_name="prunekit", standalone_mode=False) or 0)
        sys.stdout.flush()
        return code
    except PrunekitError as error:
        _complain(str(error))
        return error.exit_code
    except OSError as error:
        _complain(_system(error))
        return 2
    except MemoryError:
        _complain("There is not enough memory for this model and these data.")
        return 2
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "prunekit"
        said = usage(error)
        _complain(f"{said}{'' if said.endswith('?') else '.'} See '{command} --help'.")
        return 2
    except _Interrupted as stopped:
        with contextlib.suppress(OSError):
            print("; ".join(["interrupted, nothing was written", *getattr(stopped, "__notes__", ())]), file=sys.stderr)
        return 130
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _system(error: OSError) -> str:
    """What the system refused, which nothing that was asked says more of: a closed pipe, a full disk, a directory that went away."""
    if error.filename is None:
        # What is printed is all that has no name.
        _let_go(sys.stdout)
        return f"The output cannot be printed: {error.strerror or error}."
    return f"{error.strerror or error}: {str(error.filename)[:200]!r}."


def _complain(message: str) -> None:
    # Where nobody listens any more the exit code has to do.
    try:
        print(f"error: {one_line(message)}", file=sys.stderr, flush=True)
    except OSError:
        _let_go(sys.stderr)


def _let_go(stream: TextIO) -> None:
    """Python would flush it once more, and fail once more with an exit code of its own, on its way out."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines of which a part came from outside: what a terminal would obey is shown."""
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
