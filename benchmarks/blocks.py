"""How often `prunekit analyze cka` says that layers may go, by simulation: `python benchmarks/blocks.py`.

Similarities of 12 layers and the embeddings. In a chain without blocks they fall with the distance along the stack, with any length of
memory; in two blocks they are 0.95 within and 0.5 between. Noise of the stated standard deviation is added to each pair of layers. A
chain is false if any layer may go; blocks are found if the cut is where it was planted, and all layers of the late block but the first
may go.

Result (200 of each kind, seed 0): benchmarks/results/blocks.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from prunekit.analyzers.cka import Blocks, find_blocks

Floats = NDArray[np.float64]

LAYERS = 13
#: Steps between neighbours in a chain: all alike, uneven, ever longer or shorter, and with a hump.
STEPS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "even": lambda generator: np.ones(LAYERS - 1),
    "uneven": lambda generator: np.exp(generator.normal(0.0, 0.5, LAYERS - 1)),
    "trend": lambda generator: np.exp(generator.uniform(-1.4, 1.4) * np.linspace(0.0, 1.0, LAYERS - 1)),
    "hump": lambda generator: 1 + 3 * np.exp(-(((np.arange(LAYERS - 1) - generator.uniform(0, 12)) / generator.uniform(3, 6)) ** 2)),
}


def noisy(matrix: Floats, noise: float, generator: np.random.Generator) -> Floats:
    """Add symmetric noise off the diagonal."""
    upper = np.triu(generator.normal(0.0, noise, matrix.shape), 1)
    found = np.clip(matrix + upper + upper.T, 0.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def chain(kind: str, noise: float, generator: np.random.Generator) -> Floats:
    """Return the similarities of layers that only drift apart, exp(-distance)."""
    scale = np.exp(generator.uniform(0.0, np.log(60.0)))
    places = np.concatenate([[0.0], np.cumsum(STEPS[kind](generator) / scale)])
    return noisy(np.exp(-np.abs(places[:, None] - places)), noise, generator)


def planted(cut: int, noise: float, generator: np.random.Generator) -> Floats:
    """Return the similarities of an early and a late block, of which the late one begins at `cut`."""
    late = np.arange(LAYERS) >= cut
    return noisy(np.where(np.equal.outer(late, late), 0.95, 0.5), noise, generator)


def found(matrix: Floats) -> Blocks:
    """Return the blocks that the analyzer finds."""
    blocks = find_blocks(matrix, np.arange(LAYERS))
    assert blocks is not None
    return blocks


def false_rate(kind: str, noise: float, count: int, seed: int = 0) -> float:
    """Return the share of chains without blocks of which a layer may go."""
    generator = np.random.default_rng(seed)
    return float(np.mean([bool(found(chain(kind, noise, generator)).may_go) for _ in range(count)]))


def found_rate(noise: float, count: int, seed: int = 0) -> float:
    """Return the share of planted pairs of blocks that are found."""
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(count):
        cut = int(generator.integers(2, LAYERS - 2))
        blocks = found(planted(cut, noise, generator))
        hits += blocks.cut == cut and blocks.may_go == tuple(range(cut + 1, LAYERS))
    return hits / count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    count = parser.parse_args().count
    print("| similarities | noise | layers may go |\n|---|---:|---:|")
    for kind in STEPS:
        for noise in (0.0, 0.01, 0.02):
            print(f"| chain, {kind} | {noise:g} | {false_rate(kind, noise, count):.1%} |")
    for noise in (0.0, 0.01, 0.02):
        print(f"| two blocks | {noise:g} | {found_rate(noise, count):.1%} |")


if __name__ == "__main__":
    main()
