"""What the words of a text say by themselves: the floor that a model has to be above."""

from __future__ import annotations

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
        Log-probabilities, minus 1,000 for a class that no row of train has. None where the task is not to classify texts, where no
        text has a word, or where the rows drawn are of one class.
    """
    if not data.task.kind.traits.words:
        return None
    # scikit-learn's text modules take a while to import.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    drawn = data.train.take(np.random.default_rng(seed).permutation(len(data.train))[:_ROWS])
    labels = np.asarray(drawn.labels)
    vectors = TfidfVectorizer(max_features=_WORDS, token_pattern=r"(?u)\b\w+\b")
    analyse, texts = vectors.build_analyzer(), _texts(drawn)
    if len(np.unique(labels)) < 2 or not any(analyse(text) for text in texts):
        return None
    model = make_pipeline(vectors, LogisticRegression(max_iter=1000)).fit(texts, labels)
    found = np.full((len(data.test), data.task.outputs), -1000.0)
    found[:, model.classes_] = model.predict_log_proba(_texts(data.test))
    return found


def _texts(rows: Rows) -> list[str]:
    """Each row as one text."""
    return list(rows.texts) if rows.pairs is None else [f"{text} {pair}" for text, pair in zip(rows.texts, rows.pairs, strict=True)]
