"""Fewer output dimensions of an embedder: principal components of its vectors, beside simpler ways to have as few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunekit.arch.embedding import EmbeddingModel
from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded
from prunekit.data.rows import Rows
from prunekit.errors import ParameterError
from prunekit.pipeline.predict import outputs_of_model
from prunekit.pipeline.records import Answers
from prunekit.pipeline.vectors import nearness
from prunekit.report.embedder import Shortened
from prunekit.tasks import Task

Vectors = NDArray[np.float64]

#: Texts of train whose vectors the components are taken of, and random choices that are averaged.
ROWS, DRAWS = 4096, 5


def shorten(
    model: EmbeddingModel, dims: int, train: Encoded, test: Encoded, rows: Rows, task: Task, *, seed: int
) -> tuple[EmbeddingModel, tuple[Shortened, ...]]:
    """An embedder that gives the first principal components of its vectors, and what other choices of as many dimensions are worth.

    Parameters
    ----------
    model : EmbeddingModel
        It is left as it is.
    dims : int
        Less than its width.
    train : Encoded
        Texts, of which as many as `ROWS` are drawn.
    test : Encoded
        Texts on which the choices are compared, with the scores of their pairs where there are some.
    rows : Rows
        The same texts.
    task : Task
    seed : int

    Returns
    -------
    (EmbeddingModel, tuple of Shortened)

    Raises
    ------
    ParameterError
        As many dimensions as there are, or more than there are texts.
    """
    view = ModelView.of(model)
    width, drawn = view.width, train.sample(ROWS, seed)
    if not 1 <= dims < width:
        raise ParameterError("dims", "compress", f"from 1 to {width - 1}, less than the model's {width}", dims)
    if len(drawn) < dims:
        raise ParameterError("dims", "compress", f"at most the {len(drawn)} texts of train, of which the components are taken", dims)
    vectors = outputs_of_model(view, drawn, width).astype(np.float64)
    found = components(vectors, dims)
    ways = {
        "components": [found],
        "chosen": [np.eye(width)[np.sort(np.argsort(-np.square(vectors).mean(axis=0), kind="stable")[:dims])]],
        "truncation": [np.eye(width)[:dims]],
        "random": [np.eye(width)[np.random.default_rng((seed, draw)).permutation(width)[:dims]] for draw in range(DRAWS)],
    }
    whole = outputs_of_model(view, test, width).astype(np.float64)
    said = [_said("all", width, [whole], whole, test, rows, task, seed)]
    said += [_said(name, dims, [whole @ turn.T for turn in turns], whole, test, rows, task, seed) for name, turns in ways.items()]
    old = model.project
    weight = torch.from_numpy(found).float()
    project = nn.Linear(old.in_features if old is not None else width, dims, bias=old is not None and old.bias is not None)
    with torch.no_grad():
        project.weight.copy_(weight if old is None else weight @ old.weight)
        if old is not None and old.bias is not None:
            project.bias.copy_(weight @ old.bias)
    return EmbeddingModel(model.body, replace(model.embedding, dense=""), project).eval(), tuple(said)


def components(vectors: Vectors, dims: int) -> Vectors:
    """The directions that keep most of the products of vectors (n, D) among each other, (dims, D), orthonormal, the strongest first.

    They are those of the second moment about 0, since cosines are not centred (Eckart & Young 1936); each has its largest entry positive.
    """
    _, found = np.linalg.eigh(vectors.T @ vectors)
    found = found.T[::-1][:dims]
    signs = np.sign(found[np.arange(dims), np.abs(found).argmax(axis=1)])
    return np.asarray(found * signs[:, None])


def _said(name: str, dims: int, made: list[Vectors], whole: Vectors, test: Encoded, rows: Rows, task: Task, seed: int) -> Shortened:
    """What vectors are worth, the mean over several."""
    scored = test.labels.ndim == 1 and test.starts is not None
    near, values = [], []
    for vectors in made:
        answers = {"dense": Answers(whole, test.labels), "slim": Answers(vectors, test.labels)}
        near.append(nearness(rows, answers, own_space=True, seed=seed)[0].overlap)
        if scored:
            values.append(task.score(vectors, test.labels, test.starts))
    value = float(np.mean(values)) if scored else None
    return Shortened.model_validate({"name": name, "dims": dims, "value": value, "overlap": float(np.mean(near))})
