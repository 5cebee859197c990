"""Loading of the model and the data, and the rows as the model reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from prunekit.arch.config import positions_of
from prunekit.arch.embedding import EmbeddingModel, embedder
from prunekit.arch.folder import PRUNED, check_folder, local_folder
from prunekit.arch.head import MANY_LABELS, read_thresholds
from prunekit.arch.live import given_model
from prunekit.arch.load import LoadedModel, load_model, modules_folder
from prunekit.arch.view import ModelView
from prunekit.data.batches import Batch, Encoded, encode
from prunekit.data.complete import set_aside
from prunekit.data.demo import demo_model
from prunekit.data.load import load_data
from prunekit.data.order import CHECKED, check_order
from prunekit.data.retrieval import read_retrieval
from prunekit.data.rows import Rows, TaskData
from prunekit.data.token_types import TYPES, unfed_types
from prunekit.data.unlabelled import answered, readable
from prunekit.errors import DataError, ModelError, ParameterError
from prunekit.pipeline.dimensions import shorten
from prunekit.pipeline.early import NO_SOURCES, Sources, data_arguments
from prunekit.pipeline.predict import outputs_of_model
from prunekit.pipeline.pruned import check_levers, load_pruned
from prunekit.pipeline.records import Inputs
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.embedder import Shortened
from prunekit.report.progress import Stages
from prunekit.stats.collected import Pooling
from prunekit.stats.sensitivity import READ
from prunekit.tasks import Task, TaskKind
from prunekit.validation.fingerprint import digest_at

#: Rows of train on which heads and FFN neurons are chosen and refitted, and their tokens: at most, as far as `LEAST` rows allow.
CALIBRATION, TOKENS, LEAST = 2048, 65_536, 64
#: Tokens where training follows, which recovered the loss from fewer of them (TREC, one seed).
TOKENS_TRAINED = 16_384
#: The classifier of SetFit, beside an embedder.
_SETFIT = "model_head.pkl"
#: Most rows of validation that choose.
VALIDATION = 16_384


def recipe_of(
    model: object, data: object, tokenizer: object, parameters: dict[str, Any], *, of: str = "compress"
) -> tuple[Recipe, Sources]:
    """Return the recipe of a call and what is in memory; a model in memory is named by its fingerprint, rows are once they are read."""
    source = data if data is None or isinstance(data, (str, os.PathLike)) else None
    place, live = given_model(model, tokenizer, of=of)
    return Recipe(model=place, data=source, **parameters), Sources(data if source is None else None, live)


def load_dense(recipe: Recipe, live: LoadedModel | None = None) -> LoadedModel:
    """Return the model that a recipe names, or the one that is in memory already, as `dense_of` does."""
    _same_model(recipe, live)
    return dense_of(recipe, live or _load(recipe))


def dense_of(recipe: Recipe, loaded: LoadedModel) -> LoadedModel:
    """Return a model as a recipe takes it: as an embedder where that is the task; raise ParameterError where it cannot be taken so."""
    check_levers(recipe, loaded, of="compress")
    if recipe.task is not TaskKind.EMBEDDING:
        return loaded
    if loaded.fine_tuned:
        raise ParameterError("model", "compress", "an encoder without a task head for an embedding task", loaded.name)
    place = None if loaded.in_memory else modules_folder(loaded.name, recipe.revision, known=recipe.pooling is not None)
    model = embedder(loaded.model, place, recipe.pooling, of="compress")
    loaded = replace(loaded, model=model)
    model.embedding.prompt(recipe.prompt)  # raises where there is none of that name
    # The directory that is written states the length too.
    model.embedding = replace(model.embedding, max_length=loaded.row_length(recipe.max_length))
    return loaded


def _load(recipe: Recipe) -> LoadedModel:
    """Load the model that a recipe names."""
    name = str(recipe.model or demo_model())
    folder = local_folder(name)
    if folder is not None and (folder / PRUNED).is_file():
        check_folder(folder)
        return load_pruned(folder, name)
    return load_model(name, revision=recipe.revision, trust_remote_code=recipe.trust_remote_code)


def load_inputs(recipe: Recipe, plan: Plan | None, stage: Stages, sources: Sources = NO_SOURCES, *, most: int | None = None) -> Inputs:
    """Read the inputs and run the dense model on them: `read_inputs`, then `ask_dense`."""
    return ask_dense(recipe, read_inputs(recipe, plan, stage, sources, most=most), stage)


def read_inputs(recipe: Recipe, plan: Plan | None, stage: Stages, sources: Sources = NO_SOURCES, *, most: int | None = None) -> Inputs:
    """Load the model that a recipe names, or take the one in memory, and read its data: `inputs_of`."""
    with stage("load"):
        return inputs_of(recipe, load_dense(recipe, sources.live), plan, stage, sources, most=most)


def inputs_of(
    recipe: Recipe, loaded: LoadedModel, plan: Plan | None, stage: Stages, sources: Sources = NO_SOURCES, *, most: int | None = None
) -> Inputs:
    """Read the data for a model, check that they fit, and tokenise; no model is run.

    `plan` is a given one, not one to be made; `most` is the number of rows that are drawn of each split, in random order
    (by default all, as they come).
    """
    rows, early = sources.rows, sources.early
    view = ModelView.of(loaded.model)
    longest = loaded.row_length(recipe.max_length)
    arguments = data_arguments(recipe, loaded.stated)
    if early is not None and early.arguments == arguments:
        data = early.data
    else:
        data = load_data(rows if rows is not None else recipe.data, **arguments)
    _same_memory(recipe, data, rows)
    recipe.check_kind(data.task.kind)
    if isinstance(loaded.model, EmbeddingModel):
        data = _prompted(data, loaded.model.embedding.prompt(recipe.prompt))
    if data.task.many and recipe.method != "prunekit":
        must = "'prunekit' for rows with any number of labels"
        raise ParameterError("method", "compress", must, recipe.method, "The published pipeline is for one label a row.")
    bounded: tuple[str, ...] = ()
    if most is None:
        data, bounded = _few_choose(data, recipe.seed)
    if recipe.max_drop is not None:
        data = set_aside(data, recipe.max_drop, recipe.seed)
    task, notes = data.task, [*data.notes, *bounded, _used(data, bounded=recipe.max_drop is not None)]
    if most is not None:
        data = _drawn(data, most, recipe.seed)
        notes.append(f"drawn at random: {len(data.train):,} rows of train, {len(data.validation):,} of validation")
    vectors = isinstance(loaded.model, EmbeddingModel)
    own_head = vectors or (loaded.reads(task) and loaded.config.num_labels == task.outputs)
    if task.kind.traits.spans and not own_head:
        must = "one that is fine-tuned for question answering, with a head of its own"
        hint = "Fine-tune it first: python docs/examples/fine_tune.py MODEL DATA OUT --task question-answering"
        raise ParameterError("model", "compress", must, loaded.name, hint)
    assert isinstance(loaded.config.num_labels, int)
    if loaded.fine_tuned and not own_head:
        outputs = loaded.config.num_labels
        has = f"{outputs} outputs" if outputs > 1 else "one output"
        cure = "" if outputs > 1 or task.outputs != 2 else " (if it is the logit of a class, write the labels as 0 and 1)"
        notes.append(f"the model's own head has {has} and is not for this task: it was not used{cure}")
    if not loaded.in_memory and not vectors:
        notes += _pickled_head(loaded.name)
    if (data.train.pairs is not None or data.train.asks) and TYPES in view.inputs and unfed_types(loaded.tokenizer):
        notes.append(
            "token types: 0 for both texts, as transformers feeds this model; if it was trained with types, add token_type_ids to "
            "model_input_names in its tokenizer_config.json"
        )
    if not own_head:
        _name_classes(loaded, task)
    pooling = "mean" if vectors else _pooling(recipe, plan, task.per_token, loaded.fine_tuned)
    encoded = encode_splits(data.splits, loaded.tokenizer, task, longest, recipe.stride)
    if data.labelled:
        notes += _cut_notes(encoded, loaded, longest, stage)
    retrieval = None if recipe.retrieval is None else read_retrieval(recipe.retrieval)
    prompts = {} if retrieval is None else _prompts(loaded.model)
    return Inputs(
        loaded, view, data, encoded, pooling, own_head, longest, tuple(notes), recipe.stride, retrieval=retrieval, prompts=prompts
    )


def _pickled_head(name: str) -> list[str]:
    """Return a note on the classifier of a SetFit directory, which is a pickle and never read."""
    folder = local_folder(name)
    if folder is None or not (folder / _SETFIT).is_file():
        return []
    return [f"the model's own classifier ({_SETFIT}) is a pickle and was not read: what is called dense has none of its own"]


def _used(data: TaskData, *, bounded: bool) -> str:
    """Return a note on the use of the rows; `bounded` is whether there is a largest drop."""
    choices = f"{len(data.validation):,} of validation choose"
    if bounded and data.check is None:
        choices += " and hold --max-drop (they are too few to set some aside for it)"
    elif data.check is not None:
        choices += f", {len(data.check):,} that were set aside from it hold --max-drop and choose nothing else"
    return f"rows: {len(data.train):,} of train are fitted on, {choices}, {len(data.test):,} of test are measured alone"


def ask_dense(recipe: Recipe, inputs: Inputs, stage: Stages) -> Inputs:
    """Run the dense model for what is needed first: answers in the place of labels, vectors, and the check of the order of classes.

    Raises
    ------
    DataError
        If the classes are not in the order of the data's labels.
    """
    loaded, data, encoded, notes = inputs.loaded, inputs.data, dict(inputs.encoded), list(inputs.notes)
    labelled = data.labelled
    if not labelled:
        with stage("answer"):
            data, encoded = _answered(inputs.view, data, encoded, loaded.tokenizer, inputs.max_length)
        notes += _cut_notes(encoded, loaded, inputs.max_length, stage)
    if isinstance(loaded.model, EmbeddingModel):
        with stage("embed"):
            loaded, shortened = _embedded(recipe, loaded, data, encoded, notes)
        view = ModelView.of(loaded.model)
        return replace(inputs, loaded=loaded, view=view, data=data, encoded=encoded, notes=tuple(notes), shortened=shortened)
    if inputs.own_head and labelled and data.task.labels and not data.task.many:
        with stage("check labels"):
            notes.append(_check_order(inputs.view, encoded, data.task, recipe.seed))
    return replace(inputs, data=data, encoded=encoded, notes=tuple(notes))


def encode_splits(
    splits: Mapping[str, Rows], tokenizer: PreTrainedTokenizerBase, task: Task, max_length: int, stride: int | None
) -> dict[str, Encoded]:
    """Encode the rows of a task as a model reads them; for an embedder the texts of a pair are rows of their own."""
    return {
        name: encode(
            rows.singles if task.kind.traits.vectors else rows, tokenizer, max_length=max_length, per_token=task.per_token, stride=stride
        )
        for name, rows in splits.items()
    }


def _cut_notes(encoded: Mapping[str, Encoded], loaded: LoadedModel, longest: int, stage: Stages) -> list[str]:
    """Return notes on the rows and words that the limit of tokens concerns; say it where it is a tenth of the rows."""
    cut, lost = sum(split.truncated for split in encoded.values()), sum(split.dropped for split in encoded.values())
    total, positions = sum(map(len, encoded.values())), positions_of(loaded.config, int(loaded.tokenizer.pad_token_id or 0))
    most = "" if positions is None else f", {positions:,} at most"
    more = "" if positions is not None and positions <= longest else f" (--max-length reads more{most})"
    notes = [f"{cut:,} of {total:,} rows were cut at {longest} tokens{more}"] if cut else []
    if 10 * cut >= total:
        # The dense model may be measured on less than it was trained on.
        stage.say(notes[0])
    windows = [split.windows for split in encoded.values() if split.windows is not None]
    if windows:
        contexts, total = sum(len(each.references) for each in windows), sum(len(each.questions) for each in windows)
        notes.append(f"{contexts:,} contexts are read in {total:,} windows of at most {longest} tokens")
    if lost:
        notes.append(f"{lost} words have no token of their own within the limit: nothing is learned from them, and they count as wrong")
    return notes


def _prompted(data: TaskData, prompt: str) -> TaskData:
    """Return the data with a prompt in front of every text."""
    if not prompt:
        return data

    def prefixed(rows: Rows) -> Rows:
        pairs = None if rows.pairs is None else tuple(prompt + text for text in rows.pairs)
        return replace(rows, texts=tuple(prompt + text for text in rows.texts), pairs=pairs)

    return data.with_splits({name: prefixed(rows) for name, rows in data.splits.items()})


def _prompts(model: nn.Module) -> dict[str, str]:
    """Return the prompts of an embedder for queries and documents, by the names that sentence-transformers has for them."""
    assert isinstance(model, EmbeddingModel)
    aliases = {"query": ("query",), "document": ("document", "passage", "corpus")}
    stated = model.embedding.prompts
    # The first that is there, as sentence-transformers takes it.
    found = {role: next((name for name in names if name in stated), None) for role, names in aliases.items()}
    return {role: model.embedding.prompt(name) for role, name in found.items() if name is not None}


def _embedded(
    recipe: Recipe, loaded: LoadedModel, data: TaskData, encoded: dict[str, Encoded], notes: list[str]
) -> tuple[LoadedModel, tuple[Shortened, ...]]:
    """Return the embedder, with fewer dimensions where asked for; add the references for vectors of held-out texts to `encoded`."""
    held = {name: _scored(rows, encoded[name], data.task) for name, rows in data.splits.items() if name != "train"}
    shortened: tuple[Shortened, ...] = ()
    if recipe.dims is not None:
        assert isinstance(loaded.model, EmbeddingModel)
        model, shortened = shorten(loaded.model, recipe.dims, encoded["train"], held["test"], data.test, data.task, seed=recipe.seed)
        loaded = replace(loaded, model=model)
        notes.append(
            f"dimensions: a projection to {recipe.dims}, fitted to the cosines of train, takes the place of all, in dense too: an index "
            "of whole vectors must be made anew, or multiplied by the projection"
        )
    encoded |= {name: _against_dense(ModelView.of(loaded.model), texts) for name, texts in held.items()}
    return loaded, shortened


def _scored(rows: Rows, encoded: Encoded, task: Task) -> Encoded:
    """Return texts with the scores of their pairs, where there are some that the task's metric is about."""
    scored = rows.pairs is not None and not np.isnan(np.asarray(rows.labels)).any()
    return replace(encoded, starts=np.arange(0, len(encoded) + 1, 2)) if scored and task.metric.of_values else encoded


def _against_dense(view: ModelView, encoded: Encoded) -> Encoded:
    """Return texts; those without scores get the vectors of the dense model as references."""
    return encoded if encoded.starts is not None else replace(encoded, labels=outputs_of_model(view, encoded, view.width))


def _answered(
    view: ModelView, data: TaskData, encoded: dict[str, Encoded], tokenizer: PreTrainedTokenizerBase, longest: int
) -> tuple[TaskData, dict[str, Encoded]]:
    """Return rows with the model's own answers in the place of labels."""
    if data.task.per_token:
        data = data.with_splits({name: readable(rows, encoded[name]) for name, rows in data.splits.items()})
        encoded = encode_splits(data.splits, tokenizer, data.task, longest, None)
    outputs = {name: outputs_of_model(view, rows, data.task.outputs) for name, rows in encoded.items()}
    if data.task.many:
        # The labels that a model predicts are those above its own thresholds.
        cut = read_thresholds(getattr(view.config, "thresholds", None), data.task.outputs, "The model's config")
        outputs = {name: logits - cut.astype(logits.dtype) for name, logits in outputs.items()}
    return answered(data, encoded, outputs)


def _same_model(recipe: Recipe, live: LoadedModel | None) -> None:
    """Raise ModelError where a recipe was made from another model in memory than the one that is given, or where none is given."""
    if (digest := digest_at(recipe.model)) is None:
        return
    was = digest[:12]
    if live is None:
        raise ModelError(f"The recipe was made from a model in memory (sha256 {was}). Give that model: compress(model, tokenizer=...).")
    if recipe.model != live.name:
        now = (digest_at(live.name) or "")[:12]
        raise ModelError(f"The recipe was made from another model in memory (sha256 {was}) than the one that is given (sha256 {now}).")


def _same_memory(recipe: Recipe, data: TaskData, rows: object) -> None:
    """Raise DataError where a recipe was made on other rows in memory than those that are given."""
    was, now = digest_at(recipe.data), data.provenance["sha256"]
    if rows is not None and was not in (None, now):
        raise DataError(f"The recipe was made on other rows in memory (sha256 {was[:12]}) than those that are given (sha256 {now[:12]}).")


def _check_order(view: ModelView, encoded: Mapping[str, Encoded], task: Task, seed: int) -> str:
    """Check by the model's answers on held-out rows, then on train, that its classes are in the order of the labels; return a note."""
    answers: list[NDArray[Any]] = []
    labels: list[NDArray[Any]] = []
    sizes: list[NDArray[np.int64]] = []
    remaining = CHECKED
    for name in ("validation", "train"):
        if not remaining:
            break
        drawn = encoded[name].sample(remaining, seed)
        answers.append(outputs_of_model(view, drawn, task.outputs))
        labels.append(drawn.labels)
        sizes.append(np.diff(drawn.word_starts) if task.per_token else np.ones(len(drawn), dtype=np.int64))
        remaining -= len(drawn)
    starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    return check_order(np.concatenate(answers), np.concatenate(labels), task.labels, starts=starts, seed=seed)


def _few_choose(data: TaskData, seed: int) -> tuple[TaskData, tuple[str, ...]]:
    """Return data with at most `VALIDATION` rows of validation, and a note: every choice runs a model over all of them."""
    total = len(data.validation)
    if total <= VALIDATION or data.task.kind.traits.lists:
        return data, ()
    kept = np.sort(np.random.default_rng(seed).permutation(total)[:VALIDATION])
    note = f"validation: {VALIDATION:,} of {total:,} rows, drawn at random, choose"
    return data.with_splits({**data.splits, "validation": data.validation.take(kept)}), (note,)


def _drawn(data: TaskData, most: int, seed: int) -> TaskData:
    generator = np.random.default_rng(seed)
    drawn = {name: rows.take(generator.permutation(len(rows))[:most]) for name, rows in data.splits.items()}
    return data.with_splits(drawn)


def _name_classes(loaded: LoadedModel, task: Task) -> None:
    config: Any = loaded.config
    names = task.labels or ("LABEL_0",)
    # What the config says is about a head that is not used.
    config.problem_type = MANY_LABELS if task.many else None
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def _pooling(recipe: Recipe, plan: Plan | None, per_token: bool, fine_tuned: bool) -> Pooling:
    if per_token and recipe.pooling is not None:
        raise ParameterError("pooling", "compress", "left out for a token task, which reads every word", recipe.pooling)
    if plan is not None and plan.readout is not None:
        planned = plan.readout.pooling
        if (planned == "token") != per_token:
            reads = "words" if planned == "token" else f"a text as a whole ({planned})"
            raise ParameterError("plan", "compress", "for the data's task", f"a plan whose readout reads {reads}")
        if recipe.pooling not in (None, planned):
            raise ParameterError("pooling", "compress", f"{planned!r}, as the plan has it, or left out", recipe.pooling)
        return planned
    assert recipe.pooling != "max", "refused by the recipe"
    return "token" if per_token else recipe.pooling or ("cls" if fine_tuned else "mean")


def calibration_size(encoded: Encoded, *, trained: bool) -> tuple[int, float]:
    """Return how many rows `calibration` draws, and about how many tokens they have."""
    tokens = TOKENS_TRAINED if trained else TOKENS
    # Rows are drawn in proportion to their tokens, so those drawn are longer than the mean.
    typical = float((encoded.lengths.astype(np.float64) ** 2).sum() / encoded.lengths.sum())
    rows = min(len(encoded), CALIBRATION, max(LEAST, int(tokens / typical)))
    return rows, min(rows * typical, float(encoded.lengths.sum()))


def calibration(encoded: Encoded, seed: int, *, trained: bool = False) -> list[dict[str, torch.Tensor]]:
    """Draw a seeded sample of rows, long ones more often, as batches of tensors; fewer of them where the model is trained afterwards."""
    rows, _ = calibration_size(encoded, trained=trained)
    return [_tensors(batch, spans=encoded.windows is not None) for batch in encoded.draw(rows, seed).batches()]


def _tensors(batch: Batch, *, spans: bool) -> dict[str, torch.Tensor]:
    """Return the inputs, and where answers are spans the places at which one may start or end."""
    tensors = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
    return tensors | ({READ: torch.from_numpy(batch.read)} if spans else {})
