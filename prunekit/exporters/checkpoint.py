"""Slim models on disk: plan.json, config.json, weights, and nothing that is executed on loading."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from prunekit.arch import SPECS
from prunekit.arch.classes import config_of, model_class
from prunekit.arch.config import SIZES, check_config, check_type, read_config
from prunekit.arch.embedding import MODULES, EmbeddingModel, embedder, save_modules
from prunekit.arch.folder import PRUNED
from prunekit.arch.view import COLUMNS, DENSE, UNITS, ModelView, Reader, find
from prunekit.data.token_types import TYPES, as_fed, has_types
from prunekit.errors import ModelError, OutputError, PlanError, PrunekitError
from prunekit.exporters.heads import head_of
from prunekit.exporters.slim_config import POINTER, SLIM_CONFIG, slim_fields
from prunekit.plan import Plan, slim_source
from prunekit.transforms.apply import apply
from prunekit.transforms.head_bias import restore_columns
from prunekit.transforms.layers import configs
from prunekit.transforms.stubs import STUBS
from prunekit.validation.arguments import Place, checked
from prunekit.validation.escape import LINE, reason
from prunekit.validation.reading import ReadError, check_regular

PLAN, CONFIG, STOCK = "plan.json", "config.json", "model.safetensors"
BESIDE_ONNX = "onnx/config.json"
# Errors that transformers' constructors raise on a config that they do not support.
_REFUSED = (
    StrictDataclassError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError, MemoryError,
)  # fmt: skip
_PLAIN = (bool, int, float, str, tuple, list, type(None))


class _ParametersOnMeta(TorchFunctionMode):
    """Put parameters, which layers allocate by `torch.empty`, on the meta device; buffers, made by `arange` and the like, stay real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _build(config: Any) -> Any:
    """Build the stock model of a config, without weights."""
    stock_class = model_class(config)
    with torch.random.fork_rng(devices=[]), _ParametersOnMeta():
        return stock_class(config)


def _plain_config(config: Any) -> Any:
    """Return the config without the fields that only prunekit reads."""
    fields = config.to_dict()
    for name in (COLUMNS, DENSE, UNITS):
        fields.pop(name, None)
    return config_of(fields)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return the sizes and switches that a module's forward may depend on."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, _PLAIN) and not name.startswith("_") and name not in ("training", "name_or_path")
    }


def is_stock(model: nn.Module) -> bool:
    """Return whether the stock class, built from the model's config, has exactly the modules, sizes and shapes of the model.

    Only then may the weights be written where stock loaders look for them: these initialise missing weights at random and ignore
    unknown ones.
    """
    if isinstance(model, Reader) or any(isinstance(module, STUBS) for module in model.modules()):
        return False
    if not _same_pattern(model.config):
        return False
    try:
        stock = _build(_plain_config(model.config))
    except _REFUSED:
        # The config's own checks refuse the sizes.
        return False
    modules, stock_modules = dict(model.named_modules()), dict(stock.named_modules())
    if modules.keys() != stock_modules.keys():
        return False
    if any(
        type(modules[name]) is not type(stock_modules[name]) or _attributes(modules[name]) != _attributes(stock_modules[name])
        for name in modules
    ):
        return False
    shapes = [{name: tensor.shape for name, tensor in module.state_dict().items()} for module in (model, stock)]
    return shapes[0] == shapes[1]


def _same_pattern(config: Any) -> bool:
    """Return whether transformers 4, which may know a model's attention spans by one number, reads those that the config lists."""
    types, full_attention = getattr(config, "layer_types", None), SPECS[config.model_type].full_attention
    if types is None or full_attention is None:
        return True
    key, usual = full_attention
    every = getattr(config, key, None) or usual
    return list(types) == ["sliding_attention" if at % every else "full_attention" for at in range(len(types))]


def save_tokenizer(tokenizer: Any, inputs: Sequence[str], directory: Path) -> None:
    """Save a tokenizer so that every loader feeds a model that takes `inputs` the token types that it was fed here.

    transformers 4 lacks the class that 5 names by default, and feeds token types by default where 5 does not.
    """
    (as_fed(tokenizer) if TYPES in inputs else tokenizer).save_pretrained(str(directory))
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["model_input_names"] = [name for name in inputs if name != TYPES or has_types(tokenizer)]
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_checkpoint(model: nn.Module, tokenizer: Any | None, plan: Plan, directory: str | Path) -> Path:
    """Write a slim model so that `load` restores it exactly.

    Parameters
    ----------
    model : nn.Module
        Model that `apply` returned, fine-tuned or not.
    tokenizer : PreTrainedTokenizer, optional
        Saved beside the model; where `model_input_names` lack token types, its file gives none either.
    plan : Plan
        The plan of the model.
    directory : path
        Created if missing.

    Returns
    -------
    Path
        File of the weights: `model.safetensors` if plain `from_pretrained` loads them exactly, else `pruned.safetensors`.

    Raises
    ------
    OutputError
        If the directory cannot be written.
    """
    directory = Path(directory)
    if isinstance(model, EmbeddingModel):
        written = save_checkpoint(model.body, tokenizer, plan, directory)
        save_modules(model, directory)
        return written
    stock = is_stock(model)
    weights = directory / (STOCK if stock else PRUNED)
    config: Any = model.config
    fields = (_plain_config(config) if stock else config).to_dict()
    # Where the model came from is a path on this machine; transformers leaves it out, too.
    for name in (COLUMNS, UNITS, "_name_or_path"):
        fields.pop(name, None)
    if isinstance(fields.get(DENSE), dict):
        fields[DENSE] = {name: value for name, value in fields[DENSE].items() if name != "_name_or_path"}
    fields["architectures"] = config.architectures or [type(model).__name__]
    # Dtypes are not serialisable as JSON.
    fields = json.loads(json.dumps(fields, default=lambda value: str(value).removeprefix("torch.")))
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for stale in (directory / SLIM_CONFIG, directory / BESIDE_ONNX):
            stale.unlink(missing_ok=True)
        for name, content in {CONFIG: fields, **({} if stock else _config_files(fields, directory))}.items():
            (directory / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        plan.save(directory / PLAN)
        for stale in (directory / STOCK, directory / PRUNED):
            stale.unlink(missing_ok=True)
        save_file(state, weights, metadata={"format": "pt", "plan": plan.digest})
        _sort_metadata(weights)
        if tokenizer is not None:
            save_tokenizer(tokenizer, ModelView.of(model).inputs, directory)
    except OSError as error:
        raise OutputError(f"The directory {str(directory)!r} cannot be written: {error}") from error
    return weights


def _config_files(fields: dict[str, Any], directory: Path) -> dict[str, dict[str, Any]]:
    """Return the configs of a slim model that no stock class can hold, by file."""
    plain = {name: value for name, value in fields.items() if name != DENSE}
    contents = {CONFIG: {**fields, POINTER: [SLIM_CONFIG]}, SLIM_CONFIG: slim_fields(plain)}
    # Loaders of the ONNX file look beside it first, and need no class.
    return {**contents, BESIDE_ONNX: plain} if (directory / BESIDE_ONNX).parent.is_dir() else contents


def _sort_metadata(weights: Path) -> None:
    """Order the file's metadata, which is in hash order, so that equal models give equal files."""
    with weights.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


@checked("load")
def load(path: Place) -> nn.Module:
    """Load a slim model that `save_checkpoint` wrote, exactly.

    Parameters
    ----------
    path : path
        A directory.

    Returns
    -------
    nn.Module
        In evaluation mode: the stock class, a `ReadoutModel`, or an `EmbeddingModel` where there is a modules.json.

    Raises
    ------
    PlanError
        If the plan is missing or broken, or is not that of the weights.
    ModelError
        If the config or the weights are missing or broken.
    """
    directory = Path(path).expanduser()
    if not (directory / PLAN).is_file():
        raise PlanError(f"There is no {PLAN} in {str(directory)!r}; load it with from_pretrained if prunekit did not write it.")
    plan = Plan.load(directory / PLAN)
    weights = next((file for file in (directory / PRUNED, directory / STOCK) if file.is_file()), None)
    if weights is None:
        raise ModelError(f"There is neither {PRUNED} nor {STOCK} in {str(directory)!r}.")
    state = _read(weights, plan)
    shown = repr(str(directory / CONFIG))
    fields = read_config(directory / CONFIG, shown)
    dense = fields.pop(DENSE, None)
    fields.pop(POINTER, None)
    if "model_type" in fields:
        check_type(str(directory), fields["model_type"])
    if weights.name == STOCK:
        check_config(fields, shown, whole=False)
    elif dense is None:
        raise ModelError(f"{shown} has no {DENSE!r}, from which {PRUNED} is rebuilt.")
    else:
        check_config(dense, f"{DENSE!r} in {shown}")
        check_config({"model_type": dense["model_type"], **fields}, shown, whole=False)
    try:
        model = _rebuild(plan, fields, None if weights.name == STOCK else dense, state)
    except PrunekitError:
        raise
    except _REFUSED as error:
        raise ModelError(f"{shown} describes no model: {reason(error)}.") from None
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{str(weights)!r} does not fit its plan and config: {reason(error, LINE)}") from None
    unfilled = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not unfilled, f"without values: {unfilled}"
    # sentence-transformers writes the file beside cross-encoders, too.
    embeds = (directory / MODULES).is_file() and head_of(model) == "feature-extraction"
    return embedder(model, directory, None, of="load") if embeds else model.eval()


def _rebuild(plan: Plan, fields: dict[str, Any], dense: dict[str, Any] | None, state: dict[str, torch.Tensor]) -> nn.Module:
    """Build the model without its weights; `dense` is None where the stock class can hold it."""
    if dense is None:
        model: nn.Module = _build(config_of(fields))
        _drop_pooler(model, state)
        source, planned = ModelView.of(model).source, slim_source(plan)
        for name, value in source:
            if value != getattr(planned, name):
                raise PlanError(f"The plan leaves {name} = {getattr(planned, name)}; the config beside it has {name} = {value}.")
        return model
    dense_model = _build(config_of(dense))
    restore_columns(ModelView.of(dense_model), plan)
    if plan.readout is None:
        _drop_pooler(dense_model, state)
    model = apply(dense_model, plan)
    # Other tools read the sizes from the config, which must be those of the model.
    sizes: dict[str, Any] = model.config.to_dict()  # type: ignore[union-attr, operator]  # a module may be any attribute
    for name in (*SIZES, "hidden_act", "model_type"):
        if name in fields and fields[name] != sizes.get(name):
            raise ModelError(
                f"The config says {name} = {str(fields[name])[:40]!r}; plan and dense config make {str(sizes.get(name))[:40]!r}."
            )
    for config in configs(model):
        relabel(config, fields)
    return model


def _read(weights: Path, plan: Plan) -> dict[str, torch.Tensor]:
    try:
        check_regular(weights)
        weights.open("rb").close()  # safetensors reports a file without read permission as missing
        with safe_open(weights, framework="pt") as file:
            digest = (file.metadata() or {}).get("plan")
        # Copy: a mapped file is not aligned like allocated memory, and some kernels then round differently.
        state = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    except (SafetensorError, OSError, ReadError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelError(f"{str(weights)!r} cannot be read: {why}") from None
    if digest != plan.digest:
        raise PlanError(f"{str(weights)!r} was written for the plan {str(digest)[:12]}; {PLAN} beside it is {plan.digest[:12]}.")
    return state


def relabel(config: object, fields: dict[str, Any]) -> None:
    """Copy label names and thresholds, which may be set after pruning."""
    if "thresholds" in fields:
        setattr(config, "thresholds", fields["thresholds"])  # noqa: B010
    labels = fields.get("id2label")
    if labels:
        setattr(config, "id2label", {int(key): value for key, value in labels.items()})  # noqa: B010
        setattr(config, "label2id", {value: int(key) for key, value in labels.items()})  # noqa: B010


def _drop_pooler(model: Any, state: dict[str, torch.Tensor]) -> None:
    """Remove the pooler from an encoder that was built without it, which its config does not record."""
    view = ModelView.of(model)
    pooler = view.spec.pooler
    if pooler and view.body is model and find(model, pooler) is not None and not any(name.startswith(f"{pooler}.") for name in state):
        setattr(model, pooler, None)
