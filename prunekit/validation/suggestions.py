"""Suggestions for unknown names: misspellings, abbreviations, and the names of other tools."""

from __future__ import annotations

from collections.abc import Collection

#: Least similarity of two names, as measured by difflib; below it a suggestion misleads.
_SIMILARITY = 0.75
#: Least letters of an abbreviated name, such as "vocab".
_ABBREVIATION = 4

#: {name in optimum-cli, transformers and the like: name in prunekit}.
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
    """Return the sentence that suggests the name that was meant; "" where none is similar."""
    meant = near(word, names)
    return "" if meant is None else f"Did you mean {meant!r}?"


def near(word: str, names: Collection[str]) -> str | None:
    """Return the one of the names that was meant, or None where none is similar.

    Names that begin with the word come first ("speed" is not "seed"); all begin with its first letter, which is rarely mistyped.
    """
    import difflib  # only for a misspelling

    folded = word.replace("-", "_").lower()
    known = {name.replace("-", "_").lower(): name for name in names}
    known |= {other: known[meant] for other, meant in ELSEWHERE.items() if meant in known and other not in known}
    completions = [name for name in known if len(folded) >= _ABBREVIATION and name.startswith(folded)]
    similar = difflib.get_close_matches(folded, [name for name in known if name[:1] == folded[:1]], n=1, cutoff=_SIMILARITY)
    return next((known[name] for name in (*completions[:1], *similar)), None)
