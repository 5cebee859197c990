"""What a change of a model or of a graph declares: requires -> call -> ensures, checked each time that it is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, ParamSpec, TypeVar, final

P = ParamSpec("P")
R = TypeVar("R")


class Contract(ABC, Generic[P, R]):
    """A change in place: `requires` says whether it can be made, `call` makes it, `ensures` checks what holds afterwards."""

    @abstractmethod
    def requires(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Raise where the change cannot be made; nothing is changed."""

    @abstractmethod
    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make the change."""

    @abstractmethod
    def ensures(self, result: R, *args: P.args, **kwargs: P.kwargs) -> None:
        """Raise where what callers rely on does not hold; `result` is what `call` gave."""

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
