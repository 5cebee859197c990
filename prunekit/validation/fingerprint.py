"""Fingerprints, which stand in the place of a name for a model or rows that were in memory."""

from __future__ import annotations

_PREFIX = "memory:"


def place_of(digest: str) -> str:
    """Return what a recipe has in the place of a name for a model or rows in memory with this sha256."""
    return f"{_PREFIX}{digest}"


def digest_at(place: str | None) -> str | None:
    """Return the sha256 of a model or rows that were in memory; None where a place is a name, a path or the embedded default."""
    return place.removeprefix(_PREFIX) if place is not None and place.startswith(_PREFIX) else None
