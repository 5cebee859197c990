from __future__ import annotations

import networkx
import numpy as np
import pytest
from scipy.stats import spearmanr

from prunekit.errors import DataError, ParameterError, StatisticsError
from prunekit.probes.edges import edge_pairs, edge_rows, label_space
from prunekit.probes.structural import StructuralProbe, _Batch, fit_structural, score_structural
from prunekit.probes.trees import Sentence, distance_spearman, distances, edges, sentences, uuas


def random_tree(size: int, generator: np.random.Generator) -> list[int]:
    """Heads of a random tree: every word but the first of a random order hangs on an earlier one."""
    order = generator.permutation(size)
    heads = [0] * size
    for at in range(1, size):
        heads[order[at]] = int(order[generator.integers(at)]) + 1
    return heads


def treebank(count: int, seed: int = 0) -> tuple[Sentence, ...]:
    generator = np.random.default_rng(seed)
    heads = [random_tree(int(generator.integers(3, 15)), generator) for _ in range(count)]
    labels = [[("root" if not head else ("punct" if generator.random() < 0.1 else f"rel{head % 3}")) for head in row] for row in heads]
    return sentences(heads, labels)


def exact(bank: tuple[Sentence, ...], seed: int = 0, noise: int = 5) -> np.ndarray:
    """Vectors whose squared distances are the trees' distances: a word is the sum of the edges between it and the root.

    Every edge has a direction of its own within a sentence. With noise, dimensions of it are added and all is rotated.
    """
    generator = np.random.default_rng(seed)
    longest = max(len(sentence) for sentence in bank)
    rows = []
    for sentence in bank:
        vectors = np.zeros((len(sentence), longest + noise))
        for word in range(len(sentence)):
            at = word
            while sentence.heads[at]:
                vectors[word, at] = 1.0
                at = int(sentence.heads[at]) - 1
        vectors[:, longest:] = 3.0 * generator.normal(size=(len(sentence), noise))
        rows.append(vectors)
    if not noise:
        return np.concatenate(rows)
    turned = np.linalg.qr(generator.normal(size=(longest + noise, longest + noise)))[0]
    return np.concatenate(rows) @ turned


def clean(bank: tuple[Sentence, ...]) -> StructuralProbe:
    width = exact(bank, noise=0).shape[1]
    return StructuralProbe(np.eye(width))


def test_a_tree_whose_distances_are_exact_is_recovered() -> None:
    bank = treebank(40)
    found = score_structural(clean(bank), exact(bank, noise=0), bank)
    assert found.uuas == 1.0
    assert found.spearman == pytest.approx(1.0, abs=1e-12)
    assert 30 < found.sentences <= 40


def test_the_probe_finds_the_tree_among_noise() -> None:
    bank = treebank(150)
    words = exact(bank)
    probe = fit_structural(words, bank[:120], rank=19, epochs=80, lr=5e-2)
    found = score_structural(probe, words, bank[120:])
    untrained = score_structural(StructuralProbe(np.eye(words.shape[1])), words, bank[120:])
    assert found.uuas > 0.95 > 0.7 > untrained.uuas
    assert found.spearman > 0.9 > untrained.spearman
    assert np.array_equal(probe.projection, fit_structural(words, bank[:120], rank=19, epochs=80, lr=5e-2).projection)


@pytest.mark.usefixtures("unchecked")  # in double precision
def test_the_gradient_is_that_of_the_loss() -> None:
    bank = treebank(4)
    batch = _Batch.of(exact(bank).astype(np.float64), bank, 1.0)  # type: ignore[arg-type]
    exact_batch = _Batch(*(part.astype(np.float64) for part in (batch.words, batch.true, batch.weights)))  # type: ignore[arg-type]
    projection = np.random.default_rng(0).normal(size=(batch.words.shape[2], 3))
    gradient = exact_batch.gradient(projection)  # type: ignore[arg-type]
    for place in [(0, 0), (3, 2), (7, 1)]:
        step = np.zeros_like(projection)
        step[place] = 1e-6
        up, down = (exact_batch.loss(projection + sign * step) for sign in (1, -1))  # type: ignore[arg-type]
        assert gradient[place] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-6)


def test_distances_and_edges_against_networkx() -> None:
    for sentence in treebank(10, 3):
        graph = networkx.Graph(edges(sentence.heads).tolist())
        lengths = dict(networkx.all_pairs_shortest_path_length(graph))
        found = distances(sentence.heads)
        assert all(found[i, j] == lengths[i][j] for i in range(len(sentence)) for j in range(len(sentence)))


def test_the_score_of_edges_is_by_the_spanning_tree() -> None:
    generator = np.random.default_rng(5)
    for sentence in treebank(10, 4):
        points = generator.normal(size=(len(sentence), 4))
        predicted = np.square(points[:, None] - points[None]).sum(axis=2)
        graph = networkx.Graph()
        kept = np.flatnonzero(sentence.counts).tolist()
        graph.add_nodes_from(kept)
        graph.add_weighted_edges_from((i, j, predicted[i, j]) for i in kept for j in kept if i < j)
        spanning = {tuple(sorted(edge)) for edge in networkx.minimum_spanning_edges(graph, data=False)}
        true = {(a, b) for a, b in edges(sentence.heads).tolist() if a in kept and b in kept}
        assert uuas(predicted, sentence) == (len(spanning & true), len(true))


def test_spearman_by_word() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 6, 6))
    found = distance_spearman(a, b)
    others = [1, 2, 3, 4, 5]
    assert found[0] == pytest.approx(spearmanr(a[0, others], b[0, others]).statistic)
    assert np.isnan(distance_spearman(a[:2, :2], b[:2, :2])).all()
    assert np.isnan(distance_spearman(np.zeros((4, 4)), b[:4, :4])).all()


def test_trees_that_are_none() -> None:
    for heads, message in [([0, 0], "one root"), ([2, 1], "one root"), ([0, 3, 2], "cycle"), ([0, 5], "outside"), ([-1, 0], "outside")]:
        with pytest.raises(DataError, match=message):
            sentences([heads], [["x"] * len(heads)])
    with pytest.raises(DataError, match="relations"):
        sentences([[0, 1]], [["root"]])
    bank = sentences([[0], [2, 0, 2]], [["root"], ["nsubj", "root", "punct"]])
    assert [each.start for each in bank] == [0, 1]
    assert bank[1].counts.tolist() == [True, True, False]


def test_inputs_without_structure() -> None:
    bank = treebank(5)
    words = exact(bank)
    with pytest.raises(StatisticsError, match="do not vary"):
        fit_structural(np.ones_like(words), bank)
    with pytest.raises(StatisticsError, match="NaN"):
        fit_structural(np.full_like(words, np.nan), bank)
    single = sentences([[0]], [["root"]])
    with pytest.raises(StatisticsError, match="two words"):
        fit_structural(words, single)
    with pytest.raises(StatisticsError, match="No held-out"):
        score_structural(StructuralProbe(np.eye(words.shape[1])), words, single)
    with pytest.raises(ParameterError):
        fit_structural(words, bank, rank=0)


def test_edges_as_pairs_of_words() -> None:
    bank = sentences([[2, 0, 2], [0, 1]], [["nsubj", "root", "obj:x"], ["root", "advmod"]])
    assert label_space(bank) == ("advmod", "nsubj", "obj")
    pairs, targets, unknown = edge_pairs(bank, label_space(bank))
    assert pairs.tolist() == [[0, 1], [2, 1], [4, 3]]
    assert targets.tolist() == [1, 2, 0]
    assert unknown == 0
    assert edge_pairs(bank, ("nsubj",))[2] == 2
    words = np.arange(10.0).reshape(5, 2)
    assert edge_rows(words, pairs)[0].tolist() == [0, 1, 2, 3, 0, 3]
    with pytest.raises(StatisticsError, match="no edges"):
        edge_pairs(bank, ("other",))
