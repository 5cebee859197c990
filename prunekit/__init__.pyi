"""The public names, as an editor completes them; made by ``python docs/make_cli.py``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch.nn import Module

from prunekit.benchmark.bench import bench as bench
from prunekit.budget import Budget as Budget
from prunekit.errors import PrunekitError as PrunekitError
from prunekit.exporters.checkpoint import load as load
from prunekit.exporters.export import export as export
from prunekit.pipeline.analyze import Analysis as Analysis
from prunekit.pipeline.apply import apply as apply
from prunekit.pipeline.collect import merge as merge
from prunekit.pipeline.result import Result as Result
from prunekit.plan import Plan as Plan
from prunekit.pruning.shrink import shrink as shrink
from prunekit.recipe import Recipe as Recipe
from prunekit.training.callback import PruneCallback as PruneCallback
from prunekit.training.distill import recover as recover

__version__: str

def analyze(
    model: str | Path | Module | None = None,
    data: object = None,
    *,
    tokenizer: object = None,
    compare: str | Path | None = None,
    out_of_domain: object = None,
    analyzers: Sequence[str] | None = None,
    rows: int = 2000,
    out: str | Path = "prunekit-analysis",
    overwrite: bool = False,
    progress: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    data_config: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    tokens: str | None = None,
    tags: str | None = None,
    group: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    pooling: Literal["cls", "mean", "last", "max"] | None = None,
    max_length: int | None = None,
    stride: int | None = None,
    seed: int = 0,
) -> Analysis:
    """Measure what is redundant in a transformer encoder, and write it down; nothing is removed.

    Parameters
    ----------
    model : path, str or PreTrainedModel, optional
        Directory or hub name of an encoder, with or without a task head, or one that is in memory; default: the embedded MiniLM-L6.
    data : path or str, or rows that are in memory already, optional
        The task's data, as `prunekit.data.load.load_data` reads it; default: the embedded docstrings.
    tokenizer : PreTrainedTokenizerBase, optional
        Of a model that is in memory, which needs it.
    compare : path or str, optional
        A second model on the same rows: the one before fine-tuning, or another seed.
    out_of_domain : path or str, or rows that are in memory already, optional
        Text from elsewhere, on which the two models are compared too; no labels are read.
    analyzers : sequence of str, optional
        Names of `prunekit.analyzers.registry.ANALYZERS`; default: all that can run on what is given.
    rows : int
        Rows of train, and of validation, that are drawn.
    out : path
        The directory to write; it appears complete, or not at all.
    overwrite : bool
        Replace an earlier analysis at `out`.
    progress : bool
        Show progress bars on stderr.
    **parameters
        The options that say how the data is read, as the signature lists them: columns, ``pooling="mean"``, ``seed=1``, ...

    Returns
    -------
    Analysis

    Raises
    ------
    PrunekitError
        With one line that says what to change. Nothing is left behind.
    """

def collect(
    model: str | Path | Module | None = None,
    data: object = None,
    *,
    tokenizer: object = None,
    shard: str = "1/1",
    out: str | Path = "statistics.safetensors",
    overwrite: bool = False,
    progress: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    data_config: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    tokens: str | None = None,
    tags: str | None = None,
    group: str | None = None,
    task: str | None = None,
    pooling: Literal["cls", "mean", "last", "max"] | None = None,
    max_length: int | None = None,
    stride: int | None = None,
    seed: int = 0,
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

def compress(
    model: str | Path | Module | None = None,
    data: object = None,
    *,
    tokenizer: object = None,
    out: str | Path = "prunekit-out",
    overwrite: bool = False,
    progress: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    data_config: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    tokens: str | None = None,
    tags: str | None = None,
    group: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    keep: str | Sequence[str] = ("10%",),
    speedup: str | None = None,
    p95: str | None = None,
    batch: int | None = None,
    layers: str | Sequence[int] | None = None,
    drop: str | Sequence[str] = (),
    affine: bool = False,
    vocabulary: Literal["all", "data"] = "all",
    uniform: bool = False,
    multiple_of: Literal[1, 8, 16, 32] = 1,
    plan: str | Path | None = None,
    dtype: Literal["fp32", "fp16", "int8", "int8-static"] = "int8",
    max_drop: str | None = None,
    frontier: bool = False,
    recover: str = "auto",
    retrieval: str | Path | None = None,
    baselines: bool = False,
    freeze: str | None = None,
    method: Literal["prunekit", "dalvi2020"] = "prunekit",
    pooling: Literal["cls", "mean", "last", "max"] | None = None,
    prompt: str | None = None,
    space: Literal["dense", "own"] = "dense",
    dims: int | None = None,
    layer_delta: str = "1%",
    neuron_delta: str = "1%",
    threshold: float | None = None,
    max_length: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    threads: int = 1,
) -> Result:
    """Compress a transformer encoder for a task and write an artefact directory.

    Parameters
    ----------
    model : path, str or PreTrainedModel, optional
        Directory or hub name of an encoder, with or without a task head, or one that is in memory, which is left as it is; default: the
        embedded MiniLM-L6.
    data : path or str, or rows that are in memory already, optional
        The task's data, as `prunekit.data.load.load_data` reads it: a `datasets.Dataset` or `DatasetDict`, a pandas DataFrame, a dict of
        lists or a pair (texts, labels) of lists as well; default: the embedded docstrings.
    tokenizer : PreTrainedTokenizerBase, optional
        Of a model that is in memory, which needs it.
    out : path
        The directory to write.
    overwrite : bool
        Replace an earlier artefact at `out`.
    progress : bool
        Show progress bars on stderr.
    **parameters
        The other options, as the signature lists them: ``keep="10%"``, ``vocabulary="data"``, ``plan="plan.json"``, ``seed=1``, ...

    Returns
    -------
    Result

    Raises
    ------
    PrunekitError
        With one line that says what to change. Nothing is left at `out`; where a bound does not hold, ``OUT-unmet`` has the plan and the
        report of what was reached, and the model's checkpoint where it was trained.
    """

def make_plan(
    model: str | Path | Module | None = None,
    data: object = None,
    *,
    tokenizer: object = None,
    statistics: str | Path | None = None,
    progress: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    data_config: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    tokens: str | None = None,
    tags: str | None = None,
    group: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    keep: str | Sequence[str] = ("10%",),
    speedup: str | None = None,
    p95: str | None = None,
    batch: int | None = None,
    layers: str | Sequence[int] | None = None,
    drop: str | Sequence[str] = (),
    affine: bool = False,
    vocabulary: Literal["all", "data"] = "all",
    uniform: bool = False,
    multiple_of: Literal[1, 8, 16, 32] = 1,
    dtype: Literal["fp32", "fp16", "int8", "int8-static"] = "int8",
    method: Literal["prunekit", "dalvi2020"] = "prunekit",
    pooling: Literal["cls", "mean", "last", "max"] | None = None,
    prompt: str | None = None,
    dims: int | None = None,
    layer_delta: str = "1%",
    neuron_delta: str = "1%",
    threshold: float | None = None,
    max_length: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    threads: int = 1,
) -> Plan:
    """Decide what to keep, and write nothing.

    Parameters
    ----------
    model, data, tokenizer, progress, **parameters
        As in `compress`, but for what is about a deployed file: ``max_drop``, ``recover``, ``freeze``, ``space``, ``retrieval``,
        ``frontier``, ``baselines`` and ``plan``. Of ``dtype`` it counts the bytes where a budget of bytes bounds that file.
    statistics : path, optional
        The `statistics.safetensors` of `analyze`, `collect` or `merge` for the same model and data: neurons are chosen on the rows
        and moments that it holds, and the model is not run for them. With ``method="prunekit"``, and all rows of train and
        validation in it, the plan has the digest of the one without, unless so many neurons are nearly equal that the order of the
        rows decides between them.

    Returns
    -------
    Plan
        `compress(model, data, plan=...)` carries it out, and so does `prunekit.apply` without any fitting.

    Raises
    ------
    PrunekitError
        With one line that says what to change.
    """
