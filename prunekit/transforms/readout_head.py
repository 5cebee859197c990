"""Linear classifier on selected neurons of selected layers, which replaces the model's own head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

from prunekit.arch import SPECS
from prunekit.arch.head import MANY_LABELS
from prunekit.arch.view import ModelView, Reader, pool_states, run_body
from prunekit.errors import PlanError
from prunekit.plan import Plan, slim_layer
from prunekit.transforms.base import Transform


@final
class ReadoutModel(Reader):
    """(Truncated) encoder with one linear layer on the neurons that a plan keeps.

    Parameters
    ----------
    body : PreTrainedModel
        Base model, without a head; its last hidden state is the highest layer read, or higher.
    neurons : mapping
        {layer of `body`: dimensions read}, layer 0 being the embedding output.
    pooling : {"cls", "mean", "last", "token"}
        Pooling of the tokens of a row to one vector; "token" keeps all of them.
    outputs : int
        Classes, or 1 for a regression.

    Attributes
    ----------
    readout : nn.Linear
        (neurons, outputs); its inputs are in (layer, dimension) order.
    config : PretrainedConfig
        That of the body.
    """

    def __init__(self, body: nn.Module, neurons: Mapping[int, Sequence[int]], pooling: str, outputs: int) -> None:
        super().__init__()
        view = ModelView.of(body)
        self.body, self.config, self.pooling = body, view.config, pooling
        self.spec, self.inputs = SPECS[view.config.model_type], view.inputs
        self.layers = tuple(layer for layer in sorted(neurons) if neurons[layer])
        for layer in self.layers:
            self.register_buffer(f"dims_{layer}", torch.tensor(neurons[layer], dtype=torch.int64), persistent=False)
        size = sum(len(neurons[layer]) for layer in self.layers)
        weight = next(body.parameters())
        self.readout = nn.Linear(size, outputs, device=weight.device, dtype=weight.dtype)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    @property
    def per_token(self) -> bool:
        """Whether there is one output per token rather than one per row."""
        return self.pooling == "token"

    @property
    def averaged(self) -> int:
        """Number of layers whose states are averaged over the tokens."""
        return len(self.layers) if self.pooling == "mean" else 0

    def features(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return the neurons read, (batch, neurons), or (batch, length, neurons) for tokens."""
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        tensors = {name: tensor for name in self.inputs if (tensor := arguments[name]) is not None}
        # The last hidden state is available without collecting the others; a body without blocks has no other.
        top = len(self._blocks())
        states = run_body(self.body, self.spec, tensors, states=self.layers != (top,))
        neurons = []
        for layer in self.layers:
            pooled = pool_states(states[min(layer, len(states) - 1)], attention_mask, self.pooling, self.spec)
            neurons.append(pooled.index_select(-1, self.get_buffer(f"dims_{layer}")))
        return torch.cat(neurons, dim=-1)

    def _blocks(self) -> range:
        return range(self.config.num_hidden_layers)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> SequenceClassifierOutput | TokenClassifierOutput | tuple[Tensor, ...]:
        """Return the logits, and the loss if labels are given.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids : Tensor
            (batch, length), int64; 1 marks real tokens.
        labels : Tensor
            (batch,) or (batch, length) class ids, -100 for tokens without one; floats for a regression; (batch, outputs) 0 or 1 where
            the config's `problem_type` is "multi_label_classification".
        return_dict : bool
            False for a tuple, for tracing.

        Returns
        -------
        SequenceClassifierOutput or TokenClassifierOutput
            `logits` is (batch, outputs) or (batch, length, outputs).
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = self.readout(self.features(input_ids, mask, token_type_ids))
        loss = None
        if labels is not None:
            if getattr(self.config, "problem_type", None) == MANY_LABELS:
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
            elif self.readout.out_features == 1:
                loss = nn.functional.mse_loss(logits.flatten(), labels.flatten().to(logits.dtype))
            else:
                loss = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        if not return_dict:
            return (logits,) if loss is None else (loss, logits)
        output = TokenClassifierOutput if self.per_token else SequenceClassifierOutput
        return output(loss=loss, logits=logits)


def set_readout(model: nn.Module, weight: npt.NDArray[np.floating[Any]] | Tensor, bias: npt.NDArray[np.floating[Any]] | Tensor) -> None:
    """Set the weights of the classifier of a `ReadoutModel`.

    Parameters
    ----------
    model : ReadoutModel
    weight : array
        (outputs, neurons), columns in (layer, dimension) order.
    bias : array
        (outputs,).

    Raises
    ------
    PlanError
        If the model has no readout, or the shapes do not fit it.
    """
    if not isinstance(model, ReadoutModel):
        raise PlanError(f"{type(model).__name__} has no readout; apply a plan with one first.")
    for name, value in (("weight", weight), ("bias", bias)):
        parameter = getattr(model.readout, name)
        new = torch.as_tensor(value)
        if new.shape != parameter.shape:
            raise PlanError(f"The readout's {name} has shape {tuple(parameter.shape)}. Got {tuple(new.shape)} instead.")
        with torch.no_grad():
            parameter.copy_(new)


@final
class Readout(Transform):
    """Replacement of the head by `plan.readout`; `DropLayers` removes the blocks above it."""

    def concerns(self, plan: Plan) -> bool:
        """Return whether there is a readout."""
        return plan.readout is not None

    def requires(self, view: ModelView, plan: Plan) -> None:
        """Check that every layer and every dimension read exist."""
        assert plan.readout is not None
        if isinstance(view.model, Reader):
            raise PlanError("The model has a readout already; compose the plans and apply them to the dense model.")
        hidden = None if plan.hidden is None else set(plan.hidden)
        for layer, dims in plan.readout.neurons.items():
            slim_layer(plan, layer if dims else 0)
            missing = [] if hidden is None else [dim for dim in dims if dim not in hidden]
            if missing:
                raise PlanError(f"The readout reads dimension {missing[0]} of layer {layer}, which the plan's 'hidden' drops.")

    def call(self, view: ModelView, plan: Plan) -> nn.Module:
        """Return a `ReadoutModel` around the body, with a zero classifier."""
        assert plan.readout is not None
        if view.spec.pooler:
            setattr(view.body, view.spec.pooler, None)
        position = {dim: position for position, dim in enumerate(plan.hidden or range(plan.source.hidden))}
        neurons = {slim_layer(plan, layer): [position[dim] for dim in dims] for layer, dims in plan.readout.neurons.items() if dims}
        return ReadoutModel(view.body, neurons, plan.readout.pooling, view.config.num_labels)

    def ensures(self, model: nn.Module, view: ModelView, plan: Plan) -> None:
        """Check that the classifier reads as many neurons as planned."""
        assert plan.readout is not None
        assert isinstance(model, ReadoutModel)
        assert model.readout.in_features == plan.readout.size
