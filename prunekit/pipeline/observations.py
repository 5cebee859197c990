"""Inputs of the analyzers: every model runs once over the rows, whatever the number of analyzers."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import torch

from prunekit.analyzers.base import LARGEST_COMOMENT, PROBES, Need, Observations, Subject, comoment_bytes
from prunekit.arch.view import ModelView, Reader
from prunekit.data.batches import Encoded, encode
from prunekit.data.rows import Rows
from prunekit.errors import UnsupportedError
from prunekit.pipeline.ablate import ablate
from prunekit.pipeline.inputs import encode_splits, load_dense
from prunekit.pipeline.records import Inputs, Run
from prunekit.probes.trees import Sentence, sentences
from prunekit.stats.blocks import record_calls
from prunekit.stats.collect import collect
from prunekit.stats.collected import Collected
from prunekit.stats.sample import Sample
from prunekit.stats.units import unit_scores

#: Single tokens that are sampled.
TOKENS = 2000


#: Rows on which units are scored, forward and backward, and every token counts.
UNIT_ROWS = 512
#: Rows of validation on which parts of the model are left out one by one.
ABLATION_ROWS = 1000


@dataclass(frozen=True, eq=False)
class Base:
    """The model to compare with, and the task's rows as it reads them."""

    name: str
    view: ModelView
    encoded: Mapping[str, Encoded]


def load_base(run: Run, compare: str) -> Base:
    """Load a second model, and encode the same rows for it."""
    recipe, inputs = run.recipe, run.inputs
    with run.stage("load base"):
        loaded = load_dense(recipe.model_copy(update={"model": compare, "revision": None}))
        longest = min(inputs.max_length, loaded.row_length(recipe.max_length, of="analyze", usual=inputs.max_length))
        encoded = encode_splits(inputs.data.splits, loaded.tokenizer, inputs.data.task, longest, inputs.stride)
        return Base(loaded.name, ModelView.of(loaded.model), encoded)


def unmet(inputs: Inputs, base: Base | None) -> dict[Need, str]:
    """Return the needs that the inputs do not meet, and the reasons."""
    reasons: dict[Need, str] = {}
    if base is None:
        reasons[Need.COMPARE] = "it needs a second model: --compare BASE_MODEL"
    elif not _same_tokens(inputs, base):
        reasons[Need.SAME_TOKENS] = "it needs two models with one tokenizer, that of the second model splits the rows differently"
    if not inputs.data.task.kind.traits.readout:
        reasons[Need.VALIDATION] = f"it needs labels that neurons can be fitted to, and {inputs.data.task.kind.value} has none"
    source = inputs.view.source
    comoment = comoment_bytes((source.layers + 1) * source.hidden)
    if comoment > LARGEST_COMOMENT:
        reasons[Need.MOMENTS] = (
            f"it needs the co-moment of all neurons, {comoment / 1e9:.1f} GB whatever the number of rows, up to {PROBES} times over, and "
            f"{LARGEST_COMOMENT / 1e9:.1f} GB is the most that is taken for one: dimensions, cka and clusters do without (--analyzers)"
        )
    if inputs.data.train.trees is None:
        reasons[Need.TREES] = "it needs a token task whose data has trees, in columns head and deprel"
    if inputs.data.task.many:
        reasons[Need.ONE_LABEL] = "it needs rows with one label each, and these have any number"
    if not inputs.own_head:
        reasons[Need.ABLATIONS] = "it needs a model with a head of its own for the task"
    elif isinstance(inputs.view.model, Reader):
        reasons[Need.ABLATIONS] = "it needs a head on the last layer, and this model's classifier reads neurons of several"
    else:
        row = inputs.encoded["validation"].batch(np.zeros(1, dtype=np.int64))
        try:
            record_calls(inputs.view, [{name: torch.from_numpy(array) for name, array in row.inputs.items()}])
        except UnsupportedError as error:
            reasons[Need.ABLATIONS] = f"it leaves out single blocks: {str(error).rstrip('.')}"
    return reasons


def _same_tokens(inputs: Inputs, base: Base) -> bool:
    """Return whether both models read the same tokens of train."""
    return np.array_equal(inputs.encoded["train"].ids, base.encoded["train"].ids)


def observe(run: Run, base: Base | None, outside: Rows | None, needs: Set[Need]) -> Observations:
    """Collect the union of what some analyzers need.

    Parameters
    ----------
    run : Run
        The model and the rows; rows go to its scratch directory where they do not fit into memory.
    base : Base or None
        The model to compare with.
    outside : Rows or None
        Text from elsewhere.
    needs : set of Need
        The union of what the analyzers need.
    """
    inputs, reader = run.inputs, _Reader(run, needs)
    model = reader.read(inputs.loaded.name, inputs.view, inputs.encoded)
    # Single tokens are compared where both models read the same ones.
    alike = base is not None and _same_tokens(inputs, base)
    other = None if base is None else reader.read(base.name, base.view, base.encoded, tokens=alike)
    other_tokens = None
    if outside is not None and base is not None and alike and Need.TOKENS in needs:
        tokenizer = inputs.loaded.tokenizer
        text = encode(outside, tokenizer, max_length=inputs.max_length, per_token=False)
        other_tokens = (reader.tokens(inputs.view, text), reader.tokens(base.view, text))
    units, ablations = None, None
    if Need.UNITS in needs:
        with run.stage("score units"):
            rows = _first(inputs.encoded["train"], UNIT_ROWS)
            labelled = inputs.own_head and inputs.data.task.kind.traits.labelled
            units = unit_scores(inputs.view, rows, labelled=labelled, seed=run.recipe.seed, progress=run.stage.step)
    if Need.ABLATIONS in needs:
        with run.stage("ablate"):
            rows = _first(inputs.encoded["validation"], ABLATION_ROWS)
            ablations = ablate(inputs.view, rows, inputs.data.task.outputs, progress=run.stage.step)
    types = None
    if inputs.data.task.per_token:
        types = inputs.encoded["train"].first_ids, inputs.encoded["validation"].first_ids
    return Observations(
        inputs.data.task.by_word, model, other, other_tokens, units=units, ablations=ablations, seed=run.recipe.seed, types=types
    )


def _first(encoded: Encoded, rows: int) -> Encoded:
    """Return at most so many rows; they are in random order already."""
    return encoded if len(encoded) <= rows else encoded.take(np.arange(rows))


class _Reader:
    """Reader of models on the task's rows, with the same settings for all."""

    def __init__(self, run: Run, needs: Set[Need]) -> None:
        self._run, self._inputs, self._needs = run, run.inputs, needs

    def read(self, name: str, view: ModelView, encoded: Mapping[str, Encoded], *, tokens: bool = True) -> Subject:
        """Read one model; its single tokens only where `tokens`."""
        encoded = {split: rows.by_row for split, rows in encoded.items()}
        train = self._split(view, encoded["train"], TOKENS if tokens and Need.TOKENS in self._needs else 0)
        validation = self._split(view, encoded["validation"], 0) if Need.VALIDATION in self._needs else None
        return Subject(name, view.source, train, validation, self._trees(encoded))

    def _trees(self, encoded: Mapping[str, Encoded]) -> tuple[tuple[Sentence, ...], tuple[Sentence, ...]] | None:
        if Need.TREES not in self._needs:
            return None
        train, validation = (_sentences(self._inputs.data.splits[name], encoded[name]) for name in ("train", "validation"))
        return train, validation

    def tokens(self, view: ModelView, encoded: Encoded) -> Sample:
        """Read single tokens of text that has no labels."""
        with self._run.stage("read other text"):
            collected = collect(
                view,
                encoded,
                pooling="mean",
                outputs=2,
                directory=self._run.scratch,
                moments=False,
                tokens=TOKENS,
                seed=self._run.recipe.seed,
                progress=self._run.stage.step,
            )
        collected.rows.close()
        assert collected.tokens is not None
        return collected.tokens

    def _split(self, view: ModelView, encoded: Encoded, tokens: int) -> Collected:
        with self._run.stage("read"):
            return collect(
                view,
                encoded,
                pooling=self._inputs.pooling,
                outputs=self._inputs.data.task.outputs,
                directory=self._run.scratch,
                moments=comoment_bytes((view.num_layers + 1) * view.hidden_size) <= LARGEST_COMOMENT,
                tokens=tokens,
                seed=self._run.recipe.seed,
                progress=self._run.stage.step,
            )


def _sentences(rows: Rows, encoded: Encoded) -> tuple[Sentence, ...]:
    """Return the trees of the rows whose every word has a token."""
    assert rows.trees is not None
    starts = encoded.word_starts
    complete = np.flatnonzero(np.diff(starts) == [len(row) for row in rows.tokens])
    trees = [rows.trees[at] for at in complete]
    return sentences([heads for heads, _ in trees], [names for _, names in trees], starts[complete].tolist())
