"""Sensitivity of the task to errors of the residual stream: gradients of the model's output, label-free.

The cost of a small change of the output is measured as the Kullback-Leibler divergence from the model's own
prediction, to second order ``g^T F g`` with the Fisher matrix F of the softened class probabilities. In the place of F a regression
has the identity, an encoder without a head and an embedder that averages tokens that of the tokens, and any other embedder that of
the vector. Where answers are spans, the cost is the sum of the divergences of the start and of the end, over positions. One
backward pass over each row gives an unbiased estimate for all sites.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor, nn

from prunekit.arch.config import positions_of
from prunekit.arch.view import Embedder, ModelView
from prunekit.data import parallel
from prunekit.errors import StatisticsError
from prunekit.stats.blocks import Batches, Recorded, Site, Tap, batch_first, sites, taps
from prunekit.stats.comoment import Comoment, ComomentSum, widened

#: Maximum number of padded tokens of one backward graph, which holds all activations of all layers (0.7 MB a token for BERT-base).
TOKENS = 1024
#: Optional key of a batch: the positions at which an answer may start or end, (batch, length), 1 or 0.
READ = "read_mask"
#: Softens the class probabilities, so that rows of which the model is certain still count.
TEMPERATURE = 2.0
#: Tensors that every batch of calibration rows holds.
NEEDED = ("input_ids", "attention_mask")

# Sizes of one name are equal in a call: b rows, t tokens, h dimensions.
Mask = Bool[Tensor, "b t"]
Grad = Float[Tensor, "b t h"]
Entering = Float[Tensor, "b t _"]
Tokens = Mapping[str, Shaped[Tensor, "b t"]]
Scalar = Float[Tensor, ""]


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Cost of errors of one site's residual sum, and moments of the site's units.

    Attributes
    ----------
    weights : tuple of Tensor
        One (batch, length) a batch, mean about 1 over the tokens that matter; 0 where nothing reads the token.
    metric : Tensor
        (H, H) float64, the mean of g g^T over rows, summed over a row's tokens and, where blocks share their weights, over
        the passes through the site: ``e^T metric e`` is the loss a row pays if all its tokens err by e in every pass, apart
        from interactions between tokens and between passes.
    units : Comoment or None
        Weighted moments of the outputs of the site's k units, without targets; None if not requested, or if the units are removed.
    """

    weights: tuple[Float[Tensor, "_ _"], ...]
    metric: Float64[Tensor, "h h"]
    units: Comoment | None

    @property
    def covariance(self) -> Float64[Tensor, "k k"] | None:
        """Covariance of the units' outputs, (k, k) float64."""
        return None if self.units is None else self.units.xx


class _SiteSums:
    """Accumulated sums of one site."""

    def __init__(self) -> None:
        self.sizes: list[Float[Tensor, "_ _"]] = []
        self.metric: Float64[Tensor, "h h"] | None = None
        self.units: ComomentSum | None = None

    def add(self, grads: Sequence[Grad], mask: Mask, entering: Sequence[Entering], *, same_batch: bool) -> None:
        """Add some rows: of each pass the gradients, (rows, length, H), and the outputs of the units, (rows, length, k).

        `same_batch` says that they are of the same batch as the rows before.
        """
        squares = torch.zeros((), dtype=grads[0].dtype)
        for grad in grads:
            flat = grad[mask]
            if not bool(torch.isfinite(flat).all()):
                raise StatisticsError("A gradient of the model's output is not finite; the model or the calibration rows are broken.")
            # Each pass separately: norms over the passes would lose the signs, and with them the directions.
            product = (flat.T @ flat).double()
            self.metric = product if self.metric is None else self.metric + product
            squares = squares + grad.square().sum(-1)
        # The norm, a compromise between equal weights (noisy gradients) and its square (few tokens decide).
        size = squares.sqrt() * mask
        self.sizes = [*self.sizes[:-1], torch.cat([self.sizes[-1], size])] if same_batch else [*self.sizes, size]
        chosen = size > 0
        for rows in entering:
            self.units = self.units or ComomentSum()
            self.units.add(rows[chosen], rows[chosen][:, :0], size[chosen])

    def about(self, mask: Mask, grads: Sequence[Grad], entering: Sequence[Entering]) -> None:
        """Take the products of the units about the mean of rows that are another process's to add."""
        chosen = (sum(grad.square().sum(-1) for grad in grads) * mask) > 0
        if entering:
            self.units = self.units or ComomentSum()
            self.units.about(entering[0][chosen], entering[0][chosen][:, :0])

    @staticmethod
    def of(parts: Sequence[_SiteSums], shares: Sequence[Sequence[int]]) -> _SiteSums:
        """Return the sums of several processes, each of its share of the batches."""
        if len(parts) == 1:
            return parts[0]
        whole = _SiteSums()
        sizes = {number: size for part, share in zip(parts, shares, strict=True) for number, size in zip(share, part.sizes, strict=True)}
        whole.sizes = [sizes[number] for number in sorted(sizes)]
        metrics = [part.metric for part in parts if part.metric is not None]
        whole.metric = torch.stack(metrics).sum(0) if metrics else None
        units = [part.units for part in parts if part.units is not None]
        whole.units = ComomentSum.of(units) if units else None
        return whole

    def finish(self, site: Site, rows: int) -> Sensitivity:
        """Return the normalised sensitivity; raise StatisticsError where the output does not depend on the site."""
        sizes = torch.cat([size.flatten() for size in self.sizes]).double()
        if self.metric is None or not bool((sizes > 0).any()):
            raise StatisticsError(
                f"The model's output does not depend on block {site.block} at all; give its classifier weights that are not zero."
            )
        scale = float(sizes[sizes > 0].square().mean().sqrt())
        weights = tuple(size / scale for size in self.sizes)
        return Sensitivity(weights, self.metric / rows, None if self.units is None else self.units.finish())


def check_batches(view: ModelView, batches: Sequence[Mapping[str, Any]]) -> None:
    """Raise StatisticsError for calibration rows that a model cannot read, and if there are none."""
    if not batches:
        raise StatisticsError("There are no calibration rows; give some.")
    for number, batch in enumerate(batches, 1):
        fault = _unreadable(view, batch)
        if fault is not None:
            raise StatisticsError(f"Batch {number} of the calibration rows cannot be read: {fault}.")


def _unreadable(view: ModelView, batch: Mapping[str, Any]) -> str | None:
    given = {name: batch[name] for name in (*NEEDED, "token_type_ids") if name in batch}
    missing = next((name for name in NEEDED if name not in given), None)
    if missing is not None:
        return f"there is no {missing}"
    other = next((name for name, value in given.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        return f"{other} must be a tensor"
    shape = given["input_ids"].shape
    longest = positions_of(view.config, int(getattr(view.config, "pad_token_id", None) or 0)) if view.has_position_table else None
    if len(shape) != 2 or not shape.numel() or (longest is not None and shape[1] > longest):
        most = "" if longest is None else f", at most {longest} of them"
        return f"input_ids must be rows of tokens{most}, not of shape {tuple(shape)}"
    sizes = {"input_ids": view.source.vocabulary, "token_type_ids": getattr(view.config, "type_vocab_size", None)}
    for name, tensor in given.items():
        if tensor.shape != shape or tensor.is_meta:
            return f"{name} must be of the shape of input_ids, {tuple(shape)}, and not on the meta device"
        size = sizes.get(name) if name in view.inputs else None
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        if size and not (whole and int(tensor.min()) >= 0 and int(tensor.max()) < size):
            return f"{name} must be whole numbers from 0 to {size - 1}"
    return None


def sensitivity(view: ModelView, batches: Batches, *, seed: int = 0, units: bool = False) -> dict[Site, Sensitivity]:
    """Differentiate the model's output with respect to the residual sum behind every site.

    Parameters
    ----------
    view : ModelView
    batches : sequence of dict
        Tokenised rows: (batch, length) tensors, `attention_mask` among them, and `READ` where answers are spans.
    seed : int
        Of the random directions (more than one output or two classes).
    units : bool
        Also compute the covariance of the outputs of every site's units.

    Raises
    ------
    StatisticsError
        As in `check_batches`; and if a gradient is not finite.
    """
    check_batches(view, batches)
    shares = parallel.shares(len(batches))
    parts = list(parallel.spread(_Differentiating(view, tuple(batches), seed, units), shares))
    rows = sum(len(batch["input_ids"]) for batch in batches)
    return {site: _SiteSums.of([part[site] for part in parts], shares).finish(site, rows) for site in parts[0]}


@dataclass(frozen=True, eq=False)
class _Differentiating:
    """The work on a share of the batches; random directions are those of one process, which has all batches."""

    view: ModelView
    batches: Batches
    seed: int
    units: bool

    def __call__(self, share: Sequence[int]) -> dict[Site, _SiteSums]:
        view, generator = self.view, torch.Generator().manual_seed(self.seed)
        sums = {site: _SiteSums() for site in sites(view)}
        entries = {site: site.units_tap(view) for site in sums if self.units and site.projection(view) is not None}
        blank: _Blank | None = None
        with _trainable(view.model):
            for number, batch in enumerate(self.batches):
                for index, part in enumerate(_parts(batch)):
                    if blank is not None and number not in share:
                        _scalar(view, blank(part), part, generator)
                        continue
                    mask = part["attention_mask"].bool()
                    by_site, blank = _differentiate(view, part, list(sums), entries, generator)
                    for site in list(by_site):
                        # Held no longer than needed: the next graph takes as much.
                        grads, entering = by_site.pop(site)
                        if number in share:
                            sums[site].add(grads, mask, entering, same_batch=index > 0)
                        else:
                            sums[site].about(mask, grads, entering)
        return sums


class _Blank(NamedTuple):
    """The shape of a model's outputs, for which as many random directions are drawn: {name: (one for each token, width)}."""

    tensors: Mapping[str, tuple[bool, tuple[int, ...]]]

    @classmethod
    def of(cls, output: Any) -> _Blank:
        """Return the shape of an output."""
        found: dict[str, tuple[bool, tuple[int, ...]]] = {}
        for name in ("logits", "start_logits", "end_logits", "sentence_embedding", "last_hidden_state"):
            tensor: Recorded | None = getattr(output, name, None)
            if tensor is not None:
                per_token = tensor.ndim == 3 or name in ("start_logits", "end_logits")
                found[name] = per_token, tuple(tensor.shape[1 + per_token :])
        return cls(found)

    def __call__(self, batch: Tokens) -> Any:
        """Return an output of this shape for a batch."""
        rows, length = batch["attention_mask"].shape
        tensors = {name: (rows, *([length] if per_token else []), *width) for name, (per_token, width) in self.tensors.items()}
        return SimpleNamespace(**{name: torch.zeros(1).expand(shape) for name, shape in tensors.items()})


@contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """Let gradients flow through frozen parameters too, which are frozen again afterwards."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _parts(batch: Tokens) -> Iterator[dict[str, Shaped[Tensor, "_ t"]]]:
    """Yield a batch in parts of at most `TOKENS` padded tokens, or of one row."""
    rows, length = batch["attention_mask"].shape
    step = max(1, TOKENS // length)
    for start in range(0, rows, step):
        yield {name: tensor[start : start + step] for name, tensor in batch.items()}


def _differentiate(
    view: ModelView,
    batch: Tokens,
    wanted: Sequence[Site],
    entries: Mapping[Site, Tap],
    generator: torch.Generator,
) -> tuple[dict[Site, tuple[list[Grad], list[Entering]]], _Blank]:
    """Return, of each site and pass, the gradient at the residual sum, in single precision at least, and the outputs of the units.

    And the shape of the model's output.
    """
    with ExitStack() as stack, torch.enable_grad():
        recorded: dict[int, dict[Tap, list[Recorded]]] = {}
        for number, block in enumerate(view.blocks):
            sum_taps = [site.sum_tap(view) for site in wanted if site.block == number]
            recorded[number] = stack.enter_context(
                taps(block, [*sum_taps, *(tap for site, tap in entries.items() if site.block == number)])
            )
        output = view.model(**{name: batch[name] for name in view.inputs if name in batch}, return_dict=True)
        passes = {site: recorded[site.block][site.sum_tap(view)] for site in wanted}
        scalar = _scalar(view, output, batch, generator)
        grads = iter(torch.autograd.grad(scalar, [tensor for site_sums in passes.values() for tensor in site_sums], allow_unused=True))
    by_site = {}
    for site, site_sums in passes.items():
        # Squares of half-precision gradients would be 0.
        site_grads = [widened(torch.zeros_like(tensor) if grad is None else grad) for tensor, grad in zip(site_sums, grads, strict=False)]
        units = recorded[site.block][entries[site]] if site in entries else []
        by_site[site] = [batch_first(view, grad) for grad in site_grads], [batch_first(view, rows.detach()) for rows in units]
    return by_site, _Blank.of(output)


def _scalar(view: ModelView, output: Any, batch: Tokens, generator: torch.Generator) -> Scalar:
    tokens = isinstance(view.model, Embedder) and view.model.averages
    read = batch.get(READ, batch["attention_mask"]).bool()
    return fisher_scalar(output, read, generator, labels=view.many_labels, tokens=tokens)


def fisher_scalar(output: Any, mask: Mask, generator: torch.Generator, *, labels: bool = False, tokens: bool = False) -> Scalar:
    """Return a random scalar of a model's output whose gradient's second moment is the Fisher matrix pulled back, without labels.

    `labels` says that the logits are those of independent labels, each present or absent. `tokens` says that an embedder is evaluated on
    its tokens and not on its vector.
    """
    if getattr(output, "logits", None) is None:
        ends: list[Float[Tensor, "b t"]] = [
            end for name in ("start_logits", "end_logits") if (end := getattr(output, name, None)) is not None
        ]
        if ends:
            return torch.stack([_fisher(widened(end).masked_fill(~mask, -1e4), generator) for end in ends]).sum()
        embedding: Float[Tensor, "b h"] | None = getattr(output, "sentence_embedding", None)
        # A mean is evaluated on its tokens: each has a random direction of its own, so that far more are drawn than one a row.
        states = widened(output.last_hidden_state[mask] if embedding is None or tokens else embedding)
        total: Scalar = (states * _signs(states, generator)).sum() / math.sqrt(states.shape[-1])
        return total
    logits = widened(output.logits)
    logits = logits[mask] if logits.ndim == 3 else logits
    if labels:
        # The softmax of (0, x) is (1 - sigmoid(x), sigmoid(x)).
        logits = torch.stack([torch.zeros_like(logits), logits], dim=-1)
    return _fisher(logits, generator)


def _fisher(logits: Float[Tensor, "... c"], generator: torch.Generator) -> Scalar:
    """Return a scalar with gradient v, E[v v^T] = diag(p) - p p^T at the softened probabilities p of each distribution.

    Distributions have independent signs, so that those of one row's tokens do not interact.
    """
    if logits.shape[-1] == 1:
        return (logits * _signs(logits, generator)).sum()
    p = (logits.detach() / TEMPERATURE).softmax(-1)
    if logits.shape[-1] == 2:
        # Exact for each draw: the matrix has rank one.
        direction = torch.tensor([-1.0, 1.0]).to(p) * (p[..., :1] * p[..., 1:]).sqrt() * _signs(p[..., :1], generator)
    else:
        noise = _signs(p, generator) * p.sqrt()
        direction = noise - p * noise.sum(-1, keepdim=True)
    return (logits * direction).sum()


def _signs(like: Float[Tensor, "*sizes"], generator: torch.Generator) -> Float[Tensor, "*sizes"]:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)
