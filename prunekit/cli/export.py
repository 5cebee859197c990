"""``prunekit export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from prunekit.cli.base import app
from prunekit.cli.options import Out, Overwrite, Quiet, Revision, Trust


@app.command()
def export(
    model: Annotated[str, Argument(metavar="MODEL", help="Directory that prunekit wrote, any checkpoint's directory, or hub name.")],
    out: Out = Path("prunekit-out"),
    dtype: Annotated[str, Option("--dtype", metavar="NAME", help="'fp32', 'fp16' or 'int8' [default: fp32].", show_default=False)] = "fp32",
    opset: Annotated[int | None, Option("--opset", metavar="N", help="ONNX operator set, 17 to 20 [default: 18].")] = None,
    optimize: Annotated[
        str | None,
        Option(
            "--optimize",
            metavar="LEVEL",
            help="'none'; 'O1', what changes no output; 'O2', also onnxruntime's fused operators [default: O1, on cuda O2].",
        ),
    ] = None,
    device: Annotated[
        str, Option("--device", metavar="NAME", help="'cpu' or 'cuda', what the file is for [default: cpu].", show_default=False)
    ] = "cpu",
    triton: Annotated[bool, Option("--triton", help="Add a model repository of Triton, triton/.", show_default=False)] = False,
    max_length: Annotated[
        int | None, Option("--max-length", metavar="N", help="Longest row that the file must take, in tokens [default: the model's].")
    ] = None,
    pooling: Annotated[
        str | None,
        Option("--pooling", metavar="NAME", help="How a model without a head embeds a text: 'mean', 'cls' or 'last' [default: its own]."),
    ] = None,
    revision: Revision = None,
    trust_remote_code: Trust = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Export MODEL, dense or slim, to a directory with an ONNX file that is ready to deploy and computes what the model computes."""
    from prunekit.exporters.export import export as run
    from prunekit.exporters.onnx import OPSET

    done = run(
        model,
        out,
        dtype=dtype,  # type: ignore[arg-type]
        opset=OPSET if opset is None else opset,
        optimize=optimize,  # type: ignore[arg-type]
        device=device,  # type: ignore[arg-type]
        triton=triton,
        max_length=max_length,
        pooling=pooling,
        revision=revision,
        trust_remote_code=bool(trust_remote_code),
        overwrite=overwrite,
    )
    report = done.report
    for line in report.failed:
        print(f"note: a route failed, the next one was taken: {line}", file=sys.stderr)
    if quiet:
        print(done.path)
        return
    print(f"{report.head} {', '.join(report.inputs)} -> {', '.join(report.outputs)}, at most {report.max_length} tokens")
    print(f"{report.dtype}, {report.bytes / 1e6:.2f} MB, opset {report.opset}, {report.route}, passes {report.optimize}")
    for name, count in report.passes.items():
        print(f"  {name}: {count}")
    shapes = ", ".join(f"{shape.batch}x{shape.length}" for shape in report.parity.shapes)
    print(f"differs from the PyTorch model by {report.parity.max_abs_difference:.1e} at most, at batch x length {shapes}")
    if report.fidelity is not None:
        agree = report.fidelity.agreement
        same = "" if agree is None else f", {agree:.1%} of predictions agree"
        print(f"{report.dtype} against fp32, on random rows: error {report.fidelity.error:.2%} of the variance of the outputs{same}")
    print(f"\nwritten to {done.path}")
