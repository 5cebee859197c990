"""Random plans for the tiny models."""

from __future__ import annotations

import random
from typing import Any

from prunekit.arch.view import ModelView
from prunekit.plan import Plan, ReadoutPlan

UNITS = ("layers", "heads", "ffn", "affine", "hidden")
#: What a head reads is zero until it is filled.
FILLED = (*UNITS, "components")


def subset(rng: random.Random, size: int, least: int = 1) -> tuple[int, ...]:
    """A random subset of range(size), sorted."""
    return tuple(sorted(rng.sample(range(size), rng.randint(least, size))))


def random_plan(view: ModelView, units: tuple[str, ...], rng: random.Random, *, empty: bool = True) -> Plan:
    """A random plan that the family can express; some blocks lose a whole sub-block if `empty`."""
    source, spec = view.source, view.spec
    chosen: dict[str, Any] = {}
    for role in ("heads", "ffn"):
        if role not in units:
            continue
        size = getattr(source, role)
        first = subset(rng, size)
        sets = {block: first if spec.shared_blocks else subset(rng, size) for block in range(source.layers)}
        if empty and rng.random() < 0.5:
            for block in range(source.layers) if spec.shared_blocks else rng.sample(range(source.layers), 2):
                sets[block] = ()
        chosen[role] = sets
    if "affine" in units:
        blocks = range(source.layers)
        affine = tuple(blocks) if spec.shared_blocks else tuple(sorted(rng.sample(blocks, 2)))
        chosen["affine"] = affine
        chosen["ffn"] = {block: kept for block, kept in chosen.get("ffn", {}).items() if block not in affine}
    if "layers" in units:
        chosen["layers"] = subset(rng, source.layers)
    if "hidden" in units:
        chosen["hidden"] = subset(rng, source.hidden, 5)
    if "components" in units and view.head_kind:
        chosen["components"] = rng.randint(1, len(chosen.get("hidden", range(source.hidden))) - 1)
    return Plan(source=source, **chosen)


def random_readout(view: ModelView, pooling: str, rng: random.Random, top: int | None = None) -> ReadoutPlan:
    """Neurons of some layers, the highest of which is `top`."""
    top = view.num_layers if top is None else top
    layers = {top, *rng.sample(range(top + 1), rng.randint(0, top))}
    return ReadoutPlan(pooling=pooling, neurons={layer: subset(rng, view.hidden_size) for layer in sorted(layers)})
