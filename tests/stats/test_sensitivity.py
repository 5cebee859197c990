from __future__ import annotations

import copy
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prunekit.arch.embedding import Embedding, EmbeddingModel
from prunekit.arch.view import ModelView, find
from prunekit.errors import StatisticsError
from prunekit.stats import sensitivity as sensitivities
from prunekit.stats.blocks import Site, record_calls, run_until
from prunekit.stats.sensitivity import _fisher, check_batches, sensitivity
from tests.models import LAYERS, batch_of, build


def gradients(model: torch.nn.Module, norm: str, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Jacobian of the logits by what enters a norm, (row, output, token, H), and the softened probabilities."""
    probe = torch.zeros(*batch["input_ids"].shape, 24, requires_grad=True)
    handle = find(model, norm).register_forward_pre_hook(lambda _, args: (args[0] + probe,))
    logits = model(**batch).logits
    rows = [torch.autograd.grad(logits[:, output].sum(), probe, retain_graph=True)[0] for output in range(logits.shape[1])]
    handle.remove()
    return torch.stack(rows, 1), (logits.detach() / 2).softmax(-1)


@pytest.mark.parametrize(("role", "norm"), [("heads", "attention.output.LayerNorm"), ("ffn", "output.LayerNorm")])
def test_weights_and_metric_are_those_of_the_fisher_matrix(role: str, norm: str) -> None:
    model = build("bert", "ForSequenceClassification", num_labels=2)
    batches = [batch_of(4, seed=seed) for seed in range(2)]
    found = sensitivity(ModelView.of(model), batches)[Site(1, role)]
    metric, sizes = torch.zeros(24, 24), []
    for batch in batches:
        jacobian, p = gradients(model, f"bert.encoder.layer.1.{norm}", batch)
        fisher = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        metric += torch.einsum("roth,rop,rptk->hk", jacobian, fisher, jacobian)
        sizes.append(torch.einsum("roth,rop,rpth->rt", jacobian, fisher, jacobian).clamp(min=0).sqrt() * batch["attention_mask"])
    torch.testing.assert_close(found.metric.float(), metric / 8, atol=1e-5, rtol=1e-3)
    flat = torch.cat([size.flatten() for size in sizes])
    typical = flat[flat > 0].square().mean().sqrt()
    for ours, size in zip(found.weights, sizes, strict=True):
        torch.testing.assert_close(ours, size / typical, atol=1e-4, rtol=1e-3)


def test_labels_that_do_not_exclude_each_other_have_a_fisher_matrix_each() -> None:
    model = build("bert", "ForSequenceClassification", num_labels=3)
    model.config.problem_type = "multi_label_classification"
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([-3.0, 0.0, 2.0]))
    batch = batch_of(4)
    jacobian, _ = gradients(model, "bert.encoder.layer.1.output.LayerNorm", batch)
    with torch.no_grad():
        p = (model(**batch).logits / 2).sigmoid()
    exact = torch.einsum("roth,ro,rotk->hk", jacobian, p * (1 - p), jacobian) / 4
    drawn = [sensitivity(ModelView.of(model), [batch], seed=seed)[Site(1, "ffn")].metric.float() for seed in range(60)]
    # The labels' signs are independent: the mean of the draws comes to the matrix, and no draw sees labels as classes.
    assert float((torch.stack(drawn).mean(0) - exact).norm()) < 0.2 * float(exact.norm())


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_second_moment_of_the_scalars_gradient_is_the_fisher_matrix(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(classes, generator=generator)
    logits = base.repeat(40_000, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(_fisher(logits, generator), logits)
    p = (base / 2).softmax(0)
    torch.testing.assert_close(gradient.T @ gradient / 40_000, torch.diag(p) - torch.outer(p, p), atol=5e-3, rtol=0)
    # Distributions are independent of each other.
    assert abs(float((gradient[::2] * gradient[1::2]).sum(1).mean())) < 5e-3


def test_tokens_that_nothing_reads_weigh_nothing() -> None:
    view = ModelView.of(build("bert", "ForSequenceClassification"))
    batch = batch_of(4)
    found = sensitivity(view, [batch])
    top = found[Site(LAYERS - 1, "ffn")].weights[0]
    assert bool((top[:, 0] > 0).all())
    assert not bool(top[:, 1:].any())
    lower = found[Site(0, "ffn")].weights[0]
    assert bool((lower > 0).eq(batch["attention_mask"].bool()).all())


def test_padding_weighs_nothing_where_a_head_reads_it() -> None:
    """XLNet's head reads the last position, which is padding of the rows that are padded on the right: row 0 alone has none."""
    view = ModelView.of(build("xlnet", "ForSequenceClassification", num_labels=2))
    batch = batch_of(4)
    first = {name: rows[:1] for name, rows in batch.items()}
    whole, alone = (sensitivity(view, [each])[Site(LAYERS - 1, "ffn")] for each in (batch, first))
    assert not bool(whole.weights[0][batch["attention_mask"] == 0].any())
    torch.testing.assert_close(4 * whole.metric, alone.metric)


@pytest.mark.parametrize("case", ["bert", "albert", "xlnet", "gpt2"])
def test_covariance_is_that_of_what_the_units_give(case: str) -> None:
    view = ModelView.of(build(case, "ForTokenClassification"))
    batches = [{name: tensor for name, tensor in batch_of(4, seed=seed).items() if name in view.inputs} for seed in range(2)]
    found = sensitivity(view, batches, units=True)
    calls = record_calls(view, batches)
    for role in ("heads", "ffn"):
        site, rows, weights = Site(0, role), [], []
        for number in range(2):
            hidden = calls.hidden[number]
            for call in calls.calls[number][: LAYERS if view.spec.shared_blocks else 1]:
                with torch.no_grad():
                    tap = site.units_tap(view)
                    seen = run_until(call, view.blocks[0], hidden, [tap, site.sum_tap(view)])[tap]
                    hidden = call(view.blocks[0], hidden)
                seen = seen.transpose(0, 1) if view.spec.time_first else seen
                chosen = batches[number]["attention_mask"].bool()
                rows.append(seen[chosen])
                weights.append(found[site].weights[number][chosen])
        expected = np.cov(torch.cat(rows).numpy().T, aweights=torch.cat(weights).numpy(), ddof=0)
        covariance = found[site].covariance
        assert covariance is not None
        np.testing.assert_allclose(covariance, expected, atol=1e-4 * np.abs(expected).max())


def test_the_metric_of_shared_blocks_is_that_of_every_pass_by_itself() -> None:
    """Against the sum over passes of J^T F J, from explicit Jacobians."""
    model = build("albert", "ForSequenceClassification", num_labels=2).double()
    view, batch = ModelView.of(model), batch_of(4)
    found = sensitivity(view, [batch])
    norm, mask = find(view.blocks[0], "full_layer_layer_norm"), batch["attention_mask"].bool()
    probes: list[Tensor] = []

    def shifted(_: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        probes.append(torch.zeros_like(args[0], requires_grad=True))
        return (args[0] + probes[-1],)

    handle = norm.register_forward_pre_hook(shifted)
    logits = model(**batch).logits
    handle.remove()
    p = (logits.detach() / 2).softmax(-1)
    fisher = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    metric = torch.zeros(24, 24, dtype=torch.float64)
    for probe in probes:
        jacobian = torch.stack([torch.autograd.grad(logits[:, output].sum(), probe, retain_graph=True)[0] for output in range(2)], 1)
        metric += torch.einsum("roth,rop,rptk,rt->hk", jacobian, fisher, jacobian, mask.double()) / 4
    assert len(probes) == LAYERS
    torch.testing.assert_close(found[Site(0, "ffn")].metric, metric, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("case", ["bert", "albert"])
def test_parts_of_a_batch_sum_to_the_whole(case: str, classes: int, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view = ModelView.of(build(case, head, num_labels=classes))
    batches = [batch_of(7, seed=seed) for seed in range(2)]
    whole = sensitivity(view, batches, units=True)
    monkeypatch.setattr("prunekit.stats.sensitivity.TOKENS", 20)
    parts = sensitivity(view, batches, units=True)
    for site, found in whole.items():
        other = parts[site]
        assert found.covariance is not None
        assert other.covariance is not None
        torch.testing.assert_close(other.metric, found.metric, atol=1e-6 * float(found.metric.abs().max()), rtol=1e-6)
        torch.testing.assert_close(other.covariance, found.covariance, atol=1e-6 * float(found.covariance.abs().max()), rtol=1e-6)
        for ours, theirs in zip(other.weights, found.weights, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_no_more_tokens_than_said_are_differentiated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    view, seen = ModelView.of(build("bert", "ForSequenceClassification")), []
    handle = view.model.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"].numel()), with_kwargs=True)
    monkeypatch.setattr("prunekit.stats.sensitivity.TOKENS", 20)
    sensitivity(view, [batch_of(7), batch_of(1, length=30)])
    handle.remove()
    assert seen == [18, 18, 18, 9, 30]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_tokens_and_the_metric(dtype: torch.dtype) -> None:
    model = build("bert", "ForSequenceClassification")
    # Gradients whose squares float16 cannot hold.
    model.classifier.weight.data.mul_(1e-2)
    batch = batch_of(6)
    exact = sensitivity(ModelView.of(model), [batch], units=True)
    half = sensitivity(ModelView.of(copy.deepcopy(model).to(dtype)), [batch], units=True)
    for site, found in exact.items():
        error = (half[site].metric - found.metric).norm() / found.metric.norm()
        assert float(error) < 0.2
        assert bool((half[site].weights[0] > 0).eq(found.weights[0] > 0).all())


@pytest.mark.parametrize("head", ["Model", "ForQuestionAnswering", "ForSequenceClassification"])
def test_any_output_can_be_differentiated(head: str) -> None:
    view = ModelView.of(build("distilbert", head, **({"num_labels": 1} if "Sequence" in head else {})))
    batch = {name: tensor for name, tensor in batch_of().items() if name in view.inputs}
    one, again, other = (sensitivity(view, [batch], seed=seed) for seed in (0, 0, 1))
    assert len(one) == 2 * LAYERS
    assert all(float(found.metric.trace()) > 0 and found.covariance is None for found in one.values())
    assert all(torch.equal(found.metric, again[site].metric) for site, found in one.items())
    assert head == "ForSequenceClassification" or not torch.equal(one[Site(0, "ffn")].metric, other[Site(0, "ffn")].metric)
    assert not any(parameter.grad is not None for parameter in view.model.parameters())


def test_broken_models_and_no_rows_are_refused() -> None:
    view = ModelView.of(build("bert", "ForSequenceClassification"))
    with pytest.raises(StatisticsError, match="no calibration rows"):
        sensitivity(view, [])
    view.model.classifier.weight.data.zero_()
    with pytest.raises(StatisticsError, match="does not depend on block 0"):
        sensitivity(view, [batch_of()])
    view.model.classifier.weight.data.fill_(torch.nan)
    with pytest.raises(StatisticsError, match="not finite"):
        sensitivity(view, [batch_of()])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_embedder_that_averages_feels_what_its_bare_encoder_feels(pooling: str) -> None:
    body, batches = build("bert"), [batch_of(6, seed=seed) for seed in range(2)]
    bare = sensitivity(ModelView.of(body), batches, seed=3)
    found = sensitivity(ModelView.of(EmbeddingModel(body, Embedding(pooling)).eval()), batches, seed=3)
    alike = [torch.allclose(found[site].metric, of_bare.metric) for site, of_bare in bare.items()]
    assert all(alike) if pooling == "mean" else not any(alike)


@pytest.mark.parametrize(("case", "limited"), [("deberta", False), ("modernbert", False), ("llama", False), ("bert", True), ("gpt2", True)])
def test_only_a_table_of_positions_limits_the_rows(case: str, limited: bool) -> None:
    view = ModelView.of(build(case, "ForSequenceClassification"))
    longer = [batch_of(2, length=view.config.max_position_embeddings + 8)]
    if not limited:
        check_batches(view, longer)
        return
    with pytest.raises(StatisticsError, match="at most"):
        check_batches(view, longer)


def test_of_calibration_rows_only_what_the_model_reads_must_be_tensors() -> None:
    view = ModelView.of(build("bert", "ForSequenceClassification"))
    check_batches(view, [{**batch_of(), "example_id": ["a", "b", "c"]}])
    with pytest.raises(StatisticsError, match=r"Batch 1 of the calibration rows cannot be read: input_ids must be a tensor"):
        check_batches(view, [{**batch_of(), "input_ids": [[1]]}])


def test_gradients_of_one_part_are_not_held_beside_the_graph_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    made, alive = list[list[weakref.ref[Tensor]]](), list[int]()
    differentiate = sensitivities._differentiate

    def counted(*rest: Any) -> Any:
        if made:
            alive.append(sum(each() is not None for each in made[-1]))
        by_site, blank = differentiate(*rest)
        made.append([weakref.ref(grad) for grads, _ in by_site.values() for grad in grads])
        return by_site, blank

    monkeypatch.setattr(sensitivities, "_differentiate", counted)
    sensitivity(ModelView.of(build("bert", "ForSequenceClassification")), [batch_of(4, seed=seed) for seed in range(3)])
    # Those of the last site alone.
    assert alive == [1, 1]
    assert len(made[0]) == 2 * LAYERS
