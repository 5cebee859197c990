"""How well an embedder finds documents, with its own vectors and in an index of the dense model's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunekit.data.batches import encode
from prunekit.data.retrieval import Retrieval
from prunekit.data.rows import Rows
from prunekit.metrics import Judged, Metric, compare, interval
from prunekit.pipeline.records import Files, Inputs, Text
from prunekit.pipeline.vectors import NEAREST, nearest, overlap, unit
from prunekit.ranked import by_query
from prunekit.report.base import RowName
from prunekit.report.embedder import Retrieved
from prunekit.runtime.scores import outputs_of_file

Vectors = NDArray[np.floating]

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
    known: dict[RowName, tuple[Path, object]] = {"dense": (files.dense.path, inputs.loaded.tokenizer)}
    known["slim"] = files.slim.path, text.tokenizer
    if files.low is not None:
        known["slim-low"] = files.low.file.path, text.tokenizer

    def vectors(texts: tuple[str, ...], path: Path, tokenizer: object) -> Vectors:
        rows = Rows(texts=texts, labels=np.zeros(len(texts)))
        encoded = encode(rows, tokenizer, max_length=inputs.max_length, per_token=False)  # type: ignore[arg-type]
        return unit(outputs_of_file(path, encoded, threads=threads))

    prompts = {name: inputs.prompts.get(name, "") for name in ("query", "document")}
    queries = tuple(prompts["query"] + each for each in asked.queries)
    documents = tuple(prompts["document"] + each for each in asked.documents)
    found = {name: (vectors(queries, *file), vectors(documents, *file)) for name, file in known.items()}
    return searched(asked, found, own_space=own_space, seed=seed)


def searched(
    asked: Retrieval, found: Mapping[RowName, tuple[Vectors, Vectors]], *, own_space: bool = False, seed: int = 0
) -> tuple[Retrieved, ...]:
    """Compare searches with vectors (queries, documents) of several models, "dense" first.

    Each model's queries are put to the dense model's index, unless its vectors are of a space of their own, and to its own.
    """
    theirs, index = found["dense"]
    wanted = nearest(theirs, index, min(NEAREST, len(index)))
    reference: Judged | None = None
    rows = []
    for name, (queries, own) in found.items():
        apart = own_space or own.shape[1] != index.shape[1]
        kinds = [("own", own)] if apart or name == "dense" else [("dense", index), ("own", own)]
        for kind, documents in kinds:
            best = nearest(queries, documents, min(DEPTH, len(documents)))
            values = _values(asked, queries, documents, best)
            judged = _mean(values["ndcg"])
            reference = reference or judged
            value, low, high = interval(judged, seed=seed)
            of = compare(judged, reference, seed=seed) if name != "dense" and reference.value > 0 else None
            rows.append(
                Retrieved(
                    name=name,
                    index="dense" if name == "dense" or kind == "dense" else "own",
                    ndcg=value,
                    low=low,
                    high=high,
                    share=None if of is None else of.value,
                    share_low=None if of is None else of.low,
                    share_high=None if of is None or not np.isfinite(of.high) else of.high,
                    recall=float(values["recall"].mean()),
                    mrr=float(values["mrr"].mean()),
                    overlap=overlap(best[:, : wanted.shape[1]], wanted),
                    queries=len(queries),
                    documents=len(documents),
                )
            )
    return tuple(rows)


def _values(asked: Retrieval, queries: Vectors, documents: Vectors, best: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """nDCG@10, the reciprocal rank and the recall of each query."""
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
    lists = np.concatenate(scores), np.concatenate(grades), np.array(starts, dtype=np.int64)
    return {"ndcg": by_query(Metric.NDCG, *lists), "mrr": by_query(Metric.MRR, *lists), "recall": np.array(recall)}


def _mean(values: NDArray[np.float64]) -> Judged:
    return Judged(len(values), lambda weights: float(weights @ values / weights.sum()))
