"""Names that were meant: slips of the finger, and what other tools call the same thing."""

from __future__ import annotations

from collections.abc import Collection

#: How alike two names are at least, as difflib counts it; below it a suggestion misleads.
_ALIKE = 0.75
#: Letters of a name that is not written out, such as "vocab".
_BEGUN = 4

#: What optimum-cli, transformers and their like call what prunekit calls by another name.
ELSEWHERE = {
    "checkpoint": "model",
    "config": "recipe",
    "dataset": "data",
    "dataset_config_name": "data_config",
    "dataset_name": "data",
    "force": "overwrite",
    "intra_op_num_threads": "threads",
    "labels": "label",
    "max_seq_length": "max_length",
    "model_id": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "model_path": "model",
    "num_threads": "threads",
    "num_train_epochs": "recover",
    "epochs": "recover",
    "output": "out",
    "output_dir": "out",
    "overwrite_output_dir": "overwrite",
    "precision": "dtype",
    "provider": "device",
    "quantize": "dtype",
    "ratio": "keep",
    "sequence_length": "max_length",
    "sparsity": "keep",
    "target": "keep",
    "train_file": "data",
}


def hint(word: str, names: Collection[str]) -> str:
    """The sentence that names the one that was meant; nothing where none is like it."""
    meant = near(word, names)
    return "" if meant is None else f"Did you mean {meant!r}?"


def near(word: str, names: Collection[str]) -> str | None:
    """The one of the names that was meant, or None where none is like it.

    What begins with the word comes first ("speed" is no "seed"), and all begin with its letter, which is the one that fingers get right.
    """
    import difflib  # where somebody slipped

    asked = word.replace("-", "_").lower()
    known = {name.replace("-", "_").lower(): name for name in names}
    known |= {other: known[meant] for other, meant in ELSEWHERE.items() if meant in known and other not in known}
    begun = [name for name in known if len(asked) >= _BEGUN and name.startswith(asked)]
    alike = difflib.get_close_matches(asked, [name for name in known if name[:1] == asked[:1]], n=1, cutoff=_ALIKE)
    return next((known[name] for name in (*begun[:1], *alike)), None)
