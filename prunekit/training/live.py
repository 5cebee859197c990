"""Cuts a model while it is being trained; what has its shape (optimizer moments, an averaged copy) follows by the same indices."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from prunekit.arch.view import ModelView, find
from prunekit.errors import UnsupportedError
from prunekit.plan import Plan
from prunekit.stats.blocks import ROLES, Role, Site
from prunekit.transforms.cut import cut
from prunekit.transforms.layers import DropLayers
from prunekit.validation.indices import Indices

_NAMES: dict[Role, str] = {"heads": "head", "ffn": "FFN neuron"}


class Live:
    """A model in training and the plan that it has been cut to.

    Parameters
    ----------
    model : nn.Module
        Whole; from now on changed in place.
    average : nn.Module, optional
        A copy of it with other weights, an `AveragedModel` for example, which is cut as it is.

    Attributes
    ----------
    model : nn.Module
    plan : Plan
        In the whole model's numbering.
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
        """The whole model's numbers of the blocks that are left."""
        return self.plan.kept_layers

    def kept(self, site: Site) -> Indices:
        """The whole model's numbers of the units that a site has."""
        return kept_units(self.plan, self.blocks[site.block], site.role)

    def move(self, plan: Plan, optimizer: Optimizer | None = None) -> None:
        """Cut down to a plan that keeps no more than the present one.

        Parameters
        ----------
        plan : Plan
            Of layers, heads and FFN neurons, in the whole model's numbering.
        optimizer : Optimizer, optional
            Its state is cut by the same indices, and its parameter groups name the new parameters.

        Raises
        ------
        UnsupportedError
            If the optimizer keeps state that does not have its parameter's shape.
        """
        # Blocks first: their modules stay, under other names; then units, whose modules keep their names.
        depth = Plan(source=plan.source, layers=plan.layers, heads=_of(self.plan.heads, plan), ffn=_of(self.plan.ffn, plan))
        for after in (depth, plan):
            states = {} if optimizer is None or after == self.plan else self._states(optimizer, after)
            names = self._names(after)
            for root in (self.model, self._average):
                if root is not None:
                    narrow(root, self.plan, after)
            if optimizer is not None:
                _rename(optimizer, names, dict(self.model.named_parameters()), states)
            self.plan = after

    def _names(self, after: Plan) -> dict[int, str]:
        """What each parameter will be called after a cut, by its id; "" where its block goes."""
        view = self.view
        start = f"{view.prefix}{view.spec.blocks}."
        places = {block: place for place, block in enumerate(after.kept_layers)}
        found = {}
        for name, parameter in self.model.named_parameters():
            number, _, rest = name.removeprefix(start).partition(".")
            if name.startswith(start) and not view.spec.shared_blocks:
                place = places.get(self.blocks[int(number)])
                name = "" if place is None else f"{start}{place}.{rest}"
            found[id(parameter)] = name
        return found

    def _states(self, optimizer: Optimizer, after: Plan) -> dict[str, dict[str, Tensor]]:
        """{kind of state: {parameter's name after the cut: its part that stays}}: a copy of the model that holds the state is cut."""
        found: dict[str, dict[str, Tensor]] = {}
        # One number for the whole parameter, such as AdamW's count of steps, stays as it is.
        kinds = {kind for state in optimizer.state.values() for kind, value in state.items() if isinstance(value, Tensor) and value.ndim}
        for kind in sorted(kinds):
            shadow = copy.deepcopy(self.model)
            names, held = self._names(after), set()
            for (name, ours), theirs in zip(self.model.named_parameters(), shadow.parameters(), strict=True):
                value = optimizer.state.get(ours, {}).get(kind)
                if not isinstance(value, Tensor) or (value.numel() == 1 and value.shape != ours.shape):
                    continue
                if value.shape != ours.shape:
                    must = "AdamW, Adam or SGD"
                    raise UnsupportedError(f"{type(optimizer).__name__} keeps {kind!r} in another shape than {name}'s; train with {must}.")
                theirs.data = value.to(theirs.dtype) if value.dtype != theirs.dtype else value.clone()
                held.add(names[id(ours)])
            if held:
                narrow(shadow, self.plan, after)
                found[kind] = {name: parameter.data for name, parameter in shadow.named_parameters() if name in held}
        return found

    def load(self, solved: nn.Module) -> None:
        """Take the weights of a model of the same shape; the averaged copy changes by as much."""
        theirs = dict(solved.named_parameters())
        average = {} if self._average is None else dict(self._average.named_parameters())
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                change = theirs[name].to(parameter) - parameter
                parameter.add_(change)
                if name in average:
                    average[name].add_(change.to(average[name]))


def _of(kept: dict[int, Indices], plan: Plan) -> dict[int, Indices]:
    return {block: units for block, units in kept.items() if block in plan.kept_layers}


def kept_units(plan: Plan, block: int, role: str) -> Indices:
    """The units that a plan keeps of a sub-block, in the whole model's numbering."""
    named: dict[int, Indices] = getattr(plan, role)
    return named.get(block, tuple(range(getattr(plan.source, role))))


def lost_units(before: Plan, after: Plan) -> str:
    """What blocks lose from one plan to the next, in words."""
    said = []
    for block in after.kept_layers:
        numbers = {role: len(kept_units(before, block, role)) - len(kept_units(after, block, role)) for role in ROLES}
        parts = [f"{number} {name}{'' if number == 1 else 's'}" for role, name in _NAMES.items() if (number := numbers[role])]
        if parts:
            said.append(f"block {block} lost {' and '.join(parts)}")
    return ", ".join(said) or "nothing was lost"


def narrow(root: nn.Module, before: Plan, after: Plan) -> None:
    """Cut a model, which is what `before` leaves, down to what `after` leaves, in place; both number as the whole model does."""
    blocks = before.kept_layers
    if after.kept_layers != blocks:
        view = ModelView.of(root)
        drop = Plan(source=view.source, layers=tuple(blocks.index(block) for block in after.kept_layers))
        transform = DropLayers()
        transform.requires(view, drop)
        transform(view, drop)
    view = ModelView.of(root)
    for place in range(1 if view.spec.shared_blocks else view.num_layers):
        for role in ROLES:
            had, has = (kept_units(plan, after.kept_layers[place], role) for plan in (before, after))
            if has != had:
                cut(view, Site(place, role), [had.index(unit) for unit in has], len(had))


def held_by(optimizer: Any) -> set[int]:
    """Ids of the parameters that an optimizer holds."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _rename(optimizer: Optimizer, names: dict[int, str], after: dict[str, nn.Parameter], states: dict[str, dict[str, Tensor]]) -> None:
    """Put the new parameters in the place of the old ones; those that are not the model's stay.

    Parameters
    ----------
    optimizer : Optimizer
    names : dict
        {id of a parameter of the model before the cut: its name after it}.
    after : dict
        The model's parameters by name.
    states : dict
        {kind of state: {name: what is left of it}}.
    """
    there = {id(parameter) for parameter in after.values()}
    for group in optimizer.param_groups:
        left = []
        for old in group["params"]:
            if id(old) in there or id(old) not in names:
                left.append(old)
                continue
            name, state = names[id(old)], optimizer.state.pop(old, None)
            if name not in after:
                continue
            left.append(after[name])
            if state is not None:
                optimizer.state[after[name]] = {**state, **{kind: parts[name] for kind, parts in states.items() if name in parts}}
        group["params"] = left


def rewrap(wrapped: DistributedDataParallel) -> None:
    """Make a data-parallel wrapper look at its module's parameters anew; rank 0's values go to all ranks."""
    kept: dict[str, Any] = {name: getattr(wrapped, name) for name in ("device_ids", "output_device", "dim", "broadcast_buffers")}
    kept |= {
        name: getattr(wrapped, name) for name in ("process_group", "find_unused_parameters", "gradient_as_bucket_view", "static_graph")
    }
    # The training loop holds on to this very object, so it is initialised again and not replaced.
    type(wrapped).__init__(wrapped, wrapped.module, **kept)


class Masks:
    """Silences units of a live model where they enter their output projections, as if they were cut.

    Raises
    ------
    UnsupportedError
        If the family's projections are no modules, so that nothing can be put before them.
    """

    def __init__(self, view: ModelView, blocks: Sequence[int], before: Plan, after: Plan) -> None:
        self._handles = []
        for place in range(1 if view.spec.shared_blocks else view.num_layers):
            for role in ROLES:
                site = Site(place, role)
                had, has = (kept_units(plan, blocks[place], role) for plan in (before, after))
                if has == had:
                    continue
                module = find(view.blocks[place], site.part(view).output)
                if not isinstance(module, nn.Module):
                    raise UnsupportedError(f"{view.source.model_type} model: {role} cannot be masked; slice at every step (masks=False).")
                self._handles.append(module.register_forward_pre_hook(_silencer([had.index(unit) for unit in has], len(had))))

    def remove(self) -> None:
        """Let all units speak again."""
        for handle in self._handles:
            handle.remove()


def _silencer(stay: Sequence[int], units: int) -> Any:
    mask = torch.zeros(units, 1)
    mask[list(stay)] = 1

    def silence(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        grouped = args[0].reshape(*args[0].shape[:-1], units, -1)
        return ((grouped * mask.to(grouped)).flatten(-2), *args[1:])

    return silence
