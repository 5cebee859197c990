"""A checkpoint's directory, looked at before anything is loaded from it. No torch, no transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunekit.arch.config import check_config, check_memory, check_tokenizer_files, check_type, read_config, stored_elements
from prunekit.errors import ModelError
from prunekit.validation.reading import place_fault

INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer_config.json"
#: What `prunekit.load` reads.
PRUNED = "pruned.safetensors"
#: Any of these makes a directory a checkpoint.
WEIGHTS = ("model.safetensors", INDEX, PRUNED)
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


def local_folder(name: str) -> Path | None:
    """The directory that a model's name is the path of; None for what may be on the hub.

    Raises
    ------
    ModelError
        A path at which there is no directory.
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
    """Say of a directory what transformers would say in many lines, or not at all; what its config.json holds."""
    where = f"The model directory {str(folder)!r}"
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{where} has no config.json.")
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
            cure = "load it in Python with AutoModel...from_pretrained and write it with save_pretrained, if you trust it"
            raise ModelError(f"{where} has pickled weights only (pytorch_model.bin). Convert them to safetensors: {cure}.")
        raise ModelError(f"{where} has no weights: {WEIGHTS[0]} is missing.")
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        raise ModelError(f"{where} has no tokenizer: one of {', '.join(_VOCABULARIES)} must be there.")
    if not pruned:
        # What was pruned holds less than its config speaks of, and is built from its plan.
        check_memory(config, stored_elements(folder)[0], str(folder))
    return config


def _check_readable(folder: Path) -> None:
    """Name the file that the user may not read, which the libraries call missing."""
    for path in (path for name in (*WEIGHTS, "tokenizer.json", TOKENIZER) if (path := folder / name).is_file()):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ModelError(f"The file {str(path)!r} cannot be read: {error.strerror}.") from None
