"""The command line: parsing and printing only; one module per command, each registered by the line that imports it here."""

from prunekit.cli import analyze, bench, collect, compress, export, show  # noqa: F401
from prunekit.cli.base import app, main

__all__ = ["app", "main"]
