"""Cut a model while it is trained; tensors of its shape (optimizer moments, an averaged copy) are cut by the same indices."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from prunekit.arch.view import ModelView
from prunekit.plan import Plan
from prunekit.stats.blocks import ROLES, Role, Site
from prunekit.training.optimizer import cut_states, replace_parameters
from prunekit.transforms.cut import cut
from prunekit.transforms.head_bias import narrow_table
from prunekit.transforms.layers import DropLayers
from prunekit.validation.indices import Indices

_NAMES: dict[Role, str] = {"heads": "head", "ffn": "FFN neuron"}


class Live:
    """A model in training and the plan that it has been cut to.

    Parameters
    ----------
    model : nn.Module
        Dense; from now on changed in place.
    average : nn.Module, optional
        A copy of it with other weights, an `AveragedModel` for example, which is cut as it is.

    Attributes
    ----------
    model : nn.Module
    plan : Plan
        In the dense model's numbering.
    """

    def __init__(self, model: nn.Module, average: nn.Module | None = None) -> None:
        self.model = model
        self.plan = Plan(source=ModelView.of(model).source)
        self._average = average.module if isinstance(average, AveragedModel) else average

    @property
    def view(self) -> ModelView:
        """The model as it is; its `source` counts the blocks that are left."""
        return ModelView.of(self.model)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The dense model's numbers of the blocks that are left."""
        return self.plan.kept_layers

    def kept(self, site: Site) -> Indices:
        """Return the dense model's numbers of the units of a site."""
        return kept_units(self.plan, self.blocks[site.block], site.role)

    def reaches(self, plan: Plan) -> bool:
        """Return whether the model can be cut down to a plan."""
        return plan.source == self.plan.source and all(
            block in self.blocks and set(kept_units(plan, block, role)) <= set(kept_units(self.plan, block, role))
            for block in plan.kept_layers
            for role in ROLES
        )

    def fits(self, state: Mapping[str, Any], prefix: str) -> bool:
        """Return whether a state that names no plan is one of the model as it is; of a dense model torch says so itself."""
        if self.plan == Plan(source=self.plan.source):
            return True
        ours = {f"{prefix}{name}": tensor.shape for name, tensor in self.model.state_dict().items()}
        return all(ours.get(name) == tensor.shape for name, tensor in state.items() if name.startswith(prefix))

    def move(self, plan: Plan, optimizer: Optimizer | None = None) -> None:
        """Cut down to a plan that keeps no more than the present one.

        Parameters
        ----------
        plan : Plan
            Of layers, heads and FFN neurons, in the dense model's numbering.
        optimizer : Optimizer, optional
            Its state is cut by the same indices, and its parameter groups name the new parameters.

        Raises
        ------
        UnsupportedError
            If the optimizer keeps state that does not have its parameter's shape.
        """
        # Blocks first: their modules remain, under other names; then units, whose modules keep their names.
        depth = Plan(
            source=plan.source, layers=plan.layers, heads=_in_kept_layers(self.plan.heads, plan), ffn=_in_kept_layers(self.plan.ffn, plan)
        )
        for after in (depth, plan):
            names = self._names(after)
            states = {}
            if optimizer is not None and after != self.plan:
                states = cut_states(optimizer, self.model, names, partial(narrow, before=self.plan, after=after))
            for root in (self.model, self._average):
                if root is not None:
                    narrow(root, self.plan, after)
            if optimizer is not None:
                replace_parameters(optimizer, names, dict(self.model.named_parameters()), states)
            self.plan = after

    def _names(self, after: Plan) -> dict[int, str]:
        """Return the name of each parameter after a cut, by its id; "" where its block is removed."""
        view = self.view
        start = f"{view.prefix}{view.spec.blocks}."
        places = {block: place for place, block in enumerate(after.kept_layers)}
        names = {}
        for name, parameter in self.model.named_parameters():
            number, _, rest = name.removeprefix(start).partition(".")
            if name.startswith(start) and not view.spec.shared_blocks:
                place = places.get(self.blocks[int(number)])
                name = "" if place is None else f"{start}{place}.{rest}"
            names[id(parameter)] = name
        return names

    def load(self, solved: nn.Module) -> None:
        """Load the weights of a model of the same shape; the averaged copy changes by the same amount."""
        theirs = dict(solved.named_parameters())
        average = {} if self._average is None else dict(self._average.named_parameters())
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if theirs[name].shape != parameter.shape:
                    # A table with a column for each head is narrower here; no refit changes it.
                    continue
                change = theirs[name].to(parameter) - parameter
                parameter.add_(change)
                if name in average:
                    average[name].add_(change.to(average[name]))


def _in_kept_layers(kept: dict[int, Indices], plan: Plan) -> dict[int, Indices]:
    return {block: units for block, units in kept.items() if block in plan.kept_layers}


def kept_units(plan: Plan, block: int, role: str) -> Indices:
    """Return the units that a plan keeps of a sub-block, in the dense model's numbering."""
    named: dict[int, Indices] = getattr(plan, role)
    return named.get(block, tuple(range(getattr(plan.source, role))))


def lost_units(before: Plan, after: Plan) -> str:
    """Describe what blocks lose from one plan to the next."""
    losses = []
    for block in after.kept_layers:
        numbers = {role: len(kept_units(before, block, role)) - len(kept_units(after, block, role)) for role in ROLES}
        parts = [f"{number} {name}{'' if number == 1 else 's'}" for role, name in _NAMES.items() if (number := numbers[role])]
        if parts:
            losses.append(f"block {block} lost {' and '.join(parts)}")
    return ", ".join(losses) or "nothing was lost"


def narrow(root: nn.Module, before: Plan, after: Plan) -> None:
    """Cut a model from the plan `before` to the plan `after`, in place; both are in the dense model's numbering."""
    blocks = before.kept_layers
    if after.kept_layers != blocks:
        view = ModelView.of(root)
        drop = Plan(source=view.source, layers=tuple(blocks.index(block) for block in after.kept_layers))
        DropLayers()(view, drop)
    view = ModelView.of(root)
    for place in range(1 if view.spec.shared_blocks else view.num_layers):
        for role in ROLES:
            before_units, after_units = (kept_units(plan, after.kept_layers[place], role) for plan in (before, after))
            if after_units != before_units:
                cut(view, Site(place, role), [before_units.index(unit) for unit in after_units], len(before_units))
    narrow_table(view)


def rewrap(wrapped: DistributedDataParallel) -> None:
    """Reinitialise a data-parallel wrapper with its module's present parameters; rank 0's values are sent to all ranks."""
    kept: dict[str, Any] = {name: getattr(wrapped, name) for name in ("device_ids", "output_device", "dim", "broadcast_buffers")}
    kept |= {
        name: getattr(wrapped, name) for name in ("process_group", "find_unused_parameters", "gradient_as_bucket_view", "static_graph")
    }
    # The training loop keeps a reference to this object, so it is initialised again and not replaced.
    type(wrapped).__init__(wrapped, wrapped.module, **kept)
