"""Fewer output dimensions of an embedder: a projection fitted to its cosines, compared with simpler choices of as many."""

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

#: Texts of train to whose vectors the projection is fitted, and random choices that are averaged.
ROWS, DRAWS = 4096, 5
#: Steps of the fit, texts of a step that bring their nearest neighbours, how many each, and the learning rate.
_STEPS, _ANCHORS, _NEAR, _RATE = 400, 8, 32, 2e-3


def shorten(
    model: EmbeddingModel, dims: int, train: Encoded, test: Encoded, rows: Rows, task: Task, *, seed: int
) -> tuple[EmbeddingModel, tuple[Shortened, ...]]:
    """Return an embedder whose vectors have fewer dimensions, and the quality of this and other choices.

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
    first = components(vectors, dims)
    directions = fitted(vectors, first, seed)
    choices = {
        "fitted": [directions],
        "components": [first],
        "chosen": [np.eye(width)[np.sort(np.argsort(-np.square(vectors).mean(axis=0), kind="stable")[:dims])]],
        "truncation": [np.eye(width)[:dims]],
        "random": [np.eye(width)[np.random.default_rng((seed, draw)).permutation(width)[:dims]] for draw in range(DRAWS)],
    }
    full = outputs_of_model(view, test, width).astype(np.float64)
    results = [_quality("all", width, [full], full, test, rows, task, seed)]
    results += [
        _quality(name, dims, [full @ projection.T for projection in projections], full, test, rows, task, seed)
        for name, projections in choices.items()
    ]
    old = model.project
    weight = torch.from_numpy(directions).float()
    project = nn.Linear(old.in_features if old is not None else width, dims, bias=old is not None and old.bias is not None)
    with torch.no_grad():
        project.weight.copy_(weight if old is None else weight @ old.weight)
        if old is not None and old.bias is not None:
            project.bias.copy_(weight @ old.bias)
    return EmbeddingModel(model.body, replace(model.embedding, dense=""), project).eval(), tuple(results)


def components(vectors: Vectors, dims: int) -> Vectors:
    """Return the directions that keep most of the products of vectors (n, D) among each other, (dims, D), orthonormal, the strongest first.

    They are those of the second moment about 0, since cosines are not centred (Eckart & Young 1936); each has its largest entry positive.
    """
    _, eigenvectors = np.linalg.eigh(vectors.T @ vectors)
    directions = eigenvectors.T[::-1][:dims]
    signs = np.sign(directions[np.arange(dims), np.abs(directions).argmax(axis=1)])
    return np.asarray(directions * signs[:, None])


def fitted(vectors: Vectors, start: Vectors, seed: int) -> Vectors:
    """Return a projection that keeps the cosines of texts with their neighbours, (dims, D), of the same mean square as `start`.

    Components keep what varies most over all texts, and lose what tells near ones apart: with a third and a sixth of MiniLM's dimensions
    they rank pairs of STS-B no better than as many at random. Here the squared difference of the cosines before and after is what is
    minimised (as in Park et al. 2019, "Relational knowledge distillation"), among texts and their nearest neighbours on train.

    Parameters
    ----------
    vectors : float64 ndarray of shape (n, D)
        Returned unchanged where n is 2 or less.
    start : float64 ndarray of shape (dims, D)
    seed : int
        Of the texts of each step.
    """
    full = torch.nn.functional.normalize(torch.from_numpy(vectors).float(), dim=-1)
    count = min(_NEAR, len(full) - 1)
    if count < 2:
        return start
    cosines = full @ full.T
    cosines.fill_diagonal_(-2.0)
    near = cosines.topk(count).indices.numpy()
    generator = np.random.default_rng(seed)
    projection = torch.from_numpy(start).float().requires_grad_()
    optimizer = torch.optim.Adam([projection], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        anchors = generator.choice(len(full), min(_ANCHORS, len(full)), replace=False)
        rows = full[np.unique(np.concatenate([anchors, near[anchors].ravel()]))]
        short = torch.nn.functional.normalize(rows @ projection.T, dim=-1)
        loss = (short @ short.T - rows @ rows.T).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
        schedule.step()
    weights = projection.detach().double().numpy()
    scale = np.linalg.norm(vectors @ start.T) / max(float(np.linalg.norm(vectors @ weights.T)), 1e-12)
    return np.asarray(scale * weights)


def _quality(name: str, dims: int, draws: list[Vectors], full: Vectors, test: Encoded, rows: Rows, task: Task, seed: int) -> Shortened:
    """Return the quality of vectors, the mean over several draws."""
    scored = test.labels.ndim == 1 and test.starts is not None
    near, values = [], []
    for vectors in draws:
        answers = {"dense": Answers(full, test.labels), "slim": Answers(vectors, test.labels)}
        near.append(nearness(rows, answers, own_space=True, seed=seed)[0].overlap)
        if scored:
            values.append(task.score(vectors, test.labels, test.starts))
    value = float(np.mean(values)) if scored else None
    return Shortened.model_validate({"name": name, "dims": dims, "value": value, "overlap": float(np.mean(near))})
