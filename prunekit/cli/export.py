"""``prunekit export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, get_args

from typer import Argument

from prunekit.cli.base import app, say
from prunekit.cli.parameters import Grouped, Out, Overwrite, Quiet, option, whole_number, with_options
from prunekit.validation.dtypes import Dtype

#: {option about the data: parameter of `load_data`}.
_COLUMNS = {name: name for name in ("text", "text_pair", "label", "tokens", "tags", "group", "metric")} | {"data_config": "config"}


@app.command(cls=Grouped)
@with_options("export")
def export(
    model: Annotated[str, Argument(metavar="MODEL", help="Directory that prunekit wrote, any checkpoint's directory, or hub name.")],
    out: Out = Path("prunekit-out"),
    dtype: Annotated[
        str,
        option(
            "--dtype",
            group="Output",
            metavar="NAME",
            choices=get_args(Dtype),
            help="'fp32', 'fp16', 'int8' or 'int8-static' [default: fp32].",
        ),
    ] = "fp32",
    opset: Annotated[
        int | None, option("--opset", group="Output", parser=whole_number, metavar="N", help="ONNX operator set, 17 to 20 [default: 18].")
    ] = None,
    optimize: Annotated[
        str,
        option(
            "--optimize",
            group="Output",
            metavar="LEVEL",
            choices=("none", "O1"),
            help="'none'; 'O1', what changes no output [default: O1].",
        ),
    ] = "O1",
    device: Annotated[
        str,
        option(
            "--device",
            group="Output",
            metavar="NAME",
            choices=("cpu", "cuda"),
            help="'cpu' or 'cuda', what the file is for [default: cpu].",
        ),
    ] = "cpu",
    triton: Annotated[bool, option("--triton", group="Output", help="Add a model repository of Triton, triton/.")] = False,
    data: Annotated[
        str | None,
        option(
            "--data",
            group="Data",
            metavar="NAME",
            help="File, directory or hub name: for int8 to be chosen and calibrated on, and to score files.",
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        option(
            "--max-length",
            group="Data",
            parser=whole_number,
            metavar="N",
            help="Longest row that the file must take, in tokens [default: the model's]; questions are scored in windows of 384 at most.",
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        option(
            "--pooling",
            group="Data",
            metavar="NAME",
            choices=("mean", "cls", "last", "max"),
            help="How a model without a head embeds a text: 'mean', 'cls', 'last' or 'max' [default: its own].",
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Export MODEL, dense or slim, to a directory with an ONNX file that is ready to deploy and computes what the model computes."""
    from prunekit.runtime.session import DEVICES, check_device

    if device in DEVICES:
        check_device(dtype, device, of="export")  # torch is imported afterwards
    from prunekit.exporters.export import export as run
    from prunekit.exporters.onnx import OPSET

    columns = {parameter: options.pop(name) for name, parameter in _COLUMNS.items() if name in options}
    result = run(
        model,
        out,
        dtype=dtype,  # type: ignore[arg-type]  # checked by what is called
        opset=OPSET if opset is None else opset,
        optimize=optimize,  # type: ignore[arg-type]  # checked by what is called
        device=device,  # type: ignore[arg-type]  # checked by what is called
        triton=triton,
        data=data,
        columns=columns,  # type: ignore[arg-type]  # it is checked there
        max_length=max_length,
        pooling=pooling,  # type: ignore[arg-type]  # checked by what is called
        **options,
        overwrite=overwrite,
    )
    report = result.report
    for line in report.failed:
        say(f"note: a route failed, the next one was taken: {line}", sys.stderr)
    if quiet:
        print(result.path)
        return
    say(f"{report.head} {', '.join(report.inputs)} -> {', '.join(report.outputs)}, at most {report.max_length} tokens")
    say(f"{report.dtype}, {report.bytes / 1e6:.2f} MB, opset {report.opset}, {report.route}, passes {report.optimize}")
    for name, count in report.passes.items():
        say(f"  {name}: {count}")
    shapes = ", ".join(f"{shape.batch}x{shape.length}" for shape in report.parity.shapes)
    say(f"differs from the PyTorch model by {report.parity.max_abs_difference:.1e} at most, at batch x length {shapes}")
    if report.fidelity is not None:
        agree = report.fidelity.agreement
        same = "" if agree is None else f", {agree:.1%} of predictions agree"
        rows = "random rows" if report.data is None else f"the test split of {report.data}"
        say(f"{report.dtype} against fp32, on {rows}: error {report.fidelity.error:.2%} of the variance of the outputs{same}")
    kept = [weight.name for weight in report.weights if weight.kept]
    balanced = sum(weight.balanced for weight in report.weights)
    if kept or balanced:
        say(f"not in int8: {', '.join(kept) or 'no weight'}; with balanced inputs: {balanced} weights")
    for name, score in report.scores.items():
        say(f"{name}: {report.metric} {score.value:.4f} ({score.low:.4f} to {score.high:.4f}) on test")
    say(f"\nwritten to {result.path}")
