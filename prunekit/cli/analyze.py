"""``prunekit analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prunekit.cli.base import app, say
from prunekit.cli.parameters import Grouped, Overwrite, Quiet, option, whole_number, with_options


@app.command(cls=Grouped)
@with_options("analyze")
def analyze(
    out: Annotated[
        Path, option("--out", "-o", "--output-dir", group="Output", metavar="DIR", help="Directory to write [default: prunekit-analysis].")
    ] = Path("prunekit-analysis"),
    compare: Annotated[
        str | None,
        option("--compare", group="Measuring", metavar="BASE_MODEL", help="A second model: the one before fine-tuning, or another seed."),
    ] = None,
    out_of_domain: Annotated[
        str | None,
        option("--out-of-domain", group="Data", metavar="NAME", help="Text from elsewhere, on which the two models are compared too."),
    ] = None,
    analyzers: Annotated[
        str | None,
        option("--analyzers", group="Measuring", metavar="NAMES", help="Such as 'cka,rsa' [default: all that can run on what is given]."),
    ] = None,
    rows: Annotated[
        int | None,
        option(
            "--rows",
            group="Data",
            parser=whole_number,
            metavar="N",
            help="Rows of train, and of validation, that are drawn [default: 2000].",
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Measure what is redundant in MODEL for the task of --data, and write it down with a page to look at; nothing is removed."""
    names = None if analyzers is None else tuple(filter(None, (name.strip() for name in analyzers.split(","))))
    from prunekit.pipeline.analyze import ROWS
    from prunekit.pipeline.analyze import analyze as run

    analysis = run(
        compare=compare,
        out_of_domain=out_of_domain,
        analyzers=names,
        rows=ROWS if rows is None else rows,
        out=out,
        overwrite=overwrite,
        progress=not quiet,
        **options,
    )
    if quiet:
        print(analysis.path)
        return
    from prunekit.report.analysis import print_analysis

    print_analysis(analysis.page)
    say(f"\nwritten to {analysis.path}")
    say(f"look at it: {analysis.path / 'analysis.html'}")
