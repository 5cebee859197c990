"""The command line: parsing and printing only.

Anything that takes time to import is imported inside a command, so that ``--help`` answers at once.
Exit codes: 0 done; 1 a constraint that cannot be met; 2 a mistake in what was asked; 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer import Argument, Option

from prunekit import __version__
from prunekit.errors import PrunekitError

if TYPE_CHECKING:
    from prunekit.plan import Plan
    from prunekit.recipe import Recipe

# The base of all that can be wrong with a command line; Typer does not export it by name.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]

_WIDEST = 60  # characters of a list of indices that are printed

_PLAIN: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,  # rich takes longer to import than everything else here
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

app = typer.Typer(name="prunekit", **_PLAIN)

# Every option's default is None, "not given", so that a recipe's value is only replaced by one that was given;
# the defaults themselves are the Recipe's.
_Model = Annotated[str | None, Argument(metavar="MODEL", help="Directory or hub name [default: all-MiniLM-L6-v2, with the 'demo' extra].")]
_Data = Annotated[str | None, Option("--data", metavar="NAME", help="File, directory or hub name [default: that of the 'demo' extra].")]
_DataConfig = Annotated[
    str | None, Option("--data-config", metavar="NAME", help="Configuration of a hub data set, such as 'sst2' of 'glue'.")
]
_Keep = Annotated[
    list[str] | None,
    Option(
        "--keep",
        metavar="BUDGET",
        help="'10%', '40% params', '40% macs', '25% latency' or '8 MB'; repeat it, all hold "
        "[default: 10%, or 'none' with --layers or --vocabulary].",
    ),
]
_Layers = Annotated[
    str | None, Option("--layers", metavar="BLOCKS", help="Blocks to keep, such as '0-3' or '0,2,4' [default: all that are read].")
]
_Vocabulary = Annotated[
    str | None, Option("--vocabulary", metavar="NAME", help="'all', or 'data': tokens that train does not use are removed [default: all].")
]
_Uniform = Annotated[bool | None, Option("--uniform", help="Leave all blocks with equally many heads and FFN neurons.", show_default=False)]
_MultipleOf = Annotated[
    int | None, Option("--multiple-of", metavar="N", help="8, 16 or 32: round FFN widths to a multiple of it [default: 1].")
]
_PlanFile = Annotated[Path, Option("--plan", metavar="FILE", help="The plan to carry out.")]
_ApplyData = Annotated[
    str | None, Option("--data", metavar="NAME", help="File, directory or hub name, to solve the weights anew and to measure.")
]
_PlanOut = Annotated[Path, Option("--out", "-o", metavar="FILE", help="File to write [default: plan.json].", show_default=False)]
_MaxDrop = Annotated[
    str | None, Option("--max-drop", metavar="PERCENT", help="Largest relative loss of the metric; more is an error [default: no bound].")
]
_Method = Annotated[str | None, Option("--method", metavar="NAME", help="'prunekit' or 'dalvi2020' [default: prunekit].")]
_Task = Annotated[
    str | None,
    Option("--task", metavar="NAME", help="'text-classification', 'regression' or 'token-classification' [default: told by the data]."),
]
_Metric = Annotated[
    str | None,
    Option("--metric", metavar="NAME", help="'accuracy', 'f1', 'matthews', 'pearson' or 'spearman' [default: the task's usual one]."),
]
_TextColumn = Annotated[str | None, Option("--text", metavar="COLUMN", help="Column of the text [default: found by name].")]
_TextPair = Annotated[str | None, Option("--text-pair", metavar="COLUMN", help="Column of the second text [default: found by name].")]
_Label = Annotated[str | None, Option("--label", metavar="COLUMN", help="Column of the label [default: found by name].")]
_Tokens = Annotated[str | None, Option("--tokens", metavar="COLUMN", help="Column of the words of a token task [default: found by name].")]
_Tags = Annotated[str | None, Option("--tags", metavar="COLUMN", help="Column of the words' tags [default: found by name].")]
_Pooling = Annotated[
    str | None,
    Option(
        "--pooling",
        metavar="NAME",
        help="How a sentence's tokens become one row: 'cls', 'mean' or 'last' [default: cls of a fine-tuned model, mean of a base model].",
    ),
]
_LayerDelta = Annotated[
    str | None, Option("--layer-delta", metavar="PERCENT", help="Relative loss that the choice of the top layer may cost [default: 1%].")
]
_NeuronDelta = Annotated[
    str | None, Option("--neuron-delta", metavar="PERCENT", help="Relative loss that the choice of neurons may cost [default: 1%].")
]
_Threshold = Annotated[
    float | None,
    Option(
        "--threshold",
        metavar="NUMBER",
        help="Correlation distance below which neurons are one cluster, 0 to 1 [default: 0.3 for dalvi2020, no clusters for prunekit].",
    ),
]
_MaxLength = Annotated[int | None, Option("--max-length", metavar="N", help="Tokens after which an input is cut [default: 128].")]
_Seed = Annotated[int | None, Option("--seed", metavar="N", help="Seed of everything that is drawn [default: 0].")]
_Threads = Annotated[int | None, Option("--threads", metavar="N", help="Processor threads with which latency is measured [default: 1].")]
_Revision = Annotated[str | None, Option("--revision", metavar="NAME", help="Branch, tag or commit of a hub model.")]
_Trust = Annotated[bool | None, Option("--trust-remote-code", help="Run code that comes with the model.", show_default=False)]
_RecipeFile = Annotated[
    Path | None, Option("--recipe", metavar="FILE", help="YAML file of these options; those given here take precedence.")
]
_Out = Annotated[Path, Option("--out", "-o", metavar="DIR", help="Directory to write [default: prunekit-out].", show_default=False)]
_Overwrite = Annotated[bool, Option("--overwrite", help="Replace what prunekit wrote there before.", show_default=False)]
_Quiet = Annotated[bool, Option("--quiet", "-q", help="Print the name of what was written and nothing else.", show_default=False)]
_Version = Annotated[bool, Option("--version", help="Print the version and exit.", show_default=False)]


class _Interrupted(BaseException):
    """SIGINT or SIGTERM; not a KeyboardInterrupt, which Typer would answer on its own."""


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return the exit code; unexpected errors keep their traceback."""
    handlers = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return int(app(args=None if argv is None else list(argv), prog_name="prunekit", standalone_mode=False) or 0)
    except PrunekitError as error:
        _complain(str(error))
        return error.exit_code
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "prunekit"
        _complain(f"{error.format_message().rstrip('.')}. See '{command} --help'.")
        return 2
    except _Interrupted:
        print("interrupted, nothing was written", file=sys.stderr)
        return 130
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _complain(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


def _help_if_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, version: _Version = False) -> None:
    """Find what a task does not need of a transformer encoder, remove it, and measure what ships."""
    if version:
        print(f"prunekit {__version__}")
        raise typer.Exit
    _help_if_alone(context)


@app.command()
def compress(
    context: typer.Context,
    model: _Model = None,
    data: _Data = None,
    out: _Out = Path("prunekit-out"),
    keep: _Keep = None,
    layers: _Layers = None,
    vocabulary: _Vocabulary = None,
    uniform: _Uniform = None,
    multiple_of: _MultipleOf = None,
    max_drop: _MaxDrop = None,
    method: _Method = None,
    task: _Task = None,
    metric: _Metric = None,
    text: _TextColumn = None,
    text_pair: _TextPair = None,
    label: _Label = None,
    tokens: _Tokens = None,
    tags: _Tags = None,
    data_config: _DataConfig = None,
    pooling: _Pooling = None,
    layer_delta: _LayerDelta = None,
    neuron_delta: _NeuronDelta = None,
    threshold: _Threshold = None,
    max_length: _MaxLength = None,
    seed: _Seed = None,
    threads: _Threads = None,
    revision: _Revision = None,
    trust_remote_code: _Trust = None,
    recipe: _RecipeFile = None,
    overwrite: _Overwrite = False,
    quiet: _Quiet = False,
) -> None:
    """Compress MODEL for the task of --data and write a directory that is ready to deploy."""
    _run(_recipe(recipe, context.params), out, overwrite, quiet)


@app.command()
def plan(
    context: typer.Context,
    model: _Model = None,
    data: _Data = None,
    out: _PlanOut = Path("plan.json"),
    keep: _Keep = None,
    layers: _Layers = None,
    vocabulary: _Vocabulary = None,
    uniform: _Uniform = None,
    multiple_of: _MultipleOf = None,
    method: _Method = None,
    task: _Task = None,
    metric: _Metric = None,
    text: _TextColumn = None,
    text_pair: _TextPair = None,
    label: _Label = None,
    tokens: _Tokens = None,
    tags: _Tags = None,
    data_config: _DataConfig = None,
    pooling: _Pooling = None,
    layer_delta: _LayerDelta = None,
    neuron_delta: _NeuronDelta = None,
    threshold: _Threshold = None,
    max_length: _MaxLength = None,
    seed: _Seed = None,
    revision: _Revision = None,
    trust_remote_code: _Trust = None,
    recipe: _RecipeFile = None,
    overwrite: _Overwrite = False,
    quiet: _Quiet = False,
) -> None:
    """Decide what to keep of MODEL for the task of --data, and write that down as a plan; no model is written."""
    asked = _recipe(recipe, context.params)
    from prunekit.pipeline import run_plan

    found = run_plan(asked, out=out, overwrite=overwrite, progress=not quiet)
    if quiet:
        print(out)
        return
    _describe(found)
    print(f"\nwritten to {out}")
    print(f"carry it out: prunekit apply MODEL --plan {out} --data NAME")


@app.command()
def apply(
    context: typer.Context,
    plan: _PlanFile,
    model: _Model = None,
    data: _ApplyData = None,
    out: _Out = Path("prunekit-out"),
    max_drop: _MaxDrop = None,
    task: _Task = None,
    metric: _Metric = None,
    text: _TextColumn = None,
    text_pair: _TextPair = None,
    label: _Label = None,
    tokens: _Tokens = None,
    tags: _Tags = None,
    data_config: _DataConfig = None,
    pooling: _Pooling = None,
    max_length: _MaxLength = None,
    seed: _Seed = None,
    threads: _Threads = None,
    revision: _Revision = None,
    trust_remote_code: _Trust = None,
    overwrite: _Overwrite = False,
    quiet: _Quiet = False,
) -> None:
    """Carry out a plan on MODEL and write a directory that is ready to deploy.

    With --data, weights are solved anew, a readout's classifier is fitted and everything is measured; without, weights are only cut.
    """
    _run(_recipe(None, context.params), out, overwrite, quiet)


def _run(asked: Recipe, out: Path, overwrite: bool, quiet: bool) -> None:
    from prunekit.pipeline import run

    result = run(asked, out=out, overwrite=overwrite, progress=not quiet)
    if quiet:
        print(result.path)
        return
    from prunekit.report.tables import render_terminal

    render_terminal(result.report)
    print(f"\nwritten to {result.path}")
    print(f"load it in Python: import prunekit; model = prunekit.load({str(result.path)!r})")


def _recipe(path: Path | None, options: dict[str, Any]) -> Recipe:
    """The recipe of a file, or the defaults, with the options that were given in their place."""
    from prunekit.recipe import Recipe

    given = {name: value for name, value in options.items() if name in Recipe.model_fields and value not in (None, [], ())}
    return Recipe(**given) if path is None else Recipe.load(path).replace(**given)


@app.command()
def show(
    plan: Annotated[Path, Argument(metavar="PLAN", help="A plan.json.")],
    other: Annotated[Path | None, Argument(metavar="OTHER", help="Another one, to compare with.")] = None,
) -> None:
    """Print what a plan keeps, unit by unit, or what two plans keep differently, the first one's first."""
    from prunekit.plan import Plan
    from prunekit.plan_ops import diff

    first = Plan.load(plan)
    if other is None:
        _describe(first)
    else:
        print(diff(first, Plan.load(other)) or "the two plans keep the same")


def _describe(plan: Plan) -> None:
    """The plan as a table; what is not named is kept whole."""
    from prunekit.plan_ops import describe

    print(f"plan {plan.digest[:12]} for {', '.join(f'{name} {value}' for name, value in plan.source)}")
    rows = describe(plan)
    for unit, kept, which in rows:
        print(f"{unit:<{max(len(row[0]) for row in rows)}}  {kept:>{max(len(row[1]) for row in rows)}}  {_short(which)}")
    if not rows:
        print("everything is kept")


def _short(which: str) -> str:
    """A long list of ranges is for the file, not for the screen."""
    return which if len(which) <= _WIDEST else f"{which[:_WIDEST].rpartition(',')[0]},..."
