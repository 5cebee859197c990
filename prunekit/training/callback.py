"""`PruneCallback`: shrinks the model of a user's own Trainer step by step while it is trained."""

from __future__ import annotations

import copy
import json
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.utils import logging

from prunekit.arch.count import count
from prunekit.arch.view import DENSE, ModelView
from prunekit.budget import Budget, Unit, parse_budgets
from prunekit.errors import ParameterError
from prunekit.exporters.checkpoint import save_checkpoint
from prunekit.plan import Plan
from prunekit.pruning.iterative import IterativePruner, Origin, plan_of
from prunekit.pruning.shrink import goal_of
from prunekit.stats.sensitivity import NEEDED, check_batches
from prunekit.training.calibration import draw, rows_of
from prunekit.training.freeze import freeze_blocks
from prunekit.training.live import Live, kept_units, lost_units, narrow, rewrap
from prunekit.training.masks import Masks
from prunekit.training.optimizer import CUT, held_by, is_factored
from prunekit.training.schedule import Curve, Schedule, check_judged, shortfall
from prunekit.training.unmet import rank, refuse
from prunekit.transforms.layers import configs
from prunekit.transforms.units import record
from prunekit.validation.arguments import Place, Seed, Within, checked
from prunekit.validation.indices import parse_freeze, parse_indices
from prunekit.validation.limits import CUTS, ROWS

#: Name of the buffer that stores the plan in a checkpoint; it is removed from the model at the end of training.
_BUFFER = "prunekit_plan"
logger = logging.get_logger(__name__)
_OF = "PruneCallback"
_CHECKPOINT = "a checkpoint that keeps no more than the model (model, callback and Trainer are made anew to go back to an earlier one)"


class PruneCallback(TrainerCallback):
    """Removes heads and FFN neurons physically while a Trainer trains the model, until the budget is kept.

    At each cut the units of least removal cost in the present model are removed, and those that are kept are refitted
    (`IterativePruner.trim`); by default a cut costs about ten steps of training on a CPU. Optimizer state and an averaged copy are cut
    by the same indices; the scheduler continues.
    Give it to the Trainer as ``callbacks=[callback]``, so that a checkpoint can be resumed.

    Parameters
    ----------
    keep : str or sequence of str, optional
        Shares of params or macs that are left at the end, such as ``"40% params"``.
    schedule : {"cubic", "linear"}
        How the share falls from 1 to its end (cubic: Zhu & Gupta 2017, quickly at first).
    start, end : float
        Shares of the training, 0 <= start < end <= 1, between which units are removed.
    steps : int
        Number of cuts.
    recover : bool
        Whether the retained weights are refitted at each cut.
    masks : bool
        Mask units at first, and slice them all at `end`; nothing is refitted before that.
    layers : str, optional
        Blocks kept, ``"0-3"``: the others are removed before training begins (Sajjad et al. 2023).
    ffn_blocks : str, optional
        Blocks that keep their FFN, ``"0,2"``: that of the others is removed before training begins (Sridhar & Sarah 2020).
    freeze : str, optional
        ``"layers:0-3"``: blocks that are not trained, and the embeddings with the lowest one (Merchant et al. 2020).
    average : nn.Module, optional
        A copy of the model that follows it, an `AveragedModel` for example.
    calibration : sequence of dict, optional
        Tokenised rows; default: `rows` rows of the Trainer's train data set.
    rows : int, optional
        Number of calibration rows; default: as many as 6 steps of training take on one device, at least 64.
    seed : int
        Of the random draws.

    Attributes
    ----------
    plan : Plan
        What is kept of the initial model.
    history : list of dict
        {"step", "kept"} of every cut: the Trainer's step, and the share of the layers' parameters that is left.

    Raises
    ------
    ParameterError
        A budget of something else, bounds that contradict each other, nothing to do; evaluations that end before the last cut.
    BudgetError
        At the end of a training that was stopped too early; the model is kept, and is in `unmet` in the Trainer's output directory.
    """

    @checked(_OF)
    def __init__(
        self,
        keep: str | Sequence[str] | None = None,
        *,
        schedule: Curve = "cubic",
        start: float = 0.1,
        end: float = 0.7,
        steps: Annotated[int, Within(1, CUTS)] = 4,
        recover: bool = True,
        masks: bool = False,
        layers: str | None = None,
        ffn_blocks: str | None = None,
        freeze: str | None = None,
        average: nn.Module | None = None,
        calibration: Sequence[Mapping[str, Any]] | None = None,
        rows: Annotated[int, Within(1, ROWS)] | None = None,
        seed: Seed = 0,
    ) -> None:
        self._budgets = () if keep is None else parse_budgets(keep, of=_OF)
        for budget in self._budgets:
            if budget.unit not in (Unit.PARAMS, Unit.MACS):
                raise ParameterError("keep", _OF, "shares of params or macs", str(budget))
        if not self._budgets and layers is None and ffn_blocks is None and freeze is None:
            raise ParameterError("keep", _OF, "given where no layers, ffn_blocks or freeze are", keep)
        if calibration is not None and not all(isinstance(batch.get(name), Tensor) for batch in calibration for name in NEEDED):
            raise ParameterError("calibration", _OF, f"batches with the tensors {' and '.join(NEEDED)}", "one without")
        self._schedule = Schedule(schedule, start, end, steps)
        self._schedule.check(_OF)
        if freeze is not None:
            parse_freeze(freeze, of=_OF)
        self._recover, self._use_masks, self._seed, self._rows = recover, masks, seed, rows
        self._layers, self._ffn = _blocks("layers", layers), _blocks("ffn_blocks", ffn_blocks)
        self._freeze, self._average, self._calibration = freeze, average, calibration
        self._live: Live | None = None
        self._masks: Masks | None = None
        self._wrapped: DistributedDataParallel | None = None
        self._target: Plan | None = None
        self.history: list[dict[str, float]] = []

    @property
    def plan(self) -> Plan:
        """Plan of what is kept, without masked units; raises ParameterError before a Trainer has been made."""
        return self._state()[1]

    def _state(self) -> tuple[Live, Plan]:
        if self._live is None or self._target is None:
            raise ParameterError(
                "callbacks", "Trainer", "given the callback when it is made (callbacks=[callback])", "a callback added later"
            )
        return self._live, self._target

    # --- before training

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any) -> None:
        """Drop blocks and FFNs, freeze, and register the hooks that read a checkpoint."""
        _refuse_shards(args)
        view = ModelView.of(model)
        self._dense = ModelView.of(copy.deepcopy(model).to("meta"))
        self._config = _plain(view.config, type(model).__name__)
        self._live = Live(model, self._average)
        self._target = self._initial_plan(view)
        # The user's own optimizer; one that the Trainer makes is created later, from the parameters at that time.
        self._own_optimizer = optimizer
        self._live.move(self._target, optimizer)
        self._held_names = {
            name for name, parameter in model.named_parameters() if optimizer is not None and id(parameter) in held_by(optimizer)
        }
        self._replaced: list[nn.Parameter] = []
        if self._freeze is not None:
            freeze_blocks(self._live.view, self._freeze, self._live.blocks, of=_OF)
        self._arm(model)

    def _arm(self, model: Any) -> None:
        """Put the plan into the model's state, and register the hooks that read a checkpoint."""
        self._write_plan()
        self._hooks = [
            model.register_load_state_dict_pre_hook(_reader(self)),
            model.register_forward_pre_hook(_wrapper_finder(self)),
        ]

    def _initial_plan(self, view: ModelView) -> Plan:
        source = view.source
        for name, blocks in (("layers", self._layers), ("ffn_blocks", self._ffn)):
            if blocks is not None and blocks[-1] >= source.layers:
                raise ParameterError(name, _OF, f"of the model's blocks 0-{source.layers - 1}", ",".join(map(str, blocks)))
        layers = tuple(range(source.layers)) if self._layers is None else self._layers
        lost = () if self._ffn is None else tuple(block for block in layers if block not in self._ffn)
        if self._ffn is not None and (dropped := [block for block in self._ffn if block not in layers]):
            raise ParameterError("ffn_blocks", _OF, "among the layers that are kept", f"{dropped[0]}, which 'layers' drops")
        if lost:
            view.check("ffn")
        return Plan(source=source, layers=self._layers, ffn={block: () for block in lost})

    # --- while training

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, train_dataloader: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """Fix the steps of the cuts, and draw the calibration rows; refuse an optimizer whose state cannot be cut."""
        (live, _target), inner = self._state(), getattr(optimizer, "optimizer", optimizer)
        if model is not None and model is not live.model:
            must = "left out with a PruneCallback, which cuts the model that the Trainer was made with: give that one as model="
            raise ParameterError("model_init", "Trainer", must, "a model that train() makes anew")
        if _BUFFER not in live.model._buffers:
            # A second training: the first one left a plain slim model.
            for config in configs(live.model):
                vars(config).pop(DENSE, None)
            self._arm(live.model)
        self._check_held(live.model, inner)
        if not self._budgets:
            return
        if is_factored(inner):
            must = f"one whose state has its parameters' shapes ({CUT}) with a PruneCallback"
            raise ParameterError("optim", "TrainingArguments", must, type(inner).__name__)
        self._due = self._schedule.due(state.max_steps)
        check_judged(args, state, max(self._due))
        names = live.view.inputs
        batches = self._calibration or draw(train_dataloader, self._rows or rows_of(args), self._seed, of=_OF)
        check_batches(self._dense, batches)
        self._batches = [{name: batch[name].cpu() for name in names if name in batch} for batch in batches]
        self._lengths = torch.cat([batch["attention_mask"].sum(1) for batch in self._batches]).numpy()
        self._dense_count = count(self._dense, self._lengths)

    def _check_held(self, model: nn.Module, optimizer: Any) -> None:
        """Refuse an optimizer that would train parameters that a checkpoint has replaced, or no longer train those that it did."""
        held = held_by(optimizer)
        lost = [name for name, parameter in model.named_parameters() if name in self._held_names and id(parameter) not in held]
        if lost or any(id(parameter) in held for parameter in self._replaced):
            must = "one that the Trainer makes, or that is given to it (optimizers=(optimizer, None)), for a run that is resumed"
            raise ParameterError("optimizers", "Trainer", must, f"one without {lost[0] if lost else 'the parameters of the checkpoint'}")
        self._replaced.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Remove units if a cut is due, and write what is left to the Trainer's log."""
        if not self._budgets or state.global_step not in self._due:
            return
        start, (live, before) = time.perf_counter(), self._state()
        sliced = live.plan
        self._shrink(self._due[state.global_step], getattr(optimizer, "optimizer", optimizer), state.global_step)
        if (self._target, live.plan) != (before, sliced):
            # Checkpoints of a larger model do not compete with those of this one: the best is one that keeps the budget.
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        metrics = {
            "prune/kept": self.history[-1]["kept"],
            "prune/parameters": sum(parameter.numel() for parameter in live.model.parameters()),
            "prune/seconds": time.perf_counter() - start,
        }
        text = "PruneCallback, step %d: %s; %.1f%% of the layers' parameters left."
        logger.info(text, state.global_step, lost_units(before, self.plan), 100 * metrics["prune/kept"])
        trainer = _trainer()
        if trainer is None:
            state.log_history.append({**metrics, "step": state.global_step})
            return
        # The Trainer takes every entry of its log for the one that was due.
        due = control.should_log
        trainer.log(metrics)
        control.should_log = due

    def _shrink(self, step: int, optimizer: Any, now: int) -> None:
        live, _target = self._state()
        goals = self._schedule.budgets(self._budgets, step)
        chosen: list[Any] = [None]
        slim = None
        if rank() == 0:
            slim, plan = self._choose(goals, step)
            chosen = [plan.to_json()]
        if torch.distributed.is_initialized():
            # Rank 0 decides what is kept; the weights are sent when the wrapper is initialised again.
            torch.distributed.broadcast_object_list(chosen, src=0)
        plan = Plan.from_json(chosen[0])
        last = step == self._schedule.steps
        self._mask(None)
        if self._use_masks and not last:
            self._mask(plan)
        elif plan != live.plan:
            live.move(plan, optimizer)
            if slim is not None and self._recover:
                live.load(slim.model)
        self._target = plan
        self._write_plan()
        if self._wrapped is not None:
            rewrap(self._wrapped)
        cut = copy.deepcopy(self._dense.model)
        narrow(cut, Plan(source=plan.source), plan)
        self.history.append({"step": now, "kept": count(cut, self._lengths).params_layers / self._dense_count.params_layers})

    def _choose(self, goals: Sequence[Budget], step: int) -> tuple[ModelView, Plan]:
        """Return a model that meets the goals, with refitted weights if `recover` is set, and the plan of what it keeps."""
        live, target = self._state()
        copied = _clean(live.model)
        narrow(copied, live.plan, target)
        blocks = target.kept_layers
        work = IterativePruner(
            copied,
            self._batches,
            origin=Origin(self._lengths, self._dense_count, lambda site: kept_units(target, blocks[site.block], site.role)),
            seed=self._seed + step,
        )
        wanted = [goal_of(goal, work.start, work.lengths) for goal in goals]
        work.check_reach(wanted)
        if not all(goal.met(work.view) for goal in wanted):
            work.trim(wanted, recover=self._recover)
        named = plan_of(work.dense, work.kept)
        parts = {role: {blocks[place]: chosen for place, chosen in getattr(named, role).items()} for role in ("heads", "ffn")}
        # A sub-block that is removed has no site.
        removed = {role: {block: () for block, chosen in getattr(target, role).items() if not chosen} for role in ("heads", "ffn")}
        plan = Plan(
            source=target.source, layers=target.layers, heads={**removed["heads"], **parts["heads"]}, ffn={**removed["ffn"], **parts["ffn"]}
        )
        return work.view, plan

    def _mask(self, plan: Plan | None) -> None:
        if self._masks is not None:
            self._masks.remove()
            self._masks = None
        if plan is not None:
            live, _ = self._state()
            self._masks = Masks(live.view, live.blocks, live.plan, plan)

    def on_train_end(self, args: Any, state: Any, control: Any, processing_class: Any = None, **_: Any) -> None:
        """Leave the model as a plain slim one; write it, and raise BudgetError, where training was stopped too early."""
        live, target = self._state()
        if self._masks is not None:
            # Training ended before the last cut.
            self._mask(None)
            live.move(target)
        live.model._buffers.pop(_BUFFER, None)
        for hook in self._hooks:
            hook.remove()
        record(live.view, DENSE, self._config)
        if not self._budgets:
            return
        kept = count(live.view, self._lengths).params_layers / self._dense_count.params_layers
        reason = shortfall(
            args, state, max(self._due), f"{kept:.1%} of the params left; {' and '.join(map(str, self._budgets))} was asked for"
        )
        if reason:
            tokenizer = processing_class if isinstance(processing_class, PreTrainedTokenizerBase) else None
            refuse(reason, Path(args.output_dir), lambda place: self.save(place, tokenizer))

    @checked("PruneCallback.save")
    def save(self, directory: Place, tokenizer: Any | None = None) -> Path:
        """Write the slim model so that `prunekit.load` reads it.

        Parameters
        ----------
        directory : path
        tokenizer : PreTrainedTokenizer, optional

        Returns
        -------
        Path
            The weights.
        """
        live, _ = self._state()
        return save_checkpoint(live.model, tokenizer, live.plan, directory)

    # --- checkpoints

    def _write_plan(self) -> None:
        """Store the plan in a buffer, so that a checkpoint holds it in one file with the weights that it describes."""
        live, target = self._state()
        text = json.dumps({"sliced": json.loads(live.plan.to_json()), "kept": json.loads(target.to_json())}, sort_keys=True)
        device = next(live.model.parameters()).device
        live.model.register_buffer(_BUFFER, torch.tensor(list(text.encode()), dtype=torch.uint8, device=device))

    def _resume(self, model: nn.Module, state: Mapping[str, Any], prefix: str) -> None:
        live, _target = self._state()
        if model is not live.model:
            return
        if f"{prefix}{_BUFFER}" not in state:
            if not live.fits(state, prefix):
                raise ParameterError("resume_from_checkpoint", "Trainer.train", _CHECKPOINT, "one of another shape")
            return
        plans = json.loads(bytes(state[f"{prefix}{_BUFFER}"].tolist()))
        sliced, kept = (Plan.from_json(json.dumps(plans[name])) for name in ("sliced", "kept"))
        if not live.reaches(sliced):
            raise ParameterError("resume_from_checkpoint", "Trainer.train", _CHECKPOINT, "one that keeps more")
        before = list(model.parameters())
        live.move(sliced, self._own_optimizer)
        self._replaced = [parameter for parameter in before if id(parameter) not in set(map(id, model.parameters()))]
        self._target = kept
        self._mask(kept if kept != sliced else None)
        self._write_plan()


def _trainer() -> Trainer | None:
    """Return the running Trainer: callbacks do not receive it, and reporters (TensorBoard, W&B, MLflow) read its log."""
    callers = (frame.f_locals.get("self") for frame, _ in traceback.walk_stack(None))
    return next((caller for caller in callers if isinstance(caller, Trainer)), None)


def _reader(callback: PruneCallback) -> Any:
    # A function rather than a method, so that copies of the model do not copy the callback.
    def read(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
        callback._resume(module, state, prefix)

    return read


def _wrapper_finder(callback: PruneCallback) -> Any:
    def find_wrapper(module: nn.Module, _: Any) -> None:
        # The Trainer passes only the unwrapped model to its callbacks.
        callback._wrapped = DistributedDataParallel._active_ddp_module or callback._wrapped

    return find_wrapper


def _blocks(name: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        blocks = parse_indices(text)
    except ValueError:
        blocks = ()
    if not blocks or sorted(set(blocks)) != list(blocks):
        raise ParameterError(name, _OF, "blocks, increasing, such as '0-3' or '0,2,4'", text)
    return blocks


def _refuse_shards(args: Any) -> None:
    """Refuse sharded training, which keeps parameters in flat buffers of its own that cannot be cut."""
    for name, setting in (("deepspeed", args.deepspeed), ("fsdp", args.fsdp)):
        if setting or os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() in ("1", "true"):
            raise ParameterError(name, "TrainingArguments", "left out with a PruneCallback, which cannot cut sharded parameters", setting)


def _plain(config: Any, architecture: str) -> dict[str, Any]:
    """Return a config as plain values, which any checkpoint can hold."""
    fields: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=lambda value: str(value).removeprefix("torch.")))
    return {**fields, "architectures": config.architectures or [architecture]}


def _clean(model: nn.Module) -> nn.Module:
    """Return a copy for analysis: on the CPU, in single precision, without dropout, autocast, masks, or frozen parameters."""
    copied = copy.deepcopy(model).cpu().float().eval()
    for name in ("forward", "_original_forward"):
        # Accelerate wraps the forward pass of what it trains.
        vars(copied).pop(name, None)
    for module in copied.modules():
        module._forward_pre_hooks.clear()
    return copied.requires_grad_(True)
