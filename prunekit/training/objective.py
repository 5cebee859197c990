"""What a slim model learns: the loss on a batch, from the teacher's outputs and hidden states, and from the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, mse_loss

from prunekit.tasks import Task
from prunekit.training.matching import StateMoments, distance, vector_distance
from prunekit.training.teacher import Answer, Outputs, Teacher

_TEMPERATURE = 2.0
_HIDDEN, _LABELS = 1.0, 0.25
#: Class, or label of each class, of a row that has a teacher's answer alone.
UNKNOWN = -1


@dataclass(eq=False)
class Objective:
    """Objective of the training.

    Attributes
    ----------
    task : Task or None
        Task whose labels are learned.
    teacher : Teacher or None
    layers : tuple of int
        For each block of the slim model, the block of the teacher whose output it learns; changed if `dynamic`.
    dims : Tensor or None
        Hidden dimensions of the teacher that the slim model keeps.
    dynamic : bool
        Whether the layers are matched again at every stop.
    outputs : {"classes", "labels", "values", "vectors"}
        Meaning of the logits.
    own_space : bool
        Whether only the similarities between vectors are learned, and not the teacher's vectors.
    lists : bool
        Whether values are scores of lists by query, whose order is learned.
    unit : float
        Variance of the teacher's values, in which their squared differences count, so that the unit of the labels does not matter.
    """

    task: Task | None = None
    teacher: Teacher | None = None
    layers: tuple[int, ...] = ()
    dims: Tensor | None = None
    dynamic: bool = False
    outputs: Outputs = "classes"
    own_space: bool = False
    lists: bool = False
    unit: float = 1.0

    @property
    def metric(self) -> str:
        """Name of the validation score."""
        return "minus divergence" if self.task is None else self.task.metric.value

    def target(self, states: tuple[Tensor, ...], layer: int) -> Tensor:
        """Return the target of a layer of the slim model."""
        return self.across(states[self.layers[layer]])

    def across(self, state: Tensor) -> Tensor:
        """Return the dimensions that the slim model has too."""
        return state if self.dims is None else state.index_select(-1, self.dims.to(state.device))

    def apart(self, ours: Tensor, theirs: Tensor, queries: Tensor | None) -> Tensor:
        """Return how far the outputs are from the teacher's: a scalar."""
        if self.outputs == "vectors":
            return vector_distance(ours, theirs, own_space=self.own_space)
        if self.lists and queries is not None:
            return listwise(ours, theirs, queries)
        apart = divergence(ours, theirs, self.outputs)
        return apart / self.unit if self.outputs == "values" else apart

    def moments(self, theirs: Answer, mask: Tensor) -> tuple[StateMoments, ...]:
        """Return the moments of the target of each layer, none without hidden states."""
        layers = range(len(self.layers)) if theirs.states else ()
        return tuple(StateMoments.of_states(self.target(theirs.states, layer), mask) for layer in layers)

    def loss(
        self,
        ours: Answer,
        theirs: Answer | None,
        labels: Tensor,
        mask: Tensor,
        queries: Tensor | None = None,
        moments: Sequence[StateMoments] = (),
    ) -> Tensor:
        """Return a scalar: the divergence from the teacher, the distance of the hidden states, and the loss on the labels.

        With `moments`, of the targets in the whole batch, hidden states and `mask` are those of some of its rows, everything else of all.
        Labels that are `UNKNOWN` add nothing to the mean over all.
        """
        total = ours.logits.sum() * 0.0
        if theirs is not None:
            total = total + self.apart(ours.logits, theirs.logits, queries)
            if theirs.states and self.layers:
                pairs = [(state, self.target(theirs.states, layer)) for layer, state in enumerate(ours.states)]
                whole: Sequence[StateMoments | None] = moments or [None] * len(pairs)
                distances = [distance(state, target, mask, of) for (state, target), of in zip(pairs, whole, strict=True)]
                total = total + _HIDDEN * torch.stack(distances).mean()
        # Values need not be on the scale of the labels, as a reranker's scores are not: a teacher's own stand for them.
        if self.task is not None and not (theirs is not None and self.task.kind.traits.values):
            weight = _LABELS if theirs is not None else 1.0
            if self.task.many:
                # Summed over the labels, as the divergence is.
                losses = binary_cross_entropy_with_logits(ours.logits, labels.float(), weight=labels.ne(UNKNOWN).float(), reduction="none")
                total = total + weight * losses.sum(dim=1).mean()
            elif self.task.kind.traits.values:
                total = total + weight * mse_loss(ours.logits[:, 0], labels.float())
            else:
                total = total + weight * cross_entropy(ours.logits, labels, ignore_index=UNKNOWN, reduction="sum") / len(labels)
        return total


def divergence(ours: Tensor, theirs: Tensor, outputs: Outputs = "classes") -> Tensor:
    """Return how far logits (k, C) are from the teacher's: a scalar, the mean over k.

    T^2 KL at temperature T = 2 (Hinton et al. 2015) of the distribution over C classes; with C independent labels the sum of those of C
    yes-or-no distributions; of values the squared error.
    """
    if outputs == "values":
        return mse_loss(ours, theirs)
    if outputs == "labels":
        # The softmax of (x, 0) is (sigmoid(x), 1 - sigmoid(x)).
        ours, theirs = (torch.stack([logits, torch.zeros_like(logits)], dim=-1) for logits in (ours, theirs))
    soft = (theirs / _TEMPERATURE).log_softmax(-1)
    kl = kl_div((ours / _TEMPERATURE).log_softmax(-1), soft, reduction="batchmean", log_target=True)
    return _TEMPERATURE**2 * kl


def listwise(ours: Tensor, theirs: Tensor, queries: Tensor) -> Tensor:
    """Return how far scores (k, 1) are from the teacher's, as orders of lists: a scalar.

    The Kullback-Leibler divergence of the softmax over the rows of each query (ListNet, Cao et al. 2007), mean over the queries, and the
    squared difference in units of the teacher's variance, so that scores keep their level.

    Parameters
    ----------
    ours, theirs : Tensor
    queries : Tensor
        (k,) int64, the query of each row.
    """
    _, groups = torch.unique(queries, return_inverse=True)
    count = int(groups.max()) + 1

    def normalised(scores: Tensor) -> Tensor:
        top = torch.full((count,), -torch.inf).to(scores).scatter_reduce(0, groups, scores.detach(), "amax")
        shifted = scores - top[groups]
        return shifted - torch.zeros(count).to(scores).index_add(0, groups, shifted.exp()).log()[groups]

    log_targets, log_outputs = normalised(theirs[:, 0]), normalised(ours[:, 0])
    # A single score has no variance: it counts in units of the logits, as the divergence does.
    spread = (theirs - theirs.mean()).square().mean().clamp_min(1e-3) if len(theirs) > 1 else theirs.new_ones(())
    return (log_targets.exp() * (log_targets - log_outputs)).sum() / count + mse_loss(ours, theirs) / spread
