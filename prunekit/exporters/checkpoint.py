"""Slim models on disk: plan.json, config.json, weights, and nothing that is executed on loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from prunekit.arch.config import SIZES, check_config, check_type, read_config
from prunekit.arch.embedding import MODULES, EmbeddingModel, embedder, save_modules
from prunekit.arch.folder import PRUNED
from prunekit.arch.known import config_of, model_class
from prunekit.arch.view import COLUMNS, UNITS, ModelView, Reader, find
from prunekit.errors import ModelError, OutputError, PlanError, PrunekitError
from prunekit.exporters.slim_config import POINTER, SLIM_CONFIG, slim_fields
from prunekit.plan import Plan, slim_source
from prunekit.transforms.apply import DENSE, apply
from prunekit.transforms.head_bias import restore_columns
from prunekit.transforms.layers import configs
from prunekit.transforms.stubs import STUBS
from prunekit.validation.arguments import Place, checked
from prunekit.validation.reading import ReadError, check_regular

PLAN, CONFIG, STOCK = "plan.json", "config.json", "model.safetensors"
BESIDE_ONNX = "onnx/config.json"
# What transformers' constructors raise on a config that they were not made for.
_REFUSED = (
    StrictDataclassError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError, MemoryError,
)  # fmt: skip
_PLAIN = (bool, int, float, str, tuple, list, type(None))


class _ParametersOnMeta(TorchFunctionMode):
    """Layers allocate their parameters by `torch.empty`; buffers, made by `arange` and its like, stay real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _build(config: Any) -> Any:
    """The stock model of a config, without weights."""
    made = model_class(config)
    with torch.random.fork_rng(devices=[]), _ParametersOnMeta():
        return made(config)


def _plain_config(config: Any) -> Any:
    """The config without what only prunekit reads."""
    fields = config.to_dict()
    for name in (COLUMNS, DENSE, UNITS):
        fields.pop(name, None)
    return config_of(fields)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Sizes and switches that a module's forward may depend on."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, _PLAIN) and not name.startswith("_") and name not in ("training", "name_or_path")
    }


def is_stock(model: nn.Module) -> bool:
    """Whether the stock class, built from the model's config, has exactly the modules, sizes and shapes of the model.

    Only then may the weights be written where stock loaders look for them: they fill what is missing with random
    weights, and ignore what they do not know.
    """
    if isinstance(model, Reader) or any(isinstance(module, STUBS) for module in model.modules()):
        return False
    try:
        stock = _build(_plain_config(model.config))
    except _REFUSED:
        # The config's own checks refuse the sizes.
        return False
    ours, theirs = dict(model.named_modules()), dict(stock.named_modules())
    if ours.keys() != theirs.keys():
        return False
    if any(type(ours[name]) is not type(theirs[name]) or _attributes(ours[name]) != _attributes(theirs[name]) for name in ours):
        return False
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (model, stock)]
    return shapes[0] == shapes[1]


def save_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Save a tokenizer so that transformers 4 loads it too, which does not know the class that 5 names where it has no other."""
    tokenizer.save_pretrained(str(directory))
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_checkpoint(model: nn.Module, tokenizer: Any | None, plan: Plan, directory: str | Path) -> Path:
    """Write a slim model so that `load` gives it back exactly.

    Parameters
    ----------
    model : nn.Module
        What `apply` returned, trained further or not.
    tokenizer : PreTrainedTokenizer, optional
        Goes beside it, as it is.
    plan : Plan
        The plan of the model.
    directory : path
        Made if missing.

    Returns
    -------
    Path
        The weights: `model.safetensors` if plain `from_pretrained` loads them exactly, else `pruned.safetensors`.

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
    for name in (COLUMNS, UNITS):
        fields.pop(name, None)
    fields["architectures"] = config.architectures or [type(model).__name__]
    # Dtypes do not survive JSON as objects.
    fields = json.loads(json.dumps(fields, default=lambda value: str(value).removeprefix("torch.")))
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for stale in (directory / SLIM_CONFIG, directory / BESIDE_ONNX):
            stale.unlink(missing_ok=True)
        for name, content in {CONFIG: fields, **({} if stock else _pointed(fields, directory))}.items():
            (directory / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        plan.save(directory / PLAN)
        for stale in (directory / STOCK, directory / PRUNED):
            stale.unlink(missing_ok=True)
        save_file(state, weights, metadata={"format": "pt", "plan": plan.digest})
        _sort_metadata(weights)
        if tokenizer is not None:
            save_tokenizer(tokenizer, directory)
    except OSError as error:
        raise OutputError(f"The directory {str(directory)!r} cannot be written: {error}") from error
    return weights


def _pointed(fields: dict[str, Any], directory: Path) -> dict[str, dict[str, Any]]:
    """The configs of a slim model that no stock class holds, by file: each for those who read it."""
    plain = {name: value for name, value in fields.items() if name != DENSE}
    found = {CONFIG: {**fields, POINTER: [SLIM_CONFIG]}, SLIM_CONFIG: slim_fields(plain)}
    # Loaders of the ONNX file look beside it first, and need no class.
    return {**found, BESIDE_ONNX: plain} if (directory / BESIDE_ONNX).parent.is_dir() else found


def _sort_metadata(weights: Path) -> None:
    """Order the file's metadata, which comes in the order of a hash table, so that equal models are equal files."""
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
    """Read a slim model that `save_checkpoint` wrote; difference 0.

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
        model = _rebuilt(plan, fields, None if weights.name == STOCK else dense, state)
    except PrunekitError:
        raise
    except _REFUSED as error:
        raise ModelError(f"{shown} describes no model: {' '.join(str(error).split())[:200] or type(error).__name__}.") from None
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"{str(weights)!r} does not fit its plan and config: {' '.join(str(error).split())}") from None
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not left, f"without values: {left}"
    return embedder(model, directory, None, of="load") if (directory / MODULES).is_file() else model.eval()


def _rebuilt(plan: Plan, fields: dict[str, Any], dense: dict[str, Any] | None, state: dict[str, torch.Tensor]) -> nn.Module:
    """The model without its weights; `dense` is None where the stock class expresses it."""
    if dense is None:
        model: nn.Module = _build(config_of(fields))
        _drop_pooler(model, state)
        found, wanted = ModelView.of(model).source, slim_source(plan)
        for name, ours in found:
            if ours != getattr(wanted, name):
                raise PlanError(f"The plan leaves {name} = {getattr(wanted, name)}; the config beside it has {name} = {ours}.")
        return model
    whole = _build(config_of(dense))
    restore_columns(ModelView.of(whole), plan)
    if plan.readout is None:
        _drop_pooler(whole, state)
    model = apply(whole, plan)
    # Others read the sizes in the config itself, and must find those of the model.
    made: dict[str, Any] = model.config.to_dict()  # type: ignore[union-attr, operator]  # a module may be any attribute
    for name in (*SIZES, "hidden_act", "model_type"):
        if name in fields and fields[name] != made.get(name):
            raise ModelError(
                f"The config says {name} = {str(fields[name])[:40]!r}; plan and dense config make {str(made.get(name))[:40]!r}."
            )
    for config in configs(model):
        _relabel(config, fields)
    return model


def _read(weights: Path, plan: Plan) -> dict[str, torch.Tensor]:
    try:
        check_regular(weights)
        weights.open("rb").close()  # safetensors calls a file missing that may not be read
        with safe_open(weights, framework="pt") as file:
            digest = (file.metadata() or {}).get("plan")
        # Copies, for a mapped file is not aligned as memory is, and some kernels then round differently.
        state = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    except (SafetensorError, OSError, ReadError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelError(f"{str(weights)!r} cannot be read: {said}") from None
    if digest != plan.digest:
        raise PlanError(f"{str(weights)!r} was written for the plan {str(digest)[:12]}; {PLAN} beside it is {plan.digest[:12]}.")
    return state


def _relabel(config: object, fields: dict[str, Any]) -> None:
    """Label names may have been given after pruning, and thresholds are chosen after it."""
    if "thresholds" in fields:
        setattr(config, "thresholds", fields["thresholds"])  # noqa: B010
    labels = fields.get("id2label")
    if labels:
        setattr(config, "id2label", {int(key): value for key, value in labels.items()})  # noqa: B010
        setattr(config, "label2id", {value: int(key) for key, value in labels.items()})  # noqa: B010


def _drop_pooler(model: Any, state: dict[str, torch.Tensor]) -> None:
    """A bare body may have been built without its pooler, which its config does not say."""
    view = ModelView.of(model)
    pooler = view.spec.pooler
    if pooler and view.body is model and find(model, pooler) is not None and not any(name.startswith(f"{pooler}.") for name in state):
        setattr(model, pooler, None)
