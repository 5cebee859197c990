"""Base class of transforms: changes of a live model, with preconditions and postconditions."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn

from prunekit.arch.view import ModelView
from prunekit.plan import Plan
from prunekit.validation.contract import Contract


class Transform(Contract[[ModelView, Plan], nn.Module]):
    """Change of one kind of unit of a model, in place, by a plan.

    `requires` checks the plan against the dense model and raises for what it does not allow; `call` changes the model of the
    view; `ensures` asserts the postconditions.
    """

    @abstractmethod
    def concerns(self, plan: Plan) -> bool:
        """Return whether the plan changes this kind of unit at all."""

    @abstractmethod
    def requires(self, view: ModelView, plan: Plan) -> None:
        """Raise PlanError or UnsupportedError if the plan cannot be carried out on this model."""

    @abstractmethod
    def call(self, view: ModelView, plan: Plan) -> nn.Module:
        """Change the model; return it, or its replacement."""

    @abstractmethod
    def ensures(self, result: nn.Module, view: ModelView, plan: Plan) -> None:
        """Assert the postconditions of the changed model."""
