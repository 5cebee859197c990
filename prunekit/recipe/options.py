"""Declarations of all options: type, default, help text, and the commands that have each.

The command line and the signatures of the public functions are made from these fields: after a change run
``python docs/make_cli.py``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from prunekit.metrics import Metric
from prunekit.recipe.fields import Blocks, Column, Factor, Name, Percent, Seconds, read_budgets, read_drop, read_effort
from prunekit.recipe.option import CHOOSING, COLUMNS, MAKING, READING, ROWS, WRITING, Option
from prunekit.tasks import TaskKind
from prunekit.validation.dtypes import Dtype
from prunekit.validation.limits import BATCH, POSITIONS, SEEDS, THREADS, WIDTH

#: Budget where nothing names what to remove.
DEFAULT_KEEP = ("10%",)


class Options(BaseModel):
    """Fields of a `prunekit.Recipe`; all are optional."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[3] = 3
    model: Annotated[
        Name | None,
        Option(
            "Directory or hub name [default: all-MiniLM-L6-v2, with the 'demo' extra].",
            "Data",
            "MODEL",
            READING,
            more="A transformer encoder, with or without a task head.",
            positional=True,
        ),
    ] = None
    revision: Annotated[Column | None, Option("Branch, tag or commit of a hub model.", "Other options", "NAME", ROWS)] = None
    trust_remote_code: Annotated[bool, Field(strict=True), Option("Run code that comes with the model.", "Other options", "", ROWS)] = False
    data: Annotated[
        Name | None,
        Option(
            "File, directory or hub name [default: that of the 'demo' extra].", "Data", "NAME", ("compress", "plan", "analyze", "collect")
        ),
    ] = None
    data_config: Annotated[Column | None, Option("Configuration of a hub data set, such as 'sst2' of 'glue'.", "Data", "NAME", ROWS)] = None
    text: Annotated[Column | None, Option("Column of the text [default: found by name].", "Data", "COLUMN", COLUMNS)] = None
    text_pair: Annotated[Column | None, Option("Column of the second text [default: found by name].", "Data", "COLUMN", COLUMNS)] = None
    label: Annotated[
        Column | None,
        Option(
            "Column of the label, or of lists of labels; or columns of 0 and 1, with commas between [default: found by name].",
            "Data",
            "COLUMN",
            COLUMNS,
        ),
    ] = None
    tokens: Annotated[Column | None, Option("Column of the words of a token task [default: found by name].", "Data", "COLUMN", COLUMNS)] = (
        None
    )
    tags: Annotated[Column | None, Option("Column of the words' tags [default: found by name].", "Data", "COLUMN", COLUMNS)] = None
    group: Annotated[
        Column | None,
        Option(
            "Column of what rows have in common: such rows stay in one split [default: no groups; a ranking's query by its name].",
            "Data",
            "COLUMN",
            ROWS,
            more="A document, say, or a query: rows of one group stay on one side of every cut.",
        ),
    ] = None
    task: Annotated[
        TaskKind | None,
        Option(
            "'text-classification', 'multi-label-classification', 'regression', 'text-ranking', 'token-classification', 'embedding' "
            "or 'question-answering' [default: inferred from the data].",
            "Data",
            "NAME",
            READING,
        ),
    ] = None
    metric: Annotated[
        Metric | None,
        Option(
            "'accuracy', 'f1', 'micro-f1', 'matthews', 'pearson', 'spearman', 'cosine', 'entity-f1', 'ndcg@10', 'mrr', 'map', "
            "'answer-f1', 'exact-match' or, without labels, 'agreement' [default: the task's usual one].",
            "Measuring",
            "NAME",
            (*MAKING, "analyze", "export"),
        ),
    ] = None
    keep: Annotated[
        tuple[str, ...],
        BeforeValidator(read_budgets),
        Option(
            "'10%' of the model, '10% neurons', '40% params', '40% macs', '25% latency' or '20 MB'; repeat it, all hold "
            "[default: 10% where nothing else says what to remove].",
            "What to keep",
            "BUDGET",
            CHOOSING,
            more="Beside speedup, p95, max_drop, layers, drop, vocabulary or plan it may be empty ('none'), and is by default.",
        ),
    ] = DEFAULT_KEEP
    speedup: Annotated[
        Factor | None,
        Option(
            "'3x': how many times as fast the file must be; a budget of latency [default: no bound].",
            "What to keep",
            "FACTOR",
            CHOOSING,
            more="A factor above 1, at the lower end of what is measured.",
        ),
    ] = None
    p95: Annotated[
        Seconds | None,
        Option(
            "'5ms': how long one row may take at most in 95 of 100 cases, on this machine and the data's lengths [default: no bound].",
            "What to keep",
            "TIME",
            CHOOSING,
            more="In milliseconds or seconds ('0.2s'), of the file in fp32.",
        ),
    ] = None
    batch: Annotated[
        Annotated[int, Field(strict=True, ge=2, le=BATCH)] | None,
        Option(
            "Rows in a batch at which a budget of latency must hold besides one row [default: one row alone].",
            "Measuring",
            "N",
            CHOOSING,
        ),
    ] = None
    layers: Annotated[
        Blocks | None,
        Option("Blocks to keep, such as '0-3' or '0,2,4' [default: all that are read].", "What to keep", "BLOCKS", CHOOSING),
    ] = None
    drop: Annotated[
        tuple[str, ...],
        BeforeValidator(read_drop),
        Option(
            "'ffn:4-5' or 'attention:3': FFN or attention blocks that go before anything is chosen.",
            "What to keep",
            "BLOCKS",
            CHOOSING,
            more="And before anything is trained (Sridhar & Sarah 2020).",
        ),
    ] = ()
    affine: Annotated[
        bool,
        Field(strict=True),
        Option(
            "Put an affine map in the place of the FFN blocks that --drop names.",
            "What to keep",
            "",
            CHOOSING,
            more="The map is that of least squares.",
        ),
    ] = False
    vocabulary: Annotated[
        Literal["all", "data"],
        Option(
            "'all', or 'data': tokens that train does not use are removed [default: all].",
            "What to keep",
            "NAME",
            CHOOSING,
            more="They leave the embedding and the tokenizer, but for those that spell any other text.",
        ),
    ] = "all"
    uniform: Annotated[
        bool, Field(strict=True), Option("Leave all blocks with equally many heads and FFN neurons.", "What to keep", "", CHOOSING)
    ] = False
    multiple_of: Annotated[
        Literal[1, 8, 16, 32],
        Option("8, 16 or 32: round FFN widths to a multiple of it [default: 1].", "What to keep", "N", CHOOSING),
    ] = 1
    plan: Annotated[
        Name | None,
        Option(
            "A plan file that is carried out as it is.",
            "What to keep",
            "FILE",
            ("compress",),
            more="Then nothing is chosen, and without data nothing is fitted.",
            typed=False,
        ),
    ] = None
    dtype: Annotated[
        Dtype,
        Option(
            "'int8', 'int8-static' or 'fp16': a second ONNX file in lower precision; 'fp32': none [default: int8].",
            "Output",
            "NAME",
            more="The activations of int8 are in the range of each batch, those of int8-static in fixed ranges from train. A budget of "
            "time is held against the file in fp32, one of bytes against this one where fp32 would keep less than a quarter of the layers. "
            "plan writes neither, and counts the bytes of the one that a budget bounds.",
        ),
    ] = "int8"
    max_drop: Annotated[
        Percent | None,
        Option(
            "Largest relative loss of the metric; alone, how far to go down [default: no bound].",
            "What to keep",
            "PERCENT",
            WRITING,
            more="On half of the validation split, which then chooses nothing else, or on all of it where it has fewer than 20 rows for "
            "each one that may be lost. Where nothing else says what to remove, the smallest model that keeps to it is searched for.",
        ),
    ] = None
    frontier: Annotated[
        bool,
        Field(strict=True),
        Option(
            "Also make and measure slim models of several speeds, to choose from.",
            "What to keep",
            "",
            ("compress",),
            more="'50% latency' ships where nothing else says what to.",
        ),
    ] = False
    recover: Annotated[
        str,
        BeforeValidator(read_effort),
        Option(
            "Train what is left: '10min', '3epochs' or 'none' [default: auto, 5 minutes at most].",
            "Training",
            "EFFORT",
            WRITING,
            more="By distillation from the dense model where that has a head for the task, else on the labels; 'auto' where layers, heads "
            "or FFN neurons were cut and there is data to train on.",
        ),
    ] = "auto"
    retrieval: Annotated[
        Name | None,
        Option(
            "Directory with corpus, queries and qrels on which an embedder is measured.",
            "Measuring",
            "DIRECTORY",
            WRITING,
            more="Laid out as BEIR has it; nothing is learned from it.",
        ),
    ] = None
    baselines: Annotated[
        bool,
        Field(strict=True),
        Option(
            "Train the baselines for as long, three of each, and the dense model that came without a head.",
            "Measuring",
            "",
            ("compress",),
            more="The report gives the median of the three and all three values. Without training, three choices at random are compared.",
        ),
    ] = False
    freeze: Annotated[
        Column | None,
        Option(
            "Blocks that --recover does not train, such as 'layers:0-3' [default: all are trained].",
            "Training",
            "BLOCKS",
            WRITING,
        ),
    ] = None
    method: Annotated[
        Literal["prunekit", "dalvi2020"],
        Option("'prunekit' or 'dalvi2020' [default: prunekit].", "What to keep", "NAME", CHOOSING, more="How the neurons are chosen."),
    ] = "prunekit"
    pooling: Annotated[
        Literal["cls", "mean", "last", "max"] | None,
        Option(
            "How a text's tokens become one row: 'cls', 'mean', 'last' or 'max' [default: an embedder's own; cls if fine-tuned; mean].",
            "Data",
            "NAME",
            READING,
            more="'max' is for embedders.",
        ),
    ] = None
    prompt: Annotated[
        Column | None,
        Option("Prompt that an embedder puts before each text, by its name [default: its directory's own].", "Data", "NAME", MAKING),
    ] = None
    space: Annotated[
        Literal["dense", "own"],
        Option(
            "'dense', so that an index of the dense embedder stays valid, or 'own' [default: dense].",
            "Training",
            "NAME",
            WRITING,
            more="Whose vectors a trained embedder gives: the dense model's, or such as are as alike as the dense model's.",
        ),
    ] = "dense"
    dims: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=WIDTH)] | None,
        Option(
            "Output dimensions of an embedder: a projection fitted to the cosines of train [default: all of them].",
            "What to keep",
            "N",
            MAKING,
            more="It is an output projection; measured beside principal components, chosen, first and random dimensions.",
        ),
    ] = None
    layer_delta: Annotated[
        Percent,
        Option(
            "Relative loss that the choice of the top layer may cost [default: 1%].",
            "What to keep",
            "PERCENT",
            CHOOSING,
            more="Dalvi et al. 2020, section 7, LayerSelector.",
        ),
    ] = 0.01
    neuron_delta: Annotated[
        Percent,
        Option(
            "Relative loss that the choice of neurons may cost [default: 1%].",
            "What to keep",
            "PERCENT",
            CHOOSING,
            more="After that of the layer; Dalvi et al. 2020, minimal neuron set.",
        ),
    ] = 0.01
    threshold: Annotated[
        Annotated[float, Field(strict=True, ge=0, le=1)] | None,
        Option(
            "Correlation distance below which neurons are one cluster, 0 to 1 [default: 0.3 for dalvi2020, no clusters for prunekit].",
            "What to keep",
            "NUMBER",
            CHOOSING,
            more="The distance is 1 - abs(r); Dalvi et al. 2020, correlation clustering.",
        ),
    ] = None
    max_length: Annotated[
        Annotated[int, Field(strict=True, ge=4, le=POSITIONS)] | None,
        Option(
            "Tokens after which an input is cut [default: 128, 384 for questions, or the model's positions where they are fewer].",
            "Data",
            "N",
            READING,
            more="Special tokens count. The context of a question is not cut, but read in windows of so many tokens.",
        ),
    ] = None
    stride: Annotated[
        Annotated[int, Field(strict=True, ge=0, le=POSITIONS)] | None,
        Option(
            "Tokens that a window of a long context shares with the one before [default: a third of a window, less where the longest "
            "question leaves less].",
            "Data",
            "N",
            READING,
            more="Of questions alone; at most half of the tokens that a window leaves beside the longest question.",
        ),
    ] = None
    seed: Annotated[
        int, Field(strict=True, ge=0, lt=SEEDS), Option("Seed of everything that is drawn [default: 0].", "Other options", "N", ROWS)
    ] = 0
    threads: Annotated[
        int,
        Field(strict=True, ge=1, le=THREADS),
        Option("Processor threads with which latency is measured [default: 1].", "Measuring", "N", MAKING),
    ] = 1
