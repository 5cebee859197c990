"""Checkpoints of a recovery, and its outcome: safetensors and JSON alone, validated before they are read.

A run has a directory, in which `recover.json` identifies the run. There each `checkpoint-N` holds `model.safetensors`,
`optimizer.safetensors` (the state of each trained parameter by its number, the learning rates in the metadata) and the Trainer's own
`trainer_state.json`, which is written last. Nothing in it is a pickle. One that is broken, or that does not fit the model, is
ignored. `recovered.safetensors` is the outcome of a finished run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.trainer_callback import TrainerState

from prunekit.data.batches import Encoded
from prunekit.errors import OutputError, ParameterError
from prunekit.validation.scratch import locked, temporary

KEY, _DONE = "recover.json", "recovered.safetensors"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "trainer_state.json"
_NAME = re.compile(r"checkpoint-([0-9]{1,12})", re.ASCII)
_RATES = "rates"
#: Maximum bytes of a state that is read; ten evaluations take some kilobytes.
_LONGEST = 2**20
_Number = Annotated[FiniteFloat, Field(ge=0)]
_RATE = TypeAdapter(list[_Number])


class _Callback(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    args: dict[str, FiniteFloat | bool | None]
    attributes: dict[str, FiniteFloat | bool | None]


class _State(BaseModel):
    """Constraints on the fields of a `TrainerState` that a resumed run computes with."""

    model_config = ConfigDict(strict=True, extra="ignore")

    global_step: Annotated[int, Field(gt=0)]
    max_steps: Annotated[int, Field(gt=0)]
    num_train_epochs: Annotated[int, Field(gt=0)]
    epoch: _Number | None
    best_metric: FiniteFloat | None
    best_global_step: Annotated[int, Field(ge=0)] | None = None
    best_model_checkpoint: str | None
    train_batch_size: Literal[1] | None
    total_flos: _Number
    num_input_tokens_seen: Annotated[int, Field(ge=0)]
    log_history: list[dict[str, float]]
    stateful_callbacks: dict[str, _Callback]


class _Claim(BaseModel):
    """The run to which a directory belongs."""

    model_config = ConfigDict(strict=True, extra="forbid")

    key: str
    rows: Annotated[int, Field(gt=0)]
    judged: Annotated[int, Field(gt=0)] = 2**62


def save_model(model: nn.Module, folder: Path) -> None:
    """Write the weights: a slim model need not be one that `save_pretrained` can describe."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / MODEL, metadata={"format": "pt"})


def load_model(model: nn.Module, folder: Path) -> None:
    """Read the weights back; those of a checkpoint that `complete_checkpoint` has found fit."""
    model.load_state_dict(load_file(folder / MODEL))


def save_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Write the state of each parameter, by its number, and the learning rates of the groups."""
    state_dict: dict[str, Any] = optimizer.state_dict()
    tensors = {
        f"{number}.{kind}": value.detach().cpu().contiguous()
        for number, parts in state_dict["state"].items()
        for kind, value in parts.items()
    }
    save_file(tensors, folder / OPTIMIZER, metadata={_RATES: json.dumps([float(group["lr"]) for group in state_dict["param_groups"]])})


def load_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Read the state back, as `load_model` does."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(folder / OPTIMIZER).items():
        number, _, kind = name.partition(".")
        state.setdefault(int(number), {})[kind] = value
    with safe_open(folder / OPTIMIZER, framework="pt") as opened:
        rates = json.loads(opened.metadata()[_RATES])
    groups = [{**group, "lr": rate} for group, rate in zip(optimizer.state_dict()["param_groups"], rates, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def complete_checkpoint(folder: Path, model: nn.Module | None = None) -> str | None:
    """Return the latest checkpoint that is complete and, if a model is passed, fits it; None if there is none.

    Parameters
    ----------
    folder : Path
    model : nn.Module, optional
        With the parameters that are trained set to require gradients; AdamW trains all of them in one group.
    """
    checkpoints = {int(match[1]): path for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name)) and path.is_dir()}
    return next((str(checkpoints[step]) for step in sorted(checkpoints, reverse=True) if _is_complete(checkpoints[step], model)), None)


def _is_complete(path: Path, model: nn.Module | None) -> bool:
    try:
        state = _read_state(path / STATE)
        if state.global_step > state.max_steps:
            return False
        best = path if state.best_model_checkpoint is None else Path(state.best_model_checkpoint)
        # The best checkpoint must be next to this one.
        if best.resolve().parent != path.resolve().parent or _NAME.fullmatch(best.name) is None:
            return False
        models = [_header(each / MODEL)[0] for each in {path, best}]
        moments, metadata = _header(path / OPTIMIZER)
        rates = _RATE.validate_json(metadata.get(_RATES, ""))
    except (OSError, ValueError, SafetensorError):
        return False
    if model is None:
        return True
    wanted = _shapes(model)
    shapes = [tuple(parameter.shape) for parameter in model.parameters() if parameter.requires_grad]
    return len(rates) == 1 and all(each == wanted for each in models) and _fit(moments, shapes)


def _read_state(file: Path) -> _State:
    with file.open("rb") as opened:
        text = opened.read(_LONGEST + 1)
    raw = from_json(text) if len(text) <= _LONGEST else None
    if not isinstance(raw, dict) or not raw.keys() <= {field.name for field in fields(TrainerState)}:
        raise ValueError("not a state of the Trainer")
    return _State.model_validate(raw)


def _header(file: Path) -> tuple[dict[str, tuple[int, ...]], Mapping[str, str]]:
    """Return the shapes by name, and the metadata."""
    with safe_open(file, framework="pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118


def _fit(moments: Mapping[str, tuple[int, ...]], shapes: list[tuple[int, ...]]) -> bool:
    """Return whether every moment has the shape of a parameter, and each parameter with moments has all that AdamW keeps."""
    kinds: dict[str, set[str]] = {}
    for name, shape in moments.items():
        number, _, kind = name.partition(".")
        if not number.isdecimal() or not number.isascii() or len(number) > len(str(len(shapes))) or int(number) >= len(shapes):
            return False
        if shape != (() if kind == "step" else shapes[int(number)]):
            return False
        kinds.setdefault(number, set()).add(kind)
    return all(each == {"step", "exp_avg", "exp_avg_sq"} for each in kinds.values())


def fingerprint(models: Sequence[nn.Module], splits: Sequence[Encoded], rest: Sequence[Any]) -> str:
    """Return the sha256 that a run must share with one that it resumes: over the models' weights, the tokens and labels, and `rest`."""
    digest = hashlib.sha256(json.dumps([len(models), len(splits), *rest], sort_keys=True).encode())
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for rows in splits:
        words = () if rows.read is None else (rows.read.places, rows.read.starts)
        digest.update(repr((rows.padding, len(words))).encode())
        for array in (rows.ids, rows.kinds, rows.offsets, rows.labels, *words):
            digest.update(f"{array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@contextmanager
def place(checkpoints: str | Path | None) -> Iterator[Path]:
    """Lock the directory of a run and yield it; a temporary one where none is named.

    One that is made for a run that ends before its first checkpoint is removed: there is nothing to resume.

    Raises
    ------
    OutputError
        It cannot be made, or another run has locked it.
    """
    if checkpoints is None:
        with temporary() as folder:
            yield folder
        return
    folder = Path(checkpoints)
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = locked(folder)
    except OSError as error:
        raise _write_error(folder, error) from None
    if lock is None:
        raise OutputError(f"The checkpoints in {folder} are those of a run that goes on: wait for its end, or name another output.")
    try:
        yield folder
    except BaseException:
        if new and complete_checkpoint(folder) is None and all(_is_ours(path) for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _is_ours(path: Path) -> bool:
    """Return whether a path is one that a run leaves before its first checkpoint."""
    return path.name == KEY or path.suffix == ".half" or _NAME.fullmatch(path.name) is not None


def _write_error(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"The checkpoints cannot be kept in {folder}: {error.strerror}.")


def claim(folder: Path, key: str, measure: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """Check that a directory belongs to the run with this fingerprint, or record that it does.

    Return how many rows it trains on, and how many it is judged on: `measure` is called where a run begins, and its result holds for
    all parts of the run.

    Raises
    ------
    ParameterError
        It belongs to something else.
    OutputError
        The directory cannot be made or read.
    """
    file = folder / KEY
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A run that was killed before its first checkpoint has left nothing to go on from.
        new = all(path in (file, _partial(file)) for path in folder.iterdir()) and _other_key(file, key)
    except OSError as error:
        raise _write_error(folder, error) from None
    # What goes wrong in the models is no fault of the directory.
    rows, judged = measure() if new else (0, 0)
    try:
        if new:
            begun = json.dumps({"key": key, "rows": rows, "judged": judged}) + "\n"
            _replace(file, lambda path: path.write_text(begun, encoding="utf-8"))
        with file.open("rb") as opened:
            content = from_json(opened.read(_LONGEST))
    except (FileNotFoundError, ValueError):
        content = None
    except OSError as error:
        raise _write_error(folder, error) from None
    try:
        claimed = _Claim.model_validate(content)
    except ValidationError:
        raise _other_run(folder) from None
    if claimed.key != key:
        raise _other_run(folder)
    return claimed.rows, claimed.judged


def _other_key(file: Path, key: str) -> bool:
    """Return whether no run has begun here, or one with another fingerprint."""
    try:
        with file.open("rb") as opened:
            return _Claim.model_validate(from_json(opened.read(_LONGEST))).key != key
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        # What cannot be read is not ours to replace.
        return False


def _other_run(folder: Path) -> ParameterError:
    must = "those of this very run (models, rows and parameters), or an empty directory"
    return ParameterError("checkpoints", "recover", must, str(folder), "Remove the directory to start anew.")


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: completely, or not at all."""
    partial = _partial(file)
    write(partial)
    os.replace(partial, file)


def _partial(file: Path) -> Path:
    return file.with_suffix(".half")


def read_outcome(folder: Path, model: nn.Module, schema: type[BaseModel]) -> dict[str, Any] | None:
    """Load the weights of a finished run into the model and return its outcome; None if the run has not finished.

    Raises
    ------
    ParameterError
        The file is not what `write_outcome` has written.
    """
    file = folder / _DONE
    if not file.is_file():
        return None
    try:
        shapes, metadata = _header(file)
        if shapes != _shapes(model):
            raise _other_run(folder)
        outcome = schema.model_validate_json(metadata.get("recovered", ""))
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, ValidationError):
        raise _other_run(folder) from None
    return outcome.model_dump()


def write_outcome(folder: Path, model: nn.Module, outcome: Mapping[str, Any]) -> None:
    """Write the outcome of a run, and remove its checkpoints."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _replace(folder / _DONE, lambda path: save_file(state, path, metadata={"format": "pt", "recovered": json.dumps(dict(outcome))}))
    for stale in folder.glob("checkpoint-*"):
        # Others of this kind of name are not ours.
        if _NAME.fullmatch(stale.name):
            shutil.rmtree(stale, ignore_errors=True)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
