"""Bounds on the size of external input; docs/limits.md lists them, with the reason for each."""

from __future__ import annotations

import os
import resource

# Files, in bytes.
PLAN_BYTES = 64 * 2**20
RECIPE_BYTES = 2**16
BENCHMARK_BYTES = 2**28
CONFIG_BYTES = 8 * 2**20
VOCABULARY_BYTES = 2**28
METADATA_BYTES = 16 * 2**20
ONNX_BYTES = 2**31

#: Nesting depth of a JSON or YAML file.
DEPTH = 64

# Sizes of a model.
LAYERS = 1024
WIDTH = 2**20
HEADS = 2**12
VOCABULARY = 2**22
POSITIONS = 2**20
CLASSES = 2**16

# Options.
THREADS = 1024
BATCH = 2**12
#: Tokens in one batch of `prunekit bench`, padding counted.
BATCH_TOKENS = 2**18
SECONDS = 7 * 24 * 3600
ROWS = 10**9
#: Cuts of a training by a `PruneCallback`.
CUTS = 1_000
#: Parts in which statistics are collected.
SHARDS = 2**16
SEEDS = 2**32


def memory() -> int:
    """Return the bytes that this process may have: the machine's, or less where a limit is set."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return physical if limit == resource.RLIM_INFINITY else min(physical, limit)
