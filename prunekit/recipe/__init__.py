"""`Recipe`: every choice on which the result depends.

It is imported on first use, since ``--help`` reads `prunekit.recipe.option` and pydantic takes longer to import than ``--help`` may take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunekit.recipe.recipe import Recipe

__all__ = ["Recipe"]


def __getattr__(name: str) -> Any:
    if name != "Recipe":
        raise AttributeError(f"module 'prunekit.recipe' has no attribute {name!r}")
    from prunekit.recipe.recipe import Recipe

    return Recipe
