"""What the words of a text say by themselves: the floor that a model has to be above."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.data.rows import Rows, TaskData

#: Rows of train, drawn at random beyond, and words, the most frequent ones, that are looked at.
_ROWS, _WORDS = 20_000, 50_000


def bag_of_words(data: TaskData, *, seed: int) -> NDArray[np.float64] | None:
    """Answer the test split by logistic regression on TF-IDF, fitted on train.

    Parameters
    ----------
    data : TaskData
    seed : int
        Of the draw of the rows.

    Returns
    -------
    float64 ndarray of shape (n, classes), or None
        Log-probabilities, minus 1,000 for a class that no row of train has; of rows with any number of labels, logits less the
        thresholds that validation chooses. None where the task is not to classify texts, where no text has a word, or where the
        rows drawn are of one class.
    """
    if not data.task.kind.traits.words:
        return None
    # scikit-learn's text modules take a while to import.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    drawn = data.train.take(np.random.default_rng(seed).permutation(len(data.train))[:_ROWS])
    labels: NDArray[Any] = np.asarray(drawn.labels)
    vectors = TfidfVectorizer(max_features=_WORDS, token_pattern=r"(?u)\b\w+\b")
    analyse, texts = vectors.build_analyzer(), _texts(drawn)
    if data.task.kind.traits.lists:
        return _overlap(data, vectors)
    if len(np.unique(labels, axis=0)) < 2 or not any(analyse(text) for text in texts):
        return None
    if data.task.many:
        return _one_vs_rest(data, vectors, texts, labels)
    model = make_pipeline(vectors, LogisticRegression(max_iter=1000)).fit(texts, labels)
    found = np.full((len(data.test), data.task.outputs), -1000.0)
    found[:, model.classes_] = model.predict_log_proba(_texts(data.test))
    return found


def _overlap(data: TaskData, vectors: Any) -> NDArray[np.float64] | None:
    """The cosine of the TF-IDF of a query and of its text, which is fitted to nothing but the texts of train."""
    assert data.test.pairs is not None
    try:
        vectors.fit([*data.train.texts, *(data.train.pairs or ())])
    except ValueError:  # there is no word
        return None
    ours, theirs = vectors.transform(data.test.texts), vectors.transform(data.test.pairs)
    return np.asarray(ours.multiply(theirs).sum(axis=1), dtype=np.float64).reshape(-1, 1)


def _one_vs_rest(data: TaskData, vectors: Any, texts: list[str], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A logistic regression for each label that some rows drawn have and some have not."""
    from sklearn.linear_model import LogisticRegression

    train = vectors.fit_transform(texts)
    held = {name: vectors.transform(_texts(rows)) for name, rows in (("validation", data.validation), ("test", data.test))}
    found = {name: np.full((matrix.shape[0], data.task.outputs), -1000.0) for name, matrix in held.items()}
    for at in np.flatnonzero(labels.any(axis=0)):
        if labels[:, at].all():
            for scores in found.values():
                scores[:, at] = 1000.0
            continue
        model = LogisticRegression(solver="liblinear").fit(train, labels[:, at])
        for name, matrix in held.items():
            found[name][:, at] = model.decision_function(matrix)
    task = data.task
    cut = task.thresholds(found["validation"], np.asarray(data.validation.labels))
    return np.asarray(task.tuned(found["test"], np.asarray(data.test.labels), cut), dtype=np.float64)


def _texts(rows: Rows) -> list[str]:
    """Each row as one text."""
    return list(rows.texts) if rows.pairs is None else [f"{text} {pair}" for text, pair in zip(rows.texts, rows.pairs, strict=True)]
