"""Pass that cuts off position embeddings that no row reaches."""

from __future__ import annotations

from typing import final

import numpy as np

from prunekit.exporters.passes.base import GraphPass, TracedGraph


@final
class CutPositions(GraphPass):
    """Pass that cuts tables whose highest row read is the length plus a constant, at the longest length.

    RoBERTa's positions begin behind the padding id, so the constant is observed and not assumed; the first row of every probe
    has no padding.
    """

    name = "position embeddings cut"

    def call(self, traced: TracedGraph) -> int:
        """Return the number of rows removed."""
        cut = 0
        for node in traced.nodes("Gather"):
            table, index = traced.constant(node.inputs[0]), node.inputs[1]
            if table is None or table.ndim != 2 or index is None or index.is_graph_input() or index.const_value is not None:
                continue
            arrays = [probe.values.get(index.name or "") for probe in traced.probes]
            offsets = {
                int(array.max()) - probe.length + 1
                for array, probe in zip(arrays, traced.probes, strict=True)
                if array is not None and array.size
            }
            rows = traced.max_length + min(offsets, default=0)
            if len(offsets) != 1 or min(offsets) < 0 or any(array is None for array in arrays) or rows >= len(table):
                continue
            node.replace_input_with(0, traced.add_constant(np.array(table[:rows]), node.inputs[0].name or "" if node.inputs[0] else ""))
            cut += len(table) - rows
        return cut
