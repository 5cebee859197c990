"""Statistics of a model on a task's data, as one file or in parts that other processes and machines collect."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from torch import nn

from prunekit import __version__
from prunekit.analyzers.base import LARGEST_COMOMENT, comoment_bytes
from prunekit.errors import ParameterError, StatisticsError
from prunekit.pipeline.early import check_places
from prunekit.pipeline.inputs import load_inputs, recipe_of
from prunekit.pipeline.output_file import Kind, beside, check_file, of_the_disk, put
from prunekit.pipeline.records import Inputs, Run
from prunekit.recipe.signatures import with_options
from prunekit.report.progress import stages
from prunekit.stats.collect import collect as read
from prunekit.stats.collect import part_ids
from prunekit.stats.header import SPLITS, Shard, Split
from prunekit.stats.record import Labelled, Statistics, read_header
from prunekit.stats.shards import merge_parts
from prunekit.validation.arguments import NotEmpty, Place, checked
from prunekit.validation.limits import SHARDS

#: Bytes of the rows of each split that are kept in the statistics.
KEPT = 2**28
_SHARD = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", re.ASCII)


def _file(of: str) -> Kind:
    return Kind(of, "a file of statistics", read_header)


@with_options("collect")
@checked("collect")
def collect(
    model: Place | nn.Module | None = None,
    data: object = None,
    *,
    tokenizer: object = None,
    shard: str = "1/1",
    out: Place = "statistics.safetensors",
    overwrite: bool = False,
    progress: bool = False,
    **parameters: Any,
) -> Path:
    """Run a model over train and validation, and write what the choice of neurons reads of it.

    Parameters
    ----------
    model : path, str or PreTrainedModel, optional
        Directory or hub name of an encoder, with or without a task head, or one that is in memory; default: the embedded MiniLM-L6.
    data : path or str, or rows that are in memory already, optional
        The task's data, as `prunekit.data.load.load_data` reads it; default: the embedded docstrings.
    tokenizer : PreTrainedTokenizerBase, optional
        Of a model that is in memory, which needs it.
    shard : str
        "1/4": the first of four parts of the rows, which `merge` puts together; "1/1" is all of them.
    out : path
        The file to write; it appears complete, or not at all.
    overwrite : bool
        Replace earlier statistics at `out`.
    progress : bool
        Show progress bars on stderr.
    **parameters
        The options that say how the data is read, as the signature lists them: columns, ``pooling="mean"``, ``seed=1``, ...

    Returns
    -------
    Path
        The file, for `make_plan(statistics=...)`.

    Raises
    ------
    PrunekitError
        With one line that says what to change. Nothing is left behind.
    """
    index, of = _part(shard)
    kind = _file("collect")
    path = check_file(out, overwrite, kind)
    recipe, sources = recipe_of(model, data, tokenizer, parameters, of="collect")
    if sources.rows is None:
        sources = sources._replace(early=check_places(recipe, in_memory=False))
    with of_the_disk(out, kind), stages(progress) as stage, beside(path) as scratch:
        run = Run(recipe, load_inputs(recipe, None, stage, sources), scratch, stage)
        _check(run.inputs, shard, of)
        _collected(run, index, of).save(scratch / path.name)
        put(scratch, path, overwrite, kind)
    return Path(out).expanduser()


@checked("merge")
def merge(
    parts: Annotated[Sequence[Place], NotEmpty()],
    *,
    out: Place = "statistics.safetensors",
    overwrite: bool = False,
) -> Path:
    """Put the parts that `collect` wrote together, in any order.

    Parameters
    ----------
    parts : sequence of path
        One file of each part.
    out : path
        The file to write; it appears complete, or not at all.
    overwrite : bool
        Replace earlier statistics at `out`.

    Returns
    -------
    Path
        The file, for `make_plan(statistics=...)`.

    Raises
    ------
    StatisticsError
        A file that is no part, parts of different models, data or options, one that is named twice or missing.
    ParameterError, OutputError
        A place that cannot be written.
    """
    kind = _file("merge")
    path = check_file(out, overwrite, kind)
    if any(Path(part).expanduser().resolve() == path for part in parts):
        raise ParameterError("out", "merge", "another file than the parts", os.fspath(out))
    with of_the_disk(out, kind), beside(path) as scratch:
        merge_parts(parts).save(scratch / path.name)
        put(scratch, path, overwrite, kind)
    return Path(out).expanduser()


def sample_size(width: int) -> int:
    """Return the number of rows of each split that statistics keep, each of `width` neurons."""
    return max(1, KEPT // (4 * width))


def provenance(inputs: Inputs, seed: int) -> dict[str, Any]:
    """Return the origin of the numbers: versions, model, data and options."""
    return {
        "prunekit": __version__,
        "model": inputs.loaded.name,
        "weights": inputs.view.digest(),
        "data": inputs.data.provenance,
        "rows": len(inputs.data.train),
        "seed": seed,
        "max_length": inputs.max_length,
    }


def _part(shard: str) -> tuple[int, int]:
    match = _SHARD.fullmatch(shard)
    index, of = (int(match[1]), int(match[2])) if match else (1, 0)
    if not index <= of <= SHARDS:
        raise ParameterError("shard", "collect", f"a part and their number, such as '1/4', {SHARDS:,} at most", shard)
    return index, of


def _check(inputs: Inputs, shard: str, of: int) -> None:
    kind, source = inputs.data.task.kind, inputs.view.source
    if not kind.traits.readout:
        raise ParameterError("data", "collect", "of a task whose labels neurons are chosen for", kind.value)
    size = comoment_bytes((source.layers + 1) * source.hidden)
    if size > LARGEST_COMOMENT:
        most = f"{LARGEST_COMOMENT / 1e9:.1f} GB is the most that is taken"
        raise StatisticsError(f"The co-moment of all neurons would take {size / 1e9:.1f} GB; {most}.")
    least = sum(1 for _ in inputs.encoded["train"].by_row.layout())
    if of > least:
        must = f"one of at most {least} parts, as many as train has batches"
        raise ParameterError("shard", "collect", must, shard)


def _collected(run: Run, index: int, of: int) -> Statistics:
    inputs, seed = run.inputs, run.recipe.seed
    source, outputs = inputs.view.source, inputs.data.task.outputs
    size = sample_size((source.layers + 1) * source.hidden)
    parts: dict[Split, Labelled | None] = {}
    moments = None
    rows: dict[Split, int] = {}
    total: dict[Split, int] = {}
    tokens = hashlib.sha256()
    for name in SPLITS:
        encoded = inputs.encoded[name].by_row
        batches = None if of == 1 else encoded.part(index, of)
        ids = None if batches is None else part_ids(encoded, batches)
        tokens.update(encoded.digest().encode())
        total[name] = len(encoded.labels)
        rows[name] = total[name] if ids is None else len(ids)
        parts[name] = None
        if batches is not None and not batches:
            continue
        with run.stage(f"read {name}", unit="rows"):
            collected = read(
                inputs.view,
                encoded,
                pooling=inputs.pooling,
                outputs=outputs,
                part=batches,
                directory=run.scratch,
                moments=name == "train",
                progress=run.stage.step,
            )
        parts[name] = Labelled.of(collected, size, seed, ids)
        if name == "train":
            moments = collected.moments
        collected.rows.close()
    train, validation = parts["train"], parts["validation"]
    assert moments is not None
    assert train is not None
    shard = None if of == 1 else Shard(index=index, of=of, rows=rows, total=total, tokens=tokens.hexdigest())
    return Statistics(moments, train, source, outputs, inputs.pooling, provenance(inputs, seed), validation, shard)
