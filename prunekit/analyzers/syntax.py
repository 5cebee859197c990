"""The analyzer `syntax`: dependency trees recovered from each layer, by an edge probe and by the structural probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from prunekit.analyzers.base import Analyzer, AnalyzerResult, Need, Observations, Subject, layer_names
from prunekit.analyzers.figures import Curves, Figure, Series, Table
from prunekit.errors import StatisticsError
from prunekit.metrics import Metric
from prunekit.probes.edges import edge_pairs, edge_rows, label_space
from prunekit.probes.elastic_net import Problem
from prunekit.probes.selection import Split, best
from prunekit.probes.structural import fit_structural, score_structural
from prunekit.probes.trees import Sentence
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task, TaskKind

SENTENCES = (500, 200)
"""Most sentences of train and of validation that are probed."""
RANK, EPOCHS = 32, 20
"""Rank and epochs of the structural probe. The paper's rank is 64, but no accuracy is lost from 32 on."""
ALPHAS = (1e-3, 1e-2)
"""Penalties tried for the edge probe."""


@dataclass(frozen=True)
class Trees:
    """Scores of one model, layer by layer, on held-out sentences.

    Attributes
    ----------
    edges : tuple of float
        Accuracy of the relation of a word to its head, from the vectors of the two.
    uuas, spearman : tuple of float
        Scores of the structural probe. NaN for a layer whose words' vectors do not vary.
    """

    edges: tuple[float, ...]
    uuas: tuple[float, ...]
    spearman: tuple[float, ...]


@final
@dataclass(frozen=True)
class Syntax(AnalyzerResult):
    """Scores of dependency trees, layer by layer.

    Attributes
    ----------
    model : Trees
    base : Trees or None
    relations : tuple of str
        Relations of the edge probe.
    commonest : float
        Share of the commonest of them among the held-out edges.
    chain : float
        UUAS of joining every word with the next, which needs no model.
    sentences : (int, int)
        Sentences of train and of validation.
    """

    model: Trees
    base: Trees | None
    relations: tuple[str, ...]
    commonest: float
    chain: float
    sentences: tuple[int, int]

    def summary(self) -> tuple[str, ...]:
        """Summarise the best layers, and the change against the base."""
        names = layer_names(len(self.model.edges))
        top, best_edges = int(np.nanargmax(self.model.uuas)), int(np.nanargmax(self.model.edges))
        lines = [
            f"trees are read best at layer {names[top]}: UUAS {self.model.uuas[top]:.1%} "
            f"(words joined in a chain: {self.chain:.1%}), Spearman {self.model.spearman[top]:.2f}",
            f"relations of two words are read best at layer {names[best_edges]}: {self.model.edges[best_edges]:.1%} "
            f"(the commonest of {len(self.relations)}: {self.commonest:.1%})",
        ]
        if self.base is not None and len(self.base.uuas) == len(names):
            lost = np.subtract(self.base.uuas, self.model.uuas)
            if np.isfinite(lost).any():
                where = int(np.nanargmax(np.abs(lost)))
                lines.append(f"against the base, UUAS moved most at layer {names[where]}: {-lost[where]:+.1%}")
        return tuple(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Return the scores over layers, as curves and as a table."""
        subjects = (("this model", self.model), ("the base", self.base))
        both = [(name, scores) for name, scores in subjects if scores is not None]
        note = f"Fitted on {self.sentences[0]:,} sentences, scored on {self.sentences[1]:,} others; punctuation does not count for UUAS."
        trees = Curves(
            "Trees in the distances of words",
            tuple(_series(name, scores.uuas) for name, scores in both),
            "layer (0: embeddings)",
            "UUAS",
            f"Share of the tree's edges in the minimum spanning tree under the structural probe. {note}",
            reference=("chain", self.chain),
            whole_x=True,
            percent=True,
        )
        edges = Curves(
            "Relations of a word and its head",
            tuple(_series(name, scores.edges) for name, scores in both),
            "layer (0: embeddings)",
            "accuracy",
            "A linear probe on the vectors of the two words and their product.",
            reference=("commonest", self.commonest),
            whole_x=True,
            percent=True,
        )
        return trees, edges, self._table(both)

    def _table(self, both: list[tuple[str, Trees]]) -> Table:
        header = ["layer", *(f"{measure}, {name}" for name, _ in both for measure in ("UUAS", "Spearman", "relations"))]
        rows = []
        for at, layer in enumerate(layer_names(len(self.model.uuas))):
            cells = []
            for _, scores in both:
                known = at < len(scores.uuas) and bool(np.isfinite(scores.uuas[at]))
                cells += [f"{scores.uuas[at]:.1%}", f"{scores.spearman[at]:.2f}", f"{scores.edges[at]:.1%}"] if known else ["-"] * 3
            rows.append((layer, *cells))
        best = int(np.nanargmax(self.model.uuas))
        note = f"Share of tree edges found, correlation with tree distances, and relations recognised; layer {best} finds most edges."
        return Table("Trees, by layer", tuple(header), tuple(rows), best, note)


def _series(name: str, values: tuple[float, ...]) -> Series:
    return Series(name, tuple(float(at) for at in range(len(values))), values)


def run(inputs: Observations) -> Syntax:
    """Probe every layer of the model, and of the base, for trees."""
    model, relations, commonest, chain, sizes = _probe(inputs.model, inputs.seed)
    base = None if inputs.base is None else _probe(inputs.base, inputs.seed)[0]
    return Syntax(model, base, relations, commonest, chain, sizes)


def _probe(subject: Subject, seed: int) -> tuple[Trees, tuple[str, ...], float, float, tuple[int, int]]:
    assert subject.trees is not None
    assert subject.validation is not None
    train, held_out = (sentences[:most] for sentences, most in zip(subject.trees, SENTENCES, strict=True))
    relations = label_space(train)
    if len(relations) < 2:
        raise StatisticsError("The trees of train have fewer than two relations: there is nothing to tell apart.")
    pairs = [edge_pairs(sentences, relations)[:2] for sentences in (train, held_out)]
    task = Task(TaskKind.TOKENS, Metric.ACCURACY, relations)
    edges, scores = [], []
    for layer in range(subject.layers):
        words = [collected.rows.matrix(subject.columns(layer)) for collected in (subject.train, subject.validation)]
        splits = [
            Split.of(RowStore.of(edge_rows(rows, ids)), targets, len(relations)) for rows, (ids, targets) in zip(words, pairs, strict=True)
        ]
        if not splits[0].moments.non_constant(splits[0].rows.width).any():
            edges.append(float("nan"))
            scores.append((float("nan"), float("nan")))
            continue
        problems = [Problem(splits[0].rows.width, alpha) for alpha in ALPHAS]
        edges.append(best(splits[0], splits[1], task, problems)[2])
        structural = score_structural(fit_structural(words[0], train, rank=RANK, epochs=EPOCHS, seed=seed), words[1], held_out)
        scores.append((structural.uuas, structural.spearman))
    if not all(np.isfinite(values).any() for values in (edges, [uuas for uuas, _ in scores])):
        raise StatisticsError("No layer has vectors of words that differ, or no sentence has an edge to find: there are no trees to read.")
    trees = Trees(tuple(edges), tuple(uuas for uuas, _ in scores), tuple(spearman for _, spearman in scores))
    commonest = float(np.bincount(pairs[1][1]).max() / len(pairs[1][1]))
    return trees, relations, commonest, _chain_uuas(held_out), (len(train), len(held_out))


def _chain_uuas(held_out: Sequence[Sentence]) -> float:
    """Return the UUAS of the tree that joins every counted word with the next one."""
    correct = total = 0
    for sentence in held_out:
        positions = np.full(len(sentence), -1)
        positions[sentence.counts] = np.arange(int(sentence.counts.sum()))
        words = np.flatnonzero((sentence.heads > 0) & sentence.counts)
        head_positions = positions[sentence.heads[words] - 1]
        counted = head_positions >= 0
        correct += int((np.abs(head_positions - positions[words])[counted] == 1).sum())
        total += int(counted.sum())
    return correct / total if total else float("nan")


ANALYZER = Analyzer("syntax", "Trees of words", frozenset({Need.ROWS, Need.VALIDATION, Need.TREES}), run)
