"""Bag-of-words baseline: the floor that a model has to be above."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.data.rows import Rows, TaskData
from prunekit.data.words import terms_of

#: Most rows of train, drawn at random, and most words, by frequency, that are used.
_ROWS, _WORDS = 20_000, 50_000
#: Most coefficients, classes times words, of which L-BFGS holds two dozen copies; and classes up to which it runs to its end.
_WEIGHTS, _CLASSES = 5_000_000, 100
#: Rows whose probabilities are computed at once.
_CHUNK = 4096


def bag_of_words(data: TaskData, *, seed: int) -> NDArray[np.float64] | None:
    """Predict the test split by logistic regression on TF-IDF, fitted on train.

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
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    drawn = data.train.take(np.random.default_rng(seed).permutation(len(data.train))[:_ROWS])
    labels: NDArray[Any] = np.asarray(drawn.labels)
    outputs = max(data.task.outputs, 1)
    words = min(_WORDS, max(2_000, _WEIGHTS // outputs))
    vectors = TfidfVectorizer(max_features=words, analyzer=terms_of)
    texts = _texts(drawn)
    if data.task.kind.traits.lists:
        return _overlap(data, vectors)
    if len(np.unique(labels, axis=0)) < 2 or not any(map(terms_of, texts)):
        return None
    if data.task.many:
        return _one_vs_rest(data, vectors, texts, labels)
    model = make_pipeline(vectors, LogisticRegression(max_iter=1000 if outputs <= _CLASSES else 100))
    with warnings.catch_warnings():
        # Of many classes a hundred iterations are near enough for a floor.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(texts, labels)
    log_probabilities, held = np.full((len(data.test), data.task.outputs), -1000.0), _texts(data.test)
    for start in range(0, len(held), _CHUNK):
        part = log_probabilities[start : start + _CHUNK]
        part[:, model.classes_] = model.predict_log_proba(held[start : start + _CHUNK])
    return log_probabilities


def _overlap(data: TaskData, vectors: Any) -> NDArray[np.float64] | None:
    """Return the cosine of the TF-IDF of a query and of its text; only the TF-IDF is fitted, to the texts of train."""
    assert data.test.pairs is not None
    try:
        vectors.fit([*data.train.texts, *(data.train.pairs or ())])
    except ValueError:  # there is no word
        return None
    ours, theirs = vectors.transform(data.test.texts), vectors.transform(data.test.pairs)
    return np.asarray(ours.multiply(theirs).sum(axis=1), dtype=np.float64).reshape(-1, 1)


def _one_vs_rest(data: TaskData, vectors: Any, texts: list[str], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fit a logistic regression for each label that some of the rows drawn have and some have not, and predict the test split."""
    from sklearn.linear_model import LogisticRegression

    train = vectors.fit_transform(texts)
    held = {name: vectors.transform(_texts(rows)) for name, rows in (("validation", data.validation), ("test", data.test))}
    scores = {name: np.full((matrix.shape[0], data.task.outputs), -1000.0) for name, matrix in held.items()}
    for at in np.flatnonzero(labels.any(axis=0)):
        if labels[:, at].all():
            for values in scores.values():
                values[:, at] = 1000.0
            continue
        model = LogisticRegression(solver="liblinear").fit(train, labels[:, at])
        for name, matrix in held.items():
            scores[name][:, at] = model.decision_function(matrix)
    task = data.task
    cut = task.thresholds(scores["validation"], np.asarray(data.validation.labels))
    return np.asarray(task.tuned(scores["test"], np.asarray(data.test.labels), cut), dtype=np.float64)


def _texts(rows: Rows) -> list[str]:
    """Return each row as one text."""
    return list(rows.texts) if rows.pairs is None else [f"{text} {pair}" for text, pair in zip(rows.texts, rows.pairs, strict=True)]
