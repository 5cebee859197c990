"""Retrieval quality of an embedder, with its own vectors and in an index of the dense model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prunekit.arch.embedding import EmbeddingModel
from prunekit.data.batches import Encoded, encode
from prunekit.data.retrieval import Retrieval
from prunekit.data.rows import Rows
from prunekit.exporters.onnx import OnnxFile
from prunekit.metrics import Judged, Metric, compare, interval
from prunekit.metrics.ranked import judged_lists
from prunekit.pipeline.records import Files, Run, Text
from prunekit.pipeline.vectors import NEAREST, nearest, overlap, unit
from prunekit.report.base import RowName
from prunekit.report.embedder import Retrieved
from prunekit.runtime.scores import outputs_of_file

Vectors = NDArray[np.floating]
Lists = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""Scores, grades and where each query begins."""

#: Number of retrieved documents for recall.
DEPTH = 100


def retrieved(run: Run, text: Text, files: Files) -> tuple[Retrieved, ...]:
    """Search the corpus with each file.

    Documents and queries get the prompts that the model has for them, "document" and "query". Vectors are compared by their cosines, or
    by their products where the model says that it does so.

    Parameters
    ----------
    run : Run
        With `inputs.retrieval`; the dense model's tokenizer and prompts.
    text : Text
        The slim files' tokenizer.
    files : Files
    """
    inputs, retrieval, model = run.inputs, run.inputs.retrieval, run.inputs.loaded.model
    assert retrieval is not None
    assert isinstance(model, EmbeddingModel)
    queries = tuple(inputs.prompts.get("query", "") + each for each in retrieval.queries)
    documents = tuple(inputs.prompts.get("document", "") + each for each in retrieval.documents)

    def read(tokenizer: PreTrainedTokenizerBase) -> tuple[Encoded, Encoded]:
        rows = (Rows(texts=texts, labels=np.zeros(len(texts))) for texts in (queries, documents))
        ours, theirs = (encode(each, tokenizer, max_length=inputs.max_length, per_token=False) for each in rows)
        return ours, theirs

    def embed(file: OnnxFile, encoded: tuple[Encoded, Encoded]) -> tuple[Vectors, Vectors]:
        ours, theirs = (outputs_of_file(file.path, each, threads=run.recipe.threads) for each in encoded)
        return (ours, theirs) if model.embedding.similarity == "dot" else (unit(ours), unit(theirs))

    slim = read(text.tokenizer)
    vectors_of: dict[RowName, tuple[Vectors, Vectors]] = {"dense": embed(files.dense, read(inputs.loaded.tokenizer))}
    vectors_of["slim"] = embed(files.slim, slim)
    if files.low is not None:
        vectors_of["slim-low"] = embed(files.low.file, slim)
    return searched(retrieval, vectors_of, own_space=run.recipe.space == "own", seed=run.recipe.seed)


def searched(
    asked: Retrieval, found: Mapping[RowName, tuple[Vectors, Vectors]], *, own_space: bool = False, seed: int = 0
) -> tuple[Retrieved, ...]:
    """Compare searches with vectors (queries, documents) of several models, "dense" first.

    Each model's queries are put to the dense model's index, unless its vectors are of a space of their own, and to its own.
    """
    _, index = found["dense"]
    reference: Judged | None = None
    reference_ids = np.empty((0, 0), dtype=np.int64)
    rows = []
    for name, (queries, own) in found.items():
        separate = name != "dense" and (own_space or own.shape[1] != index.shape[1])
        indexes: dict[Literal["dense", "own"], Vectors] = {} if separate else {"dense": index}
        indexes |= {} if name == "dense" else {"own": own}
        for kind, documents in indexes.items():
            best = nearest(queries, documents, min(DEPTH, len(documents)))
            lists, recall = _lists(asked, queries, documents, best)
            judged = judged_lists(Metric.NDCG, *lists)
            if reference is None:
                reference, reference_ids = judged, best[:, :NEAREST]
            value, low, high = interval(judged, seed=seed)
            ratio = compare(judged, reference, seed=seed) if name != "dense" and reference.value > 0 else None
            rows.append(
                Retrieved(
                    name=name,
                    index=kind,
                    ndcg=value,
                    low=low,
                    high=high,
                    share=None if ratio is None else ratio.value,
                    share_low=None if ratio is None else ratio.low,
                    share_high=None if ratio is None or not np.isfinite(ratio.high) else ratio.high,
                    recall=recall,
                    mrr=judged_lists(Metric.MRR, *lists).value,
                    overlap=overlap(best[:, : reference_ids.shape[1]], reference_ids),
                    queries=len(queries),
                    documents=len(documents),
                )
            )
    return tuple(rows)


def _lists(asked: Retrieval, queries: Vectors, documents: Vectors, best: NDArray[np.int64]) -> tuple[Lists, float]:
    """Return the retrieved and the judged documents of each query, as `ranked` takes lists, and the mean recall."""
    starts, scores, grades, recall = [0], [], [], []
    edges = np.searchsorted(asked.query, np.arange(len(queries) + 1))
    for number, top in enumerate(best):
        judged = slice(edges[number], edges[number + 1])
        grade_of = dict(zip(asked.document[judged].tolist(), asked.grade[judged].tolist(), strict=True))
        # Documents that are not judged count as irrelevant; judged ones that were not retrieved still count for the best order.
        listed = np.array(list(dict.fromkeys([*top.tolist(), *grade_of])), dtype=np.int64)
        scores.append(documents[listed].astype(np.float64) @ queries[number].astype(np.float64))
        grades.append(np.array([grade_of.get(each, 0.0) for each in listed.tolist()]))
        relevant = {each for each, grade in grade_of.items() if grade > 0}
        recall.append(len(relevant.intersection(top.tolist())) / len(relevant))
        starts.append(starts[-1] + len(listed))
    return (np.concatenate(scores), np.concatenate(grades), np.array(starts, dtype=np.int64)), float(np.mean(recall))
