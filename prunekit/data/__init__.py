"""From a task's data to tokenised, length-bucketed batches. No torch; the `datasets` library is imported when a source is read."""

from __future__ import annotations

from prunekit.data.batches import Batch, Encoded, encode
from prunekit.data.load import load_data
from prunekit.data.rows import Rows, TaskData

__all__ = ["Batch", "Encoded", "Rows", "TaskData", "encode", "load_data"]
