"""``prunekit collect`` and ``merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from prunekit.cli.base import app, say
from prunekit.cli.parameters import Grouped, Overwrite, Quiet, option, with_options

_File = Annotated[Path, option("--out", "-o", group="Output", metavar="FILE", help="File to write [default: statistics.safetensors].")]


@app.command(cls=Grouped)
@with_options("collect")
def collect(
    out: _File = Path("statistics.safetensors"),
    shard: Annotated[
        str,
        option("--shard", group="Data", metavar="I/N", help="'1/4': the first of four parts, for prunekit merge [default: all rows]."),
    ] = "1/1",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Run MODEL over the rows of --data, or over a part of them, and write what the choice of neurons reads of it."""
    from prunekit.pipeline.collect import collect as run

    run(shard=shard, out=out, overwrite=overwrite, progress=not quiet, **options)
    if quiet:
        print(out)
        return
    say(f"written to {out}")
    if shard == "1/1":
        say(f"choose neurons on it: prunekit plan MODEL --data NAME --statistics {out}")
    else:
        say("put all parts together: prunekit merge PART... -o statistics.safetensors")


@app.command(cls=Grouped)
def merge(
    parts: Annotated[list[Path], Argument(metavar="PART...", help="Files that prunekit collect --shard wrote, in any order.")],
    out: _File = Path("statistics.safetensors"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Put the parts that prunekit collect --shard wrote together; all must be there, each once, of one model, data and options."""
    from prunekit.pipeline.collect import merge as run

    run(parts, out=out, overwrite=overwrite)
    if quiet:
        print(out)
        return
    say(f"written to {out}")
    say(f"choose neurons on it: prunekit plan MODEL --data NAME --statistics {out}")
