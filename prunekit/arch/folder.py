"""Checks of a checkpoint's directory before anything is loaded from it. No torch, no transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunekit.arch.config import check_config, check_memory, check_tokenizer_files, check_type, read_config, stored_elements
from prunekit.errors import ModelError
from prunekit.validation.reading import place_fault

INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer_config.json"
#: File of an adapter, whose base model may be loaded from anywhere.
ADAPTER = "adapter_config.json"
#: Weights of a pruned model, which `prunekit.load` reads.
PRUNED = "pruned.safetensors"
#: Files of which a checkpoint's directory has at least one.
WEIGHTS = ("model.safetensors", INDEX, PRUNED)
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


def local_folder(name: str) -> Path | None:
    """Return the directory at the path that names a model; None for a name that may be on the hub.

    Raises
    ------
    ModelError
        If there is no directory at the path.
    """
    fault = place_fault(name)
    if fault is not None:
        raise ModelError(f"The model {name[:200]!r} cannot be found: {fault}.")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise ModelError(f"The model {name!r} is not a directory. Give a directory with config.json and model.safetensors, or a hub id.")
    return None


def check_folder(folder: Path) -> dict[str, Any]:
    """Refuse a directory that transformers would reject at length, or not at all; return the contents of its config.json."""
    where = f"The model directory {str(folder)!r}"
    path = folder / "config.json"
    if (folder / ADAPTER).exists():
        raise adapter_error(str(folder))
    if not path.is_file():
        raise ModelError(f"{where} has no config.json.{_inside(folder)}")
    config = read_config(path, f"{where} has a config.json that")
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{where} has a config.json without a model_type.")
    pruned = (folder / PRUNED).is_file()
    check_config(config, f"{where} has a config.json that", whole=not pruned)
    check_type(str(folder), config["model_type"])
    check_tokenizer_files(folder, where)
    _check_readable(folder)
    if not any((folder / file).is_file() for file in WEIGHTS):
        if any((folder / file).is_file() for file in _PICKLED):
            remedy = "load it in Python with AutoModel...from_pretrained and write it with save_pretrained, if you trust it"
            raise ModelError(f"{where} has pickled weights only (pytorch_model.bin). Convert them to safetensors: {remedy}.")
        raise ModelError(f"{where} has no weights: {WEIGHTS[0]} is missing.")
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARY_FILES):
        raise ModelError(f"{where} has no tokenizer: one of {', '.join(_VOCABULARY_FILES)} must be there.")
    if not pruned:
        # A pruned checkpoint holds less than its config describes, and is built from its plan.
        check_memory(config, stored_elements(folder)[0], str(folder))
    return config


def adapter_error(name: str) -> ModelError:
    """Return the error for an adapter in the place of a model."""
    return ModelError(f"The model {name!r} is an adapter ({ADAPTER}). Merge it into its base model and save that.")


def _inside(folder: Path) -> str:
    """Return a hint on a model in a folder of the directory: the last checkpoint of a training, say."""
    models = [path for path in folder.glob("*/config.json") if any((path.parent / name).is_file() for name in WEIGHTS)]
    found = [path.parent.name for path in sorted(models, key=lambda path: (path.stat().st_mtime, len(path.parent.name), path.parent.name))]
    return f" Did you mean {str(folder / found[-1])!r}?" if found else ""


def _check_readable(folder: Path) -> None:
    """Refuse a file that the user may not read, which the libraries report as missing."""
    for path in (path for name in (*WEIGHTS, "tokenizer.json", TOKENIZER) if (path := folder / name).is_file()):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ModelError(f"The file {str(path)!r} cannot be read: {error.strerror}.") from None
