"""``prunekit analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from prunekit.cli.base import app
from prunekit.cli.options import (
    Data,
    DataConfig,
    Group,
    Label,
    MaxLength,
    Metric,
    Model,
    Overwrite,
    Pooling,
    Quiet,
    Revision,
    Seed,
    Tags,
    Task,
    TextColumn,
    TextPair,
    Tokens,
    Trust,
    whole,
)

_OWN = ("model", "data", "compare", "out_of_domain", "analyzers", "rows", "out", "overwrite", "quiet")


@app.command()
def analyze(
    context: typer.Context,
    model: Model = None,
    data: Data = None,
    out: Annotated[
        Path, Option("--out", "-o", metavar="DIR", help="Directory to write [default: prunekit-analysis].", show_default=False)
    ] = Path("prunekit-analysis"),
    compare: Annotated[
        str | None, Option("--compare", metavar="BASE_MODEL", help="A second model: the one before fine-tuning, or another seed.")
    ] = None,
    out_of_domain: Annotated[
        str | None, Option("--out-of-domain", metavar="NAME", help="Text from elsewhere, on which the two models are compared too.")
    ] = None,
    analyzers: Annotated[
        str | None, Option("--analyzers", metavar="NAMES", help="Such as 'cka,rsa' [default: all that can run on what is given].")
    ] = None,
    rows: Annotated[
        int | None, Option("--rows", parser=whole, metavar="N", help="Rows of train, and of validation, that are drawn [default: 2000].")
    ] = None,
    task: Task = None,
    metric: Metric = None,
    text: TextColumn = None,
    text_pair: TextPair = None,
    label: Label = None,
    tokens: Tokens = None,
    tags: Tags = None,
    group: Group = None,
    data_config: DataConfig = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    seed: Seed = None,
    revision: Revision = None,
    trust_remote_code: Trust = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure what is redundant in MODEL for the task of --data, and write it down with a page to look at; nothing is removed."""
    given = {name: value for name, value in context.params.items() if name not in _OWN and value is not None}
    names = None if analyzers is None else tuple(filter(None, (name.strip() for name in analyzers.split(","))))
    from prunekit.pipeline.analyze import ROWS
    from prunekit.pipeline.analyze import analyze as run

    found = run(
        model,
        data,
        compare=compare,
        out_of_domain=out_of_domain,
        analyzers=names,
        rows=ROWS if rows is None else rows,
        out=out,
        overwrite=overwrite,
        progress=not quiet,
        **given,
    )
    if quiet:
        print(found.path)
        return
    from prunekit.report.analysis import print_analysis

    print_analysis(found.page)
    print(f"\nwritten to {found.path}")
    print(f"look at it: {found.path / 'analysis.html'}")
