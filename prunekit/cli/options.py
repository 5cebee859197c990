"""Options and arguments that commands share."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

_WHOLE = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)


def whole(text: str | int) -> int:
    """A whole number, in digits alone: `int` would read 1_0 as 10, and the digits of any script."""
    if isinstance(text, int):  # an option's default
        return text
    if _WHOLE.fullmatch(text) is None:
        raise BadParameter(f"{text[:40]!r} is not a whole number")
    return int(text)


def number(text: str | float) -> float:
    """A finite number, in digits alone."""
    if isinstance(text, float):
        return text
    if _NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
        raise BadParameter(f"{text[:40]!r} is not a number")
    return float(text)


# Every option's default is None, "not given", so that a recipe's value is only replaced by one that was given;
# the defaults themselves are the Recipe's.
Model = Annotated[str | None, Argument(metavar="MODEL", help="Directory or hub name [default: all-MiniLM-L6-v2, with the 'demo' extra].")]
Data = Annotated[str | None, Option("--data", metavar="NAME", help="File, directory or hub name [default: that of the 'demo' extra].")]
DataConfig = Annotated[
    str | None, Option("--data-config", metavar="NAME", help="Configuration of a hub data set, such as 'sst2' of 'glue'.")
]
Keep = Annotated[
    list[str] | None,
    Option(
        "--keep",
        metavar="BUDGET",
        help="'10%' of the model, '10% neurons', '40% params', '40% macs', '25% latency' or '8 MB'; repeat it, all hold "
        "[default: 10% where nothing else says what to remove].",
    ),
]
Speedup = Annotated[
    str | None,
    Option("--speedup", metavar="FACTOR", help="'3x': how many times as fast the file must be; a budget of latency [default: no bound]."),
]
Batch = Annotated[
    int | None,
    Option(
        "--batch",
        parser=whole,
        metavar="N",
        help="Rows in a batch at which a budget of latency must hold besides one row [default: one row alone].",
    ),
]
Frontier = Annotated[
    bool | None, Option("--frontier", help="Also make and measure slim models of several speeds, to choose from.", show_default=False)
]
Layers = Annotated[
    str | None, Option("--layers", metavar="BLOCKS", help="Blocks to keep, such as '0-3' or '0,2,4' [default: all that are read].")
]
Vocabulary = Annotated[
    str | None, Option("--vocabulary", metavar="NAME", help="'all', or 'data': tokens that train does not use are removed [default: all].")
]
Uniform = Annotated[bool | None, Option("--uniform", help="Leave all blocks with equally many heads and FFN neurons.", show_default=False)]
MultipleOf = Annotated[
    int | None, Option("--multiple-of", parser=whole, metavar="N", help="8, 16 or 32: round FFN widths to a multiple of it [default: 1].")
]
PlanFile = Annotated[Path, Option("--plan", metavar="FILE", help="The plan to carry out.")]
ApplyData = Annotated[
    str | None, Option("--data", metavar="NAME", help="File, directory or hub name, to solve the weights anew and to measure.")
]
PlanOut = Annotated[Path, Option("--out", "-o", metavar="FILE", help="File to write [default: plan.json].", show_default=False)]
StatisticsFile = Annotated[
    Path | None,
    Option(
        "--statistics",
        metavar="FILE",
        help="The statistics.safetensors of prunekit analyze for this model and data: neurons are chosen on its rows, and the model "
        "is not run for them.",
    ),
]
Dtype = Annotated[
    str | None,
    Option("--dtype", metavar="NAME", help="'fp16', 'int8' or 'int8-static': one more ONNX file, in lower precision [default: fp32]."),
]
MaxDrop = Annotated[
    str | None,
    Option("--max-drop", metavar="PERCENT", help="Largest relative loss of the metric; alone, how far to go down [default: no bound]."),
]
Recover = Annotated[
    str | None,
    Option(
        "--recover",
        metavar="EFFORT",
        help="Train what is left: '10min', '3epochs' or 'none' [default: auto, until validation stops improving, 5 minutes at most].",
    ),
]
Freeze = Annotated[
    str | None,
    Option("--freeze", metavar="BLOCKS", help="Blocks that --recover does not train, such as 'layers:0-3' [default: all are trained]."),
]
Method = Annotated[str | None, Option("--method", metavar="NAME", help="'prunekit' or 'dalvi2020' [default: prunekit].")]
Task = Annotated[
    str | None,
    Option("--task", metavar="NAME", help="'text-classification', 'regression' or 'token-classification' [default: told by the data]."),
]
Metric = Annotated[
    str | None,
    Option(
        "--metric",
        metavar="NAME",
        help="'accuracy', 'f1', 'matthews', 'pearson', 'spearman' or 'entity-f1' [default: the task's usual one].",
    ),
]
TextColumn = Annotated[str | None, Option("--text", metavar="COLUMN", help="Column of the text [default: found by name].")]
TextPair = Annotated[str | None, Option("--text-pair", metavar="COLUMN", help="Column of the second text [default: found by name].")]
Label = Annotated[str | None, Option("--label", metavar="COLUMN", help="Column of the label [default: found by name].")]
Tokens = Annotated[str | None, Option("--tokens", metavar="COLUMN", help="Column of the words of a token task [default: found by name].")]
Tags = Annotated[str | None, Option("--tags", metavar="COLUMN", help="Column of the words' tags [default: found by name].")]
Group = Annotated[
    str | None,
    Option("--group", metavar="COLUMN", help="Column of what rows have in common: such rows stay in one split [default: no groups]."),
]
Pooling = Annotated[
    str | None,
    Option(
        "--pooling",
        metavar="NAME",
        help="How a sentence's tokens become one row: 'cls', 'mean' or 'last' [default: cls of a fine-tuned model, mean of a base model].",
    ),
]
LayerDelta = Annotated[
    str | None, Option("--layer-delta", metavar="PERCENT", help="Relative loss that the choice of the top layer may cost [default: 1%].")
]
NeuronDelta = Annotated[
    str | None, Option("--neuron-delta", metavar="PERCENT", help="Relative loss that the choice of neurons may cost [default: 1%].")
]
Threshold = Annotated[
    float | None,
    Option(
        "--threshold",
        parser=number,
        metavar="NUMBER",
        help="Correlation distance below which neurons are one cluster, 0 to 1 [default: 0.3 for dalvi2020, no clusters for prunekit].",
    ),
]
MaxLength = Annotated[
    int | None,
    Option(
        "--max-length",
        parser=whole,
        metavar="N",
        help="Tokens after which an input is cut [default: 128, or the model's positions where they are fewer].",
    ),
]
Seed = Annotated[int | None, Option("--seed", parser=whole, metavar="N", help="Seed of everything that is drawn [default: 0].")]
Threads = Annotated[
    int | None, Option("--threads", parser=whole, metavar="N", help="Processor threads with which latency is measured [default: 1].")
]
Revision = Annotated[str | None, Option("--revision", metavar="NAME", help="Branch, tag or commit of a hub model.")]
Trust = Annotated[bool | None, Option("--trust-remote-code", help="Run code that comes with the model.", show_default=False)]
RecipeFile = Annotated[
    Path | None, Option("--recipe", metavar="FILE", help="YAML file of these options; those given here take precedence.")
]
Out = Annotated[Path, Option("--out", "-o", metavar="DIR", help="Directory to write [default: prunekit-out].", show_default=False)]
Drop = Annotated[
    list[str] | None,
    Option("--drop", metavar="BLOCKS", help="'ffn:4-5' or 'attention:3': FFN or attention blocks that go before anything is chosen."),
]
Affine = Annotated[
    bool | None, Option("--affine", help="Put an affine map in the place of the FFN blocks that --drop names.", show_default=False)
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace what prunekit wrote there before.", show_default=False)]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Print the name of what was written and nothing else.", show_default=False)]
Version = Annotated[bool, Option("--version", help="Print the version and exit.", show_default=False)]
