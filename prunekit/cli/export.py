"""``prunekit export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from prunekit.cli.base import app
from prunekit.cli.options import (
    DataConfig,
    Label,
    Metric,
    Out,
    Overwrite,
    Quiet,
    Revision,
    Tags,
    TextColumn,
    TextPair,
    Tokens,
    Trust,
    whole,
)


@app.command()
def export(
    model: Annotated[str, Argument(metavar="MODEL", help="Directory that prunekit wrote, any checkpoint's directory, or hub name.")],
    out: Out = Path("prunekit-out"),
    dtype: Annotated[
        str,
        Option("--dtype", metavar="NAME", help="'fp32', 'fp16', 'int8' or 'int8-static' [default: fp32].", show_default=False),
    ] = "fp32",
    opset: Annotated[int | None, Option("--opset", parser=whole, metavar="N", help="ONNX operator set, 17 to 20 [default: 18].")] = None,
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
    data: Annotated[
        str | None,
        Option("--data", metavar="NAME", help="File, directory or hub name: for int8 to be chosen and calibrated on, and to score files."),
    ] = None,
    text: TextColumn = None,
    text_pair: TextPair = None,
    label: Label = None,
    tokens: Tokens = None,
    tags: Tags = None,
    data_config: DataConfig = None,
    metric: Metric = None,
    seed: Annotated[int, Option("--seed", parser=whole, metavar="N", help="Seed of the rows that are drawn.")] = 0,
    max_length: Annotated[
        int | None,
        Option("--max-length", parser=whole, metavar="N", help="Longest row that the file must take, in tokens [default: the model's]."),
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
        data=data,
        columns={
            "text": text,
            "text_pair": text_pair,
            "label": label,
            "tokens": tokens,
            "tags": tags,
            "config": data_config,
            "metric": metric,
        },
        seed=seed,
        max_length=max_length,
        pooling=pooling,  # type: ignore[arg-type]
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
        rows = "random rows" if report.data is None else f"the test split of {report.data}"
        print(f"{report.dtype} against fp32, on {rows}: error {report.fidelity.error:.2%} of the variance of the outputs{same}")
    kept = [weight.name for weight in report.weights if weight.kept]
    balanced = sum(weight.balanced for weight in report.weights)
    if kept or balanced:
        print(f"in fp32: {', '.join(kept) or 'no weight'}; with balanced inputs: {balanced} weights")
    for name, score in report.scores.items():
        print(f"{name}: {report.metric} {score.value:.4f} ({score.low:.4f} to {score.high:.4f}) on test")
    print(f"\nwritten to {done.path}")
