"""How well an embedder finds documents, with its own vectors and in an index of the dense model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prunekit.data.batches import Encoded, encode
from prunekit.data.retrieval import Retrieval
from prunekit.data.rows import Rows
from prunekit.exporters.onnx import OnnxFile
from prunekit.metrics import Judged, Metric, compare, interval
from prunekit.pipeline.records import Files, Inputs, Text
from prunekit.pipeline.vectors import NEAREST, nearest, overlap, unit
from prunekit.ranked import judged_lists
from prunekit.report.base import RowName
from prunekit.report.embedder import Retrieved
from prunekit.runtime.scores import outputs_of_file

Vectors = NDArray[np.floating]
Lists = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""Scores, grades and where each query begins."""

#: Documents that recall looks at.
DEPTH = 100


def retrieved(inputs: Inputs, text: Text, files: Files, *, threads: int, own_space: bool, seed: int) -> tuple[Retrieved, ...]:
    """Search the corpus with each file.

    Documents and queries get the prompts that the model has for them, "document" and "query".

    Parameters
    ----------
    inputs : Inputs
        With `retrieval`; the dense model's tokenizer and prompts.
    text : Text
        The slim files' tokenizer.
    files : Files
    threads : int
    own_space : bool
        Whether vectors of the slim model are compared with its own alone.
    seed : int
        Of the intervals.
    """
    asked = inputs.retrieval
    assert asked is not None
    queries = tuple(inputs.prompts.get("query", "") + each for each in asked.queries)
    documents = tuple(inputs.prompts.get("document", "") + each for each in asked.documents)

    def read(tokenizer: PreTrainedTokenizerBase) -> tuple[Encoded, Encoded]:
        rows = (Rows(texts=texts, labels=np.zeros(len(texts))) for texts in (queries, documents))
        ours, theirs = (encode(each, tokenizer, max_length=inputs.max_length, per_token=False) for each in rows)
        return ours, theirs

    def vectors(file: OnnxFile, encoded: tuple[Encoded, Encoded]) -> tuple[Vectors, Vectors]:
        ours, theirs = (unit(outputs_of_file(file.path, each, threads=threads)) for each in encoded)
        return ours, theirs

    slim = read(text.tokenizer)
    found: dict[RowName, tuple[Vectors, Vectors]] = {"dense": vectors(files.dense, read(inputs.loaded.tokenizer))}
    found["slim"] = vectors(files.slim, slim)
    if files.low is not None:
        found["slim-low"] = vectors(files.low.file, slim)
    return searched(asked, found, own_space=own_space, seed=seed)


def searched(
    asked: Retrieval, found: Mapping[RowName, tuple[Vectors, Vectors]], *, own_space: bool = False, seed: int = 0
) -> tuple[Retrieved, ...]:
    """Compare searches with vectors (queries, documents) of several models, "dense" first.

    Each model's queries are put to the dense model's index, unless its vectors are of a space of their own, and to its own.
    """
    _, index = found["dense"]
    reference: Judged | None = None
    wanted = np.empty((0, 0), dtype=np.int64)
    rows = []
    for name, (queries, own) in found.items():
        apart = name != "dense" and (own_space or own.shape[1] != index.shape[1])
        indexes: dict[Literal["dense", "own"], Vectors] = {} if apart else {"dense": index}
        indexes |= {} if name == "dense" else {"own": own}
        for kind, documents in indexes.items():
            best = nearest(queries, documents, min(DEPTH, len(documents)))
            lists, recall = _lists(asked, queries, documents, best)
            judged = judged_lists(Metric.NDCG, *lists)
            if reference is None:
                reference, wanted = judged, best[:, :NEAREST]
            value, low, high = interval(judged, seed=seed)
            of = compare(judged, reference, seed=seed) if name != "dense" and reference.value > 0 else None
            rows.append(
                Retrieved(
                    name=name,
                    index=kind,
                    ndcg=value,
                    low=low,
                    high=high,
                    share=None if of is None else of.value,
                    share_low=None if of is None else of.low,
                    share_high=None if of is None or not np.isfinite(of.high) else of.high,
                    recall=recall,
                    mrr=judged_lists(Metric.MRR, *lists).value,
                    overlap=overlap(best[:, : wanted.shape[1]], wanted),
                    queries=len(queries),
                    documents=len(documents),
                )
            )
    return tuple(rows)


def _lists(asked: Retrieval, queries: Vectors, documents: Vectors, best: NDArray[np.int64]) -> tuple[Lists, float]:
    """What each query found or was judged for, as `ranked` takes lists, and the mean share of its relevant documents that it found."""
    starts, scores, grades, recall = [0], [], [], []
    edges = np.searchsorted(asked.query, np.arange(len(queries) + 1))
    for number, top in enumerate(best):
        judged = slice(edges[number], edges[number + 1])
        known = dict(zip(asked.document[judged].tolist(), asked.grade[judged].tolist(), strict=True))
        # What is not judged counts as irrelevant; what is judged and was not found still counts for the best order.
        listed = np.array(list(dict.fromkeys([*top.tolist(), *known])), dtype=np.int64)
        scores.append(documents[listed].astype(np.float64) @ queries[number].astype(np.float64))
        grades.append(np.array([known.get(each, 0.0) for each in listed.tolist()]))
        relevant = {each for each, grade in known.items() if grade > 0}
        recall.append(len(relevant.intersection(top.tolist())) / len(relevant))
        starts.append(starts[-1] + len(listed))
    return (np.concatenate(scores), np.concatenate(grades), np.array(starts, dtype=np.int64)), float(np.mean(recall))
