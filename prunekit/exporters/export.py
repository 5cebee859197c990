"""`prunekit export`: write a checkpoint to a directory with an ONNX file that computes what the model computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from torch import nn

from prunekit import __version__
from prunekit.arch import SPECS
from prunekit.arch.config import read_config
from prunekit.arch.embedding import EmbeddingModel, save_modules
from prunekit.arch.live import given_model
from prunekit.data.options import Column, check_columns
from prunekit.errors import OutputError, ParameterError
from prunekit.exporters.artefact import EXPORT, RECIPE, ArtefactWriter, check_output
from prunekit.exporters.checkpoint import CONFIG, save_tokenizer
from prunekit.exporters.fidelity import fidelity_of
from prunekit.exporters.heads import Head
from prunekit.exporters.layout import short_name
from prunekit.exporters.onnx import OPSET, OnnxFile, Route, check_opset, export_onnx
from prunekit.exporters.parity import LONGEST, SHAPES, check_parity
from prunekit.exporters.passes import Level
from prunekit.exporters.precision import FILES, LowFile, lower
from prunekit.exporters.routes import Routed, export_by_route, routes_of
from prunekit.exporters.rows import Judge, Samples, judge_of
from prunekit.exporters.slim_config import POINTER
from prunekit.exporters.source import Exportable, exportable_of, load_source
from prunekit.exporters.triton import write_triton
from prunekit.exporters.verify import write_probe
from prunekit.runtime.records import Environment, Fidelity, Parity, Score, WeightError, environment
from prunekit.runtime.session import OnnxSession, check_device
from prunekit.validation.arguments import Place, Seed, checked
from prunekit.validation.dtypes import Dtype

Device = Literal["cpu", "cuda"]
MODEL = "onnx/model.onnx"


@dataclass(frozen=True)
class ExportReport:
    """Report of an export: export.json.

    Attributes
    ----------
    model : str
        Hub name, or name of the directory without its parents.
    head : str
    dtype : {"fp32", "fp16", "int8", "int8-static"}
    file : str
        The deployed file, relative to the directory.
    bytes : int
        Size of the deployed file, external data included.
    inputs, outputs : tuple of str
    max_length : int
        Longest row, in tokens.
    route : str
        Exporter that made the graph.
    failed : tuple of str
        Routes that failed before it, with the reasons.
    opset : int
    optimize : str
        Level of the graph passes.
    passes : mapping
        {graph pass: number of changes}.
    device : str
        Device on which the file was checked.
    parity : Parity
        The fp32 file, which is always written, against the PyTorch model.
    fidelity : Fidelity or None
        The deployed file against the fp32 file, on the data's test split or on random rows; None where they are the same.
    data : str or None
        Name of the data that it was made and measured on.
    metric : str or None
        Metric of the scores; None without data, or for a head without a metric.
    scores : mapping
        {dtype: metric on the test split} of the fp32 file and of the deployed one.
    weights : tuple of WeightError
        Cost of quantising each weight alone, and its treatment; empty without data.
    plan : str or None
        Digest of the plan of a slim model.
    environment : Environment
    """

    model: str
    head: Head
    dtype: Dtype
    file: str
    bytes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_length: int
    route: str
    failed: tuple[str, ...]
    opset: int
    optimize: Level
    passes: Mapping[str, int]
    device: Device
    parity: Parity
    fidelity: Fidelity | None
    data: str | None
    metric: str | None
    scores: Mapping[str, Score]
    weights: tuple[WeightError, ...]
    plan: str | None
    environment: Environment

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps({"version": __version__, **asdict(self)}, indent=2) + "\n"


@dataclass(frozen=True, eq=False)
class Exported:
    """Result of `export`.

    Attributes
    ----------
    path : Path
        The directory.
    report : ExportReport
    """

    path: Path
    report: ExportReport


@checked("export")
def export(
    model: Place | nn.Module,
    out: Place = "prunekit-out",
    *,
    tokenizer: object = None,
    dtype: Dtype = "fp32",
    opset: int = OPSET,
    optimize: Level = "O1",
    device: Device = "cpu",
    triton: bool = False,
    data: Place | None = None,
    columns: Mapping[Column, str | None] | None = None,
    seed: Seed = 0,
    max_length: int | None = None,
    pooling: Literal["mean", "cls", "last", "max"] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Export a model, dense or slim, to a directory that is ready to deploy.

    Parameters
    ----------
    model : path, str or PreTrainedModel
        A directory that `compress` or `apply` wrote, any other checkpoint's directory, a hub name, or a model in memory; with a head for
        sequence classification, token classification or question answering, or without one.
    out : path
        The directory to write; it is written completely or not at all.
    tokenizer : PreTrainedTokenizerBase, optional
        Tokenizer of a model in memory, which requires it.
    dtype : {"fp32", "fp16", "int8", "int8-static"}
        Type of the deployed weights; the fp32 file is written in any case.
    opset : int
        17 to 20.
    optimize : {"none", "O1"}
        O1 removes computations from the graph that do not affect its outputs.
    device : {"cpu", "cuda"}
        Device that the file is for, and on which it is compared with the model.
    triton : bool
        Add a model repository of Triton, `triton/`.
    data : path or str, optional
        The task's data, as `prunekit.data.load.load_data` reads it. The validation split determines the weights that are balanced or
        stay in fp32, the train split sets the ranges of "int8-static", which requires data, and the files are scored on the test split.
        Without data all weights become int8, and the file is compared with the fp32 file on random rows.
    columns : mapping, optional
        Parameters of `load_data`: text, text_pair, label, tokens, tags, group, config, metric.
    seed : int
        Seed of the rows that are drawn.
    max_length : int, optional
        Longest row that the file must take, to which rows of the data are cut; default: the longest that model and tokenizer allow.
    pooling : {"mean", "cls", "last", "max"}, optional
        How an encoder without a head embeds a text; default: the setting of the checkpoint, or the mean.
    revision : str, optional
        Branch, tag or commit of a hub model.
    trust_remote_code : bool
        Whether code that comes with the model may run.
    overwrite : bool
        Replace a directory that prunekit wrote at `out`.

    Returns
    -------
    Exported

    Raises
    ------
    ParameterError
        An option that is not allowed, or data that does not fit the model's head.
    DataError
        Data that cannot be read.
    ModelError
        A model that cannot be loaded or exported.
    ExportError
        A file that cannot be made, or that does not compute what the model computes.
    OutputError
        A path that cannot be written.
    """
    _check(dtype, device, opset, data)
    check_columns(columns or {}, data, of="export")
    check_output(out, overwrite, of="export", inputs=(model, data))
    place, live = given_model(model, tokenizer, of="export")
    if live is None:
        source = load_source(place, max_length=max_length, pooling=pooling, revision=revision, trust_remote_code=trust_remote_code)
    else:
        source = exportable_of(live, max_length=max_length, pooling=pooling)
    judge = None if data is None else judge_of(source, data, columns or {}, seed=seed)
    with ArtefactWriter(out, overwrite, of="export") as folder:
        routed = _fp32(source, folder / MODEL, opset, optimize, device)
        low = None
        if dtype != "fp32":
            drawn = Samples() if judge is None else judge.samples
            low = lower(routed.file, folder / FILES[dtype], dtype, **drawn._asdict())
        if device == "cpu":
            write_probe(folder, source.space, source.inputs, seed=seed)
        if triton:
            write_triton((routed.file if low is None else low.file).path, folder, Path(out).expanduser().resolve().name)
        _write_model_files(source, folder)
        report = _report(source, dtype, routed, low, judge, device, folder)
        (folder / EXPORT).write_text(report.to_json(), encoding="utf-8")
    return Exported(Path(out).expanduser(), report)


def _check(dtype: str, device: str, opset: int, data: object) -> None:
    """Refuse invalid options before anything is loaded."""
    check_opset(opset, of="export")
    if dtype == "int8-static" and data is None:
        must = "given for int8-static, whose ranges come from rows of its train split"
        raise ParameterError("data", "export", must, None, "Give --data NAME, or --dtype int8.")
    check_device(dtype, device, of="export")


def _fidelity(source: Exportable, plain: OnnxFile, low: OnnxFile) -> Fidelity:
    """Return the fidelity of the file in lower precision to the fp32 file, on random rows."""
    shapes = dict.fromkeys((rows, min(length, source.space.max_length)) for rows, length in (*SHAPES, (2, LONGEST)))
    batches = [source.space.batch(*shape, seed=0, names=source.inputs) for shape in shapes]
    return fidelity_of(OnnxSession(low.path), OnnxSession(plain.path), batches)


def _fp32(source: Exportable, path: Path, opset: int, level: Level, device: Device) -> Routed:
    """Export the fp32 file and check it against the model."""
    model, inputs, space = source.model, source.inputs, source.space
    metadata = {} if source.plan is None else {"plan": source.plan.digest}

    def attempt(route: Route, passes: Level) -> OnnxFile:
        return export_onnx(
            model, path, inputs=inputs, space=space, outputs=source.outputs, opset=opset, level=passes, route=route, metadata=metadata
        )

    check = partial(check_parity, model=model, inputs=inputs, space=space, device=device)
    return export_by_route(attempt, check, path, routes=routes_of(SPECS[source.config.model_type]), level=level)


def _write_model_files(source: Exportable, folder: Path) -> None:
    """Write config, plan and tokenizer, which are loaded beside the ONNX file."""
    try:
        directory = Path(source.name).expanduser()
        if source.plan is None:
            source.config.save_pretrained(str(folder))
        else:
            fields = read_config(directory / CONFIG, repr(str(directory / CONFIG)))
            # It points to the config of the PyTorch weights, which are not copied.
            fields.pop(POINTER, None)
            (folder / CONFIG).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            source.plan.save(folder / "plan.json")
            if (directory / RECIPE).is_file():
                # It records what the slim model was made from.
                shutil.copyfile(directory / RECIPE, folder / RECIPE)
        save_tokenizer(source.tokenizer, source.inputs, folder)
        if isinstance(source.model, EmbeddingModel):
            # Without it sentence-transformers takes the mean of the tokens, whatever the model does.
            stated = source.model.embedding
            length = min(stated.max_length or source.space.max_length, source.space.max_length)
            source.model.embedding = replace(stated, max_length=length)
            save_modules(source.model, folder)
    except OSError as error:
        raise OutputError(f"The output directory cannot be written: {error.strerror or error}.") from error


def _report(
    source: Exportable, dtype: Dtype, routed: Routed, low: LowFile | None, judge: Judge | None, device: Device, folder: Path
) -> ExportReport:
    file, measured = routed.file, None
    if low is not None:
        file = low.file
        measured = _fidelity(source, routed.file, file) if judge is None else judge.fidelity(file, routed.file)
    files: dict[str, OnnxFile] = {"fp32": routed.file, dtype: file}
    return ExportReport(
        model=short_name(source.name),
        head=source.head,
        dtype=dtype,
        file=str(file.path.relative_to(folder)),
        bytes=file.bytes,
        inputs=file.inputs,
        outputs=file.outputs,
        max_length=source.space.max_length,
        route=file.route,
        failed=routed.failed,
        opset=file.opset,
        optimize=routed.level,
        passes=dict(routed.file.passes),
        device=device,
        parity=routed.parity,
        fidelity=measured,
        data=None if judge is None else judge.name,
        metric=None if judge is None or judge.task is None else judge.task.metric.value,
        scores={} if judge is None else judge.scores(files),
        weights=() if low is None else low.weights,
        plan=None if source.plan is None else source.plan.digest,
        environment=environment(),
    )
