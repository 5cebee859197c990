"""``prunekit bench``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer
from typer import Argument

from prunekit.cli.base import app
from prunekit.cli.output_files import check_file, standard_output, writable, write_file
from prunekit.cli.parameters import Grouped, Overwrite, number, option, whole_number, with_options
from prunekit.errors import OutputError, ParameterError
from prunekit.validation.escape import terminal
from prunekit.validation.reading import place_fault

if TYPE_CHECKING:
    from prunekit.benchmark.results import Benchmark

_SUMMARY = "GITHUB_STEP_SUMMARY"


@app.command(cls=Grouped)
@with_options("bench")
def bench(
    models: Annotated[list[str], Argument(metavar="MODEL...", help="[NAME=][BACKEND:]PATH of ONNX files and model directories.")],
    baseline: Annotated[
        str | None,
        option("--baseline", group="Measuring", metavar="MODEL", help="What the others are compared with [default: the first model]."),
    ] = None,
    backend: Annotated[
        str | None,
        option("--backend", group="Measuring", metavar="NAMES", help="Backends of models that name none, with commas [default: ort]."),
    ] = None,
    device: Annotated[
        str,
        option(
            "--device",
            group="Measuring",
            metavar="NAME",
            choices=("cpu", "cuda"),
            help="'cpu' or 'cuda', for the default backend [default: cpu].",
        ),
    ] = "cpu",
    batch: Annotated[
        str, option("--batch", "--batch-size", group="Measuring", metavar="SIZES", help="Rows in a batch, with commas [default: 1].")
    ] = "1",
    length: Annotated[
        str | None,
        option(
            "--length",
            group="Measuring",
            metavar="LENGTHS",
            help="'data', or tokens in a row with commas [default: data with --data, else 16,128].",
        ),
    ] = None,
    data: Annotated[
        str | None,
        option("--data", group="Data", metavar="NAME", help="File, directory or hub name; its test split gives rows and lengths."),
    ] = None,
    max_length: Annotated[
        int | None,
        option(
            "--max-length",
            group="Data",
            parser=whole_number,
            metavar="N",
            help="Tokens after which a row of the data is cut [default: 128, 384 for questions, or the models' positions where they are "
            "fewer].",
        ),
    ] = None,
    threads: Annotated[
        int,
        option("--threads", group="Measuring", parser=whole_number, metavar="N", help="Processor threads of each candidate [default: 1]."),
    ] = 1,
    max_regression: Annotated[
        str | None,
        option(
            "--max-regression",
            group="Measuring",
            metavar="PERCENT",
            help="Growth against the baseline that is allowed; more is exit code 1.",
        ),
    ] = None,
    min_speedup: Annotated[
        float | None,
        option(
            "--min-speedup",
            group="Measuring",
            parser=number,
            metavar="RATIO",
            help="Times as fast as the baseline; less, or unsure, is exit code 1.",
        ),
    ] = None,
    gate: Annotated[
        str | None,
        option(
            "--gate", group="Measuring", metavar="NAMES", help="What --max-regression is about [default: latency,params,macs,nodes,bytes]."
        ),
    ] = None,
    against: Annotated[
        str | None,
        option(
            "--against",
            group="Measuring",
            metavar="NAMES",
            help="Also the model that MODEL came from: dense, dense-int8 or a backend, with commas.",
        ),
    ] = None,
    time_budget: Annotated[
        float,
        option(
            "--time-budget", group="Measuring", parser=number, metavar="SECONDS", help="Time for all comparisons together [default: 60]."
        ),
    ] = 60.0,
    seed: Annotated[
        int,
        option(
            "--seed", group="Other options", parser=whole_number, metavar="N", help="Seed of the batches and of the bootstrap [default: 0]."
        ),
    ] = 0,
    json: Annotated[
        Path | None,
        option(
            "--json",
            group="Output",
            metavar="FILE",
            help="Everything, raw times included; '-', here and below: the standard output, all else on stderr.",
        ),
    ] = None,
    csv: Annotated[Path | None, option("--csv", group="Output", metavar="FILE", help="A line for each model and comparison.")] = None,
    markdown: Annotated[Path | None, option("--markdown", group="Output", metavar="FILE", help="The tables.")] = None,
    github: Annotated[
        Path | None, option("--github", group="Output", metavar="FILE", help="For github-action-benchmark, customSmallerIsBetter.")
    ] = None,
    pytest_benchmark: Annotated[
        Path | None, option("--pytest-benchmark", group="Output", metavar="FILE", help="In pytest-benchmark's format.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Annotated[bool, option("--quiet", "-q", group="Other options", help="Print what failed and nothing else.")] = False,
    **options: Any,
) -> None:
    """Time models side by side, and fail where one is slower or larger than allowed.

    Exit codes: 0 every gate passed; 1 a gate failed; 2 a mistake in what was asked.
    """
    from prunekit.benchmark.candidates import path_of

    files = {"json": json, "csv": csv, "markdown": markdown, "github": github, "pytest_benchmark": pytest_benchmark}
    inputs = [*(path_of(model) for model in (*models, *([baseline] if baseline else []))), data]
    for name, path in files.items():
        check_file(name, "bench", path, inputs, overwrite=overwrite)
    _check_apart(files)
    _check_summary()
    sizes = _numbers("batch", batch)
    lengths: Literal["data"] | list[int] | None = None
    if length is not None:
        lengths = "data" if length == "data" else _numbers("length", length)
    gate_options: dict[str, Any] = {} if gate is None else {"checks": _names("gate", gate)}
    allowed = None if max_regression is None else _percent(max_regression)

    from prunekit.benchmark.bench import bench as run

    with standard_output(files.values()) as stdout:
        benchmark = run(
            *models,
            baseline=baseline,
            backends=None if backend is None else _names("backend", backend),
            device=device,  # type: ignore[arg-type]  # it is checked there
            batch_sizes=sizes,
            lengths=lengths,
            data=data,
            columns=options,  # type: ignore[arg-type]  # it is checked there
            max_length=max_length,
            threads=threads,
            max_regression=allowed,
            min_speedup=min_speedup,
            against=() if against is None else _names("against", against),
            time_budget=time_budget,
            seed=seed,
            **gate_options,
        )
        _write(benchmark, files, stdout)
        _print(benchmark, quiet)
    if not benchmark.passed:
        raise typer.Exit(1)


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ParameterError(option, "bench", "names with commas between them", text)
    return names


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [whole_number(part.strip()) for part in text.split(",")]
    except typer.BadParameter:
        raise ParameterError(name, "bench", "whole numbers with commas between them", text) from None


def _percent(text: str) -> float:
    try:
        # Without the sign 5 could mean 5% or 500%.
        if not text.endswith("%"):
            raise typer.BadParameter(text)
        return number(text.removesuffix("%").rstrip()) / 100
    except typer.BadParameter:
        raise ParameterError("max_regression", "bench", "a percentage such as 10%", text) from None


def _check_apart(files: dict[str, Path | None]) -> None:
    owners: dict[Path, str] = {}
    for name, path in files.items():
        if path is not None:
            owner = owners.setdefault(path.resolve(), name)
            if owner != name:
                raise ParameterError(name, "bench", f"another file than that of {owner}", str(path))


def _check_summary() -> None:
    """Refuse a job summary that cannot be written, before anything is timed; it is written last."""
    summary = os.environ.get(_SUMMARY)
    if not summary:
        return
    fault = place_fault(summary)
    if fault is None and writable(Path(summary)):
        return
    raise ParameterError(_SUMMARY, "the environment", "a file that can be written", summary, f"({fault})" if fault else "Unset it.")


def _write(benchmark: Benchmark, files: dict[str, Path | None], stdout: TextIO) -> None:
    from prunekit.benchmark.formats import FORMATS, to_markdown

    texts = {path: FORMATS[name](benchmark) for name, path in files.items() if path is not None}
    for path, text in texts.items():
        write_file(path, text, stdout)
    if summary := os.environ.get(_SUMMARY):
        try:
            with open(summary, "a", encoding="utf-8") as file:
                file.write(to_markdown(benchmark))
        except OSError as error:
            raise OutputError(f"The file {summary!r} of {_SUMMARY} cannot be written: {error.strerror or error}.") from None


def _print(benchmark: Benchmark, quiet: bool) -> None:
    from prunekit.benchmark.formats import conditions, cost_table, time_table, verdict_lines

    if not quiet:
        for table in (time_table(benchmark), cost_table(benchmark)):
            widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
            for row in table:
                cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
                print(terminal("  ".join(cells).rstrip()))
            print()
        print(terminal(conditions(benchmark)))
    for line, verdict in zip(verdict_lines(benchmark), benchmark.verdicts, strict=True):
        if not quiet or verdict.outcome == "failed":
            print(terminal(line))
