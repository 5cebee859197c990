"""Contracts of changes to a model or a graph: requires -> call -> ensures, checked at each call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, ParamSpec, TypeVar, final

P = ParamSpec("P")
R = TypeVar("R")


class Contract(ABC, Generic[P, R]):
    """A change in place: `requires` checks that it can be made, `call` makes it, `ensures` checks the result."""

    @abstractmethod
    def requires(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Raise where the change cannot be made; nothing is changed."""

    @abstractmethod
    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make the change."""

    @abstractmethod
    def ensures(self, result: R, *args: P.args, **kwargs: P.kwargs) -> None:
        """Raise where a postcondition does not hold; `result` is the return value of `call`."""

    @final
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Check, change and check again."""
        self.requires(*args, **kwargs)
        return self.carry_out(*args, **kwargs)

    @final
    def carry_out(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Change and check; for one of several changes whose requirements were all checked before the first."""
        result = self.call(*args, **kwargs)
        self.ensures(result, *args, **kwargs)
        return result
