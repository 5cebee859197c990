"""Correlation clusters and elastic-net ranking: prunekit against NeuroX's own functions, same data, same machine.

    python benchmarks/peer_neurox.py make DATA.npy --rows 100000 --layers 13 --hidden 768
    python benchmarks/peer_neurox.py ours DATA.npy --out ours.npz
    NEUROX_ENV/bin/python benchmarks/peer_neurox.py neurox DATA.npy --out neurox.npz
    python benchmarks/peer_neurox.py compare ours.npz neurox.npz

Both cluster all neurons at one threshold, train the elastic-net probe (l1 = l2 = 1e-5, Adam, 10 epochs, batch 128, two classes)
from the same initial weights, and order the neurons in 1000 steps. NeuroX reads the matrix into memory, as its functions want
it; prunekit streams it from the file. Each side runs in a process of its own, whose peak memory is recorded; reading the
matrix counts. NeuroX needs an environment of its own (its requirements name versions of 2021: install it with --no-deps beside
current numpy, scipy, torch and tqdm). `--thresholds 0.1 0.2 ...` asks for several cuts: NeuroX has to be called once for each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import time
from pathlib import Path

import numpy as np

BATCH, EPOCHS, PENALTY, STEPS, CLASSES = 128, 10, 1e-5, 1000, 2


def labels_file(path: Path) -> Path:
    return path.with_suffix(".labels.npy")


def make(path: Path, rows: int, layers: int, hidden: int, seed: int) -> None:
    """A residual stream: each layer is the one below, and something new; labels depend on 20 neurons of one layer."""
    generator = np.random.default_rng(seed)
    width = layers * hidden
    scale = generator.exponential(size=width).astype(np.float32) + np.float32(0.1)
    offset = generator.standard_normal(width).astype(np.float32)
    direction = generator.standard_normal(20).astype(np.float32)
    array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))
    labels = np.empty(rows, dtype=np.int64)
    keep = np.float32(0.9)
    for start in range(0, rows, 2000):
        count = min(2000, rows - start)
        block = generator.standard_normal((count, width), dtype=np.float32)
        for layer in range(1, layers):
            at = slice(layer * hidden, (layer + 1) * hidden)
            block[:, at] = keep * block[:, at.start - hidden : at.start] + np.sqrt(1 - keep**2) * block[:, at]
        middle = (layers // 2) * hidden
        score = block[:, middle : middle + 20] @ direction + 2 * generator.standard_normal(count, dtype=np.float32)
        labels[start : start + count] = score > 0
        array[start : start + count] = block * scale + offset
    array.flush()
    np.save(labels_file(path), labels)


def initial(width: int) -> tuple[np.ndarray, np.ndarray]:
    """The same first weights for both, as a fresh linear layer draws them."""
    generator, bound = np.random.default_rng(0), 1 / np.sqrt(width)
    return (generator.uniform(-bound, bound, shape).astype(np.float32) for shape in ((CLASSES, width), CLASSES))


def ours(path: Path, thresholds: list[float]) -> dict[str, object]:
    from screening import clusters_of_rows

    from prunekit.probes.dalvi_probe import DalviProbe
    from prunekit.probes.rankings import ranking
    from prunekit.stats.rows import RowStore

    seconds: dict[str, float] = {}
    clusters = []
    with Clock(seconds, "clusters"):
        rows, labels = RowStore.open(path), np.load(labels_file(path))
        clusters = [clusters_of_rows(path, threshold) for threshold in thresholds]
    with Clock(seconds, "probe"):
        probe = DalviProbe(CLASSES, PENALTY, PENALTY, epochs=EPOCHS, batch=BATCH)
        [(weight, _bias)] = probe.fit(rows, labels, start=tuple(initial(rows.shape[1])))
    with Clock(seconds, "order"):
        order = ranking(weight, steps=STEPS)
    return {"seconds": seconds, "clusters": clusters, "weight": weight, "order": order, "cutoffs": np.empty(0, int)}


def theirs(path: Path, thresholds: list[float]) -> dict[str, object]:
    import torch
    from neurox.interpretation import clustering, linear_probe

    plain = torch.nn.Linear

    def started(inputs: int, outputs: int) -> torch.nn.Linear:
        layer = plain(inputs, outputs)
        with torch.no_grad():
            for parameter, value in zip(layer.parameters(), initial(inputs), strict=True):
                parameter.copy_(torch.from_numpy(value))
        return layer

    seconds: dict[str, float] = {}
    with Clock(seconds, "read"):
        matrix, labels = np.load(path), np.load(labels_file(path))
    with Clock(seconds, "clusters"):
        clusters = [clustering.create_correlation_clusters(matrix, clustering_threshold=threshold) for threshold in thresholds]
    with Clock(seconds, "probe"):
        # The library draws the first weights itself; here they are those of the other side.
        linear_probe.nn.Linear = started
        probe = linear_probe.train_logistic_regression_probe(
            matrix, labels, lambda_l1=PENALTY, lambda_l2=PENALTY, num_epochs=EPOCHS, batch_size=BATCH
        )
    with Clock(seconds, "order"):
        order, cutoffs = linear_probe.get_neuron_ordering(probe, {"a": 0, "b": 1}, STEPS)
    weight = probe.linear.weight.detach().numpy()
    return {"seconds": seconds, "clusters": clusters, "weight": weight, "order": np.array(order), "cutoffs": np.array(cutoffs)}


class Clock:
    def __init__(self, into: dict[str, float], name: str) -> None:
        self._into, self._name = into, name

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._into[self._name] = time.perf_counter() - self._begin
        print(f"{self._name}: {self._into[self._name]:.2f} s", flush=True)


def compare(first: Path, second: Path) -> None:
    from sklearn.metrics import adjusted_rand_score

    from prunekit.probes.rankings import ranking

    a, b = np.load(first, allow_pickle=False), np.load(second, allow_pickle=False)
    total = [sum(json.loads(str(each["seconds"])).values()) for each in (a, b)]
    peak = [float(each["peak"]) for each in (a, b)]
    print(f"{'':12}{'prunekit':>12}{'NeuroX':>12}{'ratio':>8}")
    times = [json.loads(str(each["seconds"])) for each in (a, b)]
    for name in times[1]:
        left = times[0].get(name)
        ratio = "" if left is None else f"{times[1][name] / left:8.1f}"
        print(f"{name:12}{'-' if left is None else f'{left:.1f} s':>12}{times[1][name]:>10.1f} s{ratio}")
    print(f"{'total':12}{total[0]:>10.1f} s{total[1]:>10.1f} s{total[1] / total[0]:8.1f}")
    print(f"{'peak memory':12}{peak[0]:>9.2f} GB{peak[1]:>9.2f} GB{peak[1] / peak[0]:8.1f}")
    for x, y in zip(a["clusters"], b["clusters"], strict=True):
        print(f"clusters: {len(np.unique(x))} and {len(np.unique(y))}, adjusted Rand index {adjusted_rand_score(x, y):.6f}")
    print(f"weights of the probes: largest difference {np.abs(a['weight'] - b['weight']).max():.2e} of {np.abs(b['weight']).max():.2e}")
    order, cutoffs = ranking(b["weight"], steps=STEPS), [0, *b["cutoffs"].tolist()]
    same = all(set(order[i:j].tolist()) == set(b["order"][i:j].tolist()) for i, j in itertools.pairwise(cutoffs))
    print(f"our order of NeuroX's weights is NeuroX's, step by step: {same} ({len(set(cutoffs)) - 1} steps that add neurons)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("path", type=Path)
    making.add_argument("--rows", type=int, default=100_000)
    making.add_argument("--layers", type=int, default=13)
    making.add_argument("--hidden", type=int, default=768)
    making.add_argument("--seed", type=int, default=0)
    for name in ("ours", "neurox"):
        side = commands.add_parser(name)
        side.add_argument("path", type=Path)
        side.add_argument("--thresholds", type=float, nargs="+", default=[0.3])
        side.add_argument("--out", type=Path, required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.path, arguments.rows, arguments.layers, arguments.hidden, arguments.seed)
    elif arguments.command == "compare":
        compare(arguments.first, arguments.second)
    else:
        found = (ours if arguments.command == "ours" else theirs)(arguments.path, arguments.thresholds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(f"total {sum(found['seconds'].values()):.2f} s, peak memory {peak:.2f} GB")
        found["seconds"] = json.dumps(found["seconds"])
        np.savez(arguments.out, **found, peak=peak)


if __name__ == "__main__":
    main()
