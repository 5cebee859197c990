"""What the analyzers read: every model runs once over the rows, whatever number of analyzers is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

from prunekit.analyzers.base import Inputs as Observed
from prunekit.analyzers.base import Need, Subject
from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded, encode
from prunekit.recipe import Recipe
from prunekit.report.progress import Stages
from prunekit.stages.inputs import load_dense
from prunekit.stages.values import Inputs
from prunekit.stats.collect import collect
from prunekit.stats.collected import Collected

#: Single tokens that are sampled.
TOKENS = 2000


def observe(recipe: Recipe, inputs: Inputs, compare: str | None, needs: Set[Need], scratch: Path, stage: Stages) -> Observed:
    """Collect what some analyzers need together.

    Parameters
    ----------
    recipe : Recipe
        How the data is read, and the seed.
    inputs : Inputs
        The model and the rows.
    compare : str or None
        The model to compare with.
    needs : set of Need
        The union of what the analyzers need.
    scratch : Path
        Where rows go that do not fit into memory.
    """
    reader = _Reader(recipe, inputs, needs, scratch, stage)
    model = reader.read(inputs.loaded.name, inputs.view, inputs.encoded)
    base = None
    if compare is not None:
        with stage("load base"):
            loaded = load_dense(recipe.model_copy(update={"model": compare, "revision": None}))
            view = ModelView.of(loaded.model)
            encoded = {
                name: encode(rows, loaded.tokenizer, max_length=recipe.max_length, per_token=inputs.data.task.per_token)
                for name, rows in inputs.data.splits.items()
            }
        base = reader.read(loaded.name, view, encoded)
    return Observed(inputs.data.task, model, base, seed=recipe.seed)


class _Reader:
    """Reads models on the task's rows, all in the same way."""

    def __init__(self, recipe: Recipe, inputs: Inputs, needs: Set[Need], scratch: Path, stage: Stages) -> None:
        self._inputs, self._needs, self._scratch, self._stage, self._seed = inputs, needs, scratch, stage, recipe.seed

    def read(self, name: str, view: ModelView, encoded: Mapping[str, Encoded]) -> Subject:
        """One model."""
        train = self._split(view, encoded["train"], TOKENS if Need.TOKENS in self._needs else 0)
        validation = self._split(view, encoded["validation"], 0) if Need.VALIDATION in self._needs else None
        return Subject(name, view.source, train, validation)

    def _split(self, view: ModelView, encoded: Encoded, tokens: int) -> Collected:
        with self._stage("read"):
            return collect(
                view,
                encoded,
                pooling=self._inputs.pooling,
                outputs=self._inputs.data.task.outputs,
                directory=self._scratch,
                tokens=tokens,
                seed=self._seed,
                progress=self._stage.step,
            )
