"""Graph passes on an exported file, which preserve what it computes."""

from __future__ import annotations

from prunekit.exporters.passes.run import Level, optimize

__all__ = ["Level", "optimize"]
