"""What a transform is: a pass over a live model, declared by what it needs and what holds afterwards."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn

from prunekit.arch.view import ModelView
from prunekit.plan import Plan
from prunekit.validation.contract import Contract


class Transform(Contract[[ModelView, Plan], nn.Module]):
    """Changes one kind of unit of a model, in place, as a plan says.

    `requires` sees the dense model and raises for what the plan may not ask of it; `call` changes the model that the
    view holds; `ensures` asserts what the caller may rely on.
    """

    @abstractmethod
    def concerns(self, plan: Plan) -> bool:
        """Whether the plan names this kind of unit at all."""

    @abstractmethod
    def requires(self, view: ModelView, plan: Plan) -> None:
        """Raise PlanError or UnsupportedError if the plan cannot be carried out on this model."""

    @abstractmethod
    def call(self, view: ModelView, plan: Plan) -> nn.Module:
        """Change the model; return it, or what takes its place."""

    @abstractmethod
    def ensures(self, result: nn.Module, view: ModelView, plan: Plan) -> None:
        """Assert what holds of the changed model."""
