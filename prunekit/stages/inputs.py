"""Loading: model, data, and the rows as the model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunekit.arch.load import LoadedModel, expected_labels, load_model
from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded, encode
from prunekit.data.load import load_data
from prunekit.data.rows import TaskData
from prunekit.docstrings import demo_model
from prunekit.errors import ParameterError
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.stages.values import Inputs
from prunekit.stats.collect import collect
from prunekit.stats.collected import Collected, Pooling

#: Rows of train on which heads and FFN neurons are chosen and re-solved.
CALIBRATION = 2048


def load_dense(recipe: Recipe) -> LoadedModel:
    """The model that a recipe names."""
    return load_model(recipe.model or demo_model(), revision=recipe.revision, trust_remote_code=recipe.trust_remote_code)


def load_inputs(recipe: Recipe, rows: object, plan: Plan | None, stage: Stages, *, most: int | None = None) -> Inputs:
    """Load model and data, check that they fit, and tokenise.

    `plan` is one that is given and not to be made; `most` is the number of rows that are drawn of each split, in random order
    (by default all, as they come).
    """
    with stage("load"):
        loaded = load_dense(recipe)
        view = ModelView.of(loaded.model)
        longest = loaded.row_length(recipe.max_length)
        names = {name: getattr(recipe, name) for name in ("text", "text_pair", "label", "tokens", "tags", "task", "metric")}
        data = load_data(
            rows if rows is not None else recipe.data,
            **names,
            labels=expected_labels(loaded.labels, per_token=loaded.per_token, tags=recipe.tags),
            config=recipe.data_config,
            seed=recipe.seed,
            trust_remote_code=recipe.trust_remote_code,
        )
        task, notes = data.task, list(data.notes)
        if most is not None:
            data = _drawn(data, most, recipe.seed)
            notes.append(f"drawn at random: {len(data.train):,} rows of train, {len(data.validation):,} of validation")
        own_head = loaded.fine_tuned and loaded.per_token == task.per_token and loaded.config.num_labels == task.outputs
        assert isinstance(loaded.config.num_labels, int)
        if loaded.fine_tuned and not own_head:
            notes.append(f"the model's own head has {loaded.config.num_labels} outputs and is not for this task: it was not used")
        if not own_head:
            _name_classes(loaded, task.labels)
        pooling = _pooling(recipe, plan, task.per_token, loaded.fine_tuned)
        encoded = {
            name: encode(split, loaded.tokenizer, max_length=longest, per_token=task.per_token) for name, split in data.splits.items()
        }
        cut = sum(split.truncated for split in encoded.values())
        if cut:
            notes.append(f"{cut} rows were cut at {longest} tokens")
        lost = sum(split.dropped for split in encoded.values())
        if lost:
            notes.append(f"{lost} words have no token of their own within the limit and were left out, with their labels")
    return Inputs(loaded, view, data, encoded, pooling, own_head, longest, tuple(notes))


def _drawn(data: TaskData, most: int, seed: int) -> TaskData:
    generator = np.random.default_rng(seed)
    drawn = {name: rows.take(generator.permutation(len(rows))[:most]) for name, rows in data.splits.items()}
    return replace(data, train=drawn["train"], validation=drawn["validation"], test=drawn["test"])


def _name_classes(loaded: LoadedModel, labels: Sequence[str]) -> None:
    config: Any = loaded.config
    names = labels or ["LABEL_0"]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def _pooling(recipe: Recipe, plan: Plan | None, per_token: bool, fine_tuned: bool) -> Pooling:
    if per_token and recipe.pooling is not None:
        raise ParameterError("pooling", "compress", "left out for a token task, which reads every word", recipe.pooling)
    if plan is not None and plan.readout is not None:
        planned = plan.readout.pooling
        if (planned == "token") != per_token:
            what = "words" if planned == "token" else f"a text as a whole ({planned})"
            raise ParameterError("plan", "apply", "for the data's task", f"a plan whose readout reads {what}")
        if recipe.pooling not in (None, planned):
            raise ParameterError("pooling", "apply", f"{planned!r}, as the plan has it, or left out", recipe.pooling)
        return planned
    return "token" if per_token else recipe.pooling or ("cls" if fine_tuned else "mean")


def collected(inputs: Inputs, view: ModelView, split: str, scratch: Path, stage: Stages) -> Collected:
    """The neurons of every row of a split."""
    with stage(f"read {split}"):
        return collect(
            view, inputs.encoded[split], pooling=inputs.pooling, outputs=inputs.data.task.outputs, directory=scratch, progress=stage.step
        )


def calibration(encoded: Encoded, seed: int) -> list[dict[str, torch.Tensor]]:
    """A seeded sample of rows, long ones more often, as batches of tensors."""
    drawn = encoded.draw(CALIBRATION, seed)
    return [{name: torch.from_numpy(array) for name, array in batch.inputs.items()} for batch in drawn.batches()]
