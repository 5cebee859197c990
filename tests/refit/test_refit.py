from __future__ import annotations

import copy
import gc

import numpy as np
import pytest
import torch
from torch import Tensor

from prunekit.arch.view import ModelView
from prunekit.errors import StatisticsError, UnsupportedError
from prunekit.pipeline.apply import apply as solved
from prunekit.plan import Plan
from prunekit.refit.readers import fold, scale, solve_readers
from prunekit.refit.refit import Damping, Match, correct, matches, refit
from prunekit.stats.blocks import Linear, Site, record_calls, run_until
from prunekit.stats.comoment import ComomentSum
from prunekit.transforms.apply import apply
from tests.models import LAYERS, batch_of, build

NONE = Damping(1e-12, 1e-12)


def rows(batches: int = 4, size: int = 12) -> list[dict[str, Tensor]]:
    return [batch_of(size, seed=seed) for seed in range(batches)]


def sums(view: ModelView, site: Site, batches: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Residual sums and units of a site, real tokens only."""
    calls, entering, total = record_calls(view, batches), [], []
    for number, mask in enumerate(calls.masks):
        hidden = calls.hidden[number]
        with torch.no_grad():
            for below in range(site.block):
                hidden = calls.calls[number][below](view.blocks[below], hidden)
            taps = [site.units_tap(view), site.sum_tap(view)]
            found = run_until(calls.calls[number][site.block], view.blocks[site.block], hidden, taps)
        total.append(found[taps[1]][mask])
        entering.append(found[taps[0]][mask] if taps[0] in found else total[-1][:, :0])
    return torch.cat(total).double(), torch.cat(entering).double()


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("role", ["heads", "ffn"])
def test_what_is_missing_is_orthogonal_to_what_was_kept(case: str, role: str) -> None:
    model = build(case)
    dense = ModelView.of(model)
    kept = {"heads": (1,), "ffn": (0, 3, 4, 11, 19)}[role]
    slim = ModelView.of(apply(model, Plan(source=dense.source, **{role: {LAYERS - 1: kept}})))
    batches = [{name: tensor for name, tensor in batch.items() if name in dense.inputs} for batch in rows()]
    refit(slim, dense, batches, damping=NONE)
    site = Site(LAYERS - 1, role)
    target, _ = sums(dense, site, batches)
    reached, units = sums(slim, site, batches)
    missing = target - reached
    projection = site.projection(slim)
    assert projection is not None
    if projection.bias is not None:
        units = units - units.mean(0)
        np.testing.assert_allclose(missing.mean(0), torch.zeros(24), atol=1e-5)
    correlated = (missing.T @ units).abs().max() / (missing.norm() * units.norm())
    assert correlated < 1e-4
    assert missing.norm() > 1e-3 * target.norm()


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("kept", [(0, 2, 3), (0, 3), (1, 4, 5)])
def test_every_block_kept_about_an_inner_gap_aims_at_the_dense_model_s_own_states(case: str, kept: tuple[int, ...]) -> None:
    """What is missing of the dense sums, taken from a plain run of the dense model, is orthogonal to the units of each block."""
    # In double precision: what rounding leaves in single precision differs from processor to processor.
    model = build(case, num_hidden_layers=6).double()
    dense = ModelView.of(model)
    slim = ModelView.of(apply(model, Plan(source=dense.source, layers=kept)).double())
    batches = [{name: tensor for name, tensor in batch.items() if name in dense.inputs} for batch in rows()]
    pairs = matches(kept, 6)
    refit(slim, dense, batches, matched=pairs, damping=NONE)
    for layer, pair in enumerate(pairs):
        for role, block in (("heads", pair.attention), ("ffn", pair.output)):
            site = Site(layer, role)
            target, _ = sums(dense, Site(block, role), batches)
            reached, units = sums(slim, site, batches)
            missing, projection = target - reached, site.projection(slim)
            assert projection is not None
            if projection.bias is not None:
                units = units - units.mean(0)
                np.testing.assert_allclose(missing.mean(0) / target.norm() * len(target) ** 0.5, torch.zeros(24), atol=1e-5)
            assert (missing.T @ units).abs().max() / (target.norm() * units.norm()) < 1e-5


def test_all_tokens_count_alike_in_what_attention_reads() -> None:
    """Attention reads every token: what its queries miss is orthogonal to their input, whatever an error at each token costs."""
    model = build("bert")
    dense = ModelView.of(model)
    slim = ModelView.of(apply(model, Plan(source=dense.source, ffn={0: (0, 3, 4)})))
    batches = rows()
    generator = torch.Generator().manual_seed(0)
    weights = {
        Site(block, role): [torch.rand(12, 9, generator=generator) ** 4 for _ in batches]
        for block in range(LAYERS)
        for role in ("heads", "ffn")
    }
    refit(slim, dense, batches, weights=weights, damping=NONE)
    mask = torch.cat([batch["attention_mask"].bool() for batch in batches])
    with torch.no_grad():
        read, wanted = (torch.cat([view.hidden_states(batch)[1] for batch in batches])[mask] for view in (slim, dense))
        missing = (dense.blocks[1].attention.self.query(wanted) - slim.blocks[1].attention.self.query(read)).double()
    read = (read - read.mean(0)).double()
    assert missing.norm() > 1e-3
    assert missing.mean(0).norm() < 1e-4 * missing.norm() / len(missing) ** 0.5
    assert (missing.T @ read).abs().max() < 1e-4 * missing.norm() * read.norm()


def test_a_layer_below_a_gap_begins_with_the_norm_at_the_end_of_the_gap() -> None:
    """With a damping that lets no scale be fitted, the copied scale is what stays."""
    model = build("bert", num_hidden_layers=6)
    generator = torch.Generator().manual_seed(0)
    norms = [layer.output.LayerNorm for layer in model.encoder.layer]
    for norm in norms:
        norm.weight.data.copy_(torch.rand(24, generator=generator) + 0.5)
    kept = (1, 3, 4)
    dense = ModelView.of(model)
    slim = ModelView.of(apply(model, Plan(source=dense.source, layers=kept)))
    refit(slim, dense, rows(), matched=matches(kept, 6), damping=Damping(1e9, 1e9))
    for block, end in zip(slim.blocks, (2, 3, 5), strict=True):
        torch.testing.assert_close(block.output.LayerNorm.weight, norms[end].weight)


@pytest.mark.parametrize("case", ["bert", "albert", "gpt2", "xlnet"])
def test_targets_that_are_not_held_are_made_again(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(case, "ForSequenceClassification")
    source = ModelView.of(model).source
    widths = dict.fromkeys(range(LAYERS), tuple(range(9)))
    batches = [
        {name: tensor for name, tensor in batch.items() if name in (*ModelView.of(model).inputs, "attention_mask")} for batch in rows()
    ]
    for plan in (Plan(source=source, layers=(0, 3), ffn=widths), Plan(source=source, ffn=widths, hidden=tuple(range(0, 24, 2)))):
        found = []
        for limit in (2**29, 0):
            monkeypatch.setattr("prunekit.refit.refit._HELD", limit)
            found.append(solved(model, plan, batches).state_dict())
        for name, tensor in found[0].items():
            torch.testing.assert_close(found[1][name], tensor, atol=1e-5, rtol=1e-5)


def test_of_many_rows_only_the_states_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches there are, a few more activations are alive than the two states of each."""
    monkeypatch.setattr("prunekit.refit.refit._HELD", 0)
    model, batches = build("bert", num_hidden_layers=5), rows(30)
    dense = ModelView.of(model)
    kept = (0, 3, 4)
    slim = ModelView.of(apply(model, Plan(source=dense.source, layers=kept, ffn={3: (0, 1, 2)})))
    alive: list[int] = []

    def counting(self: ComomentSum, *given: Tensor) -> None:
        if self._rows == 0:
            tensors = [each for each in gc.get_objects() if type(each) is Tensor and each.shape == (12, 9, 24)]
            alive.append(len({each.data_ptr() for each in tensors}))
        add(self, *given)

    add = ComomentSum.add
    monkeypatch.setattr(ComomentSum, "add", counting)
    refit(slim, dense, batches, matched=matches(kept, 5))
    assert len(alive) > 12
    assert 60 <= max(alive) <= 60 + 15


def test_one_solution_is_that_of_lstsq() -> None:
    model = build("bert")
    dense = ModelView.of(model)
    slim = ModelView.of(apply(model, Plan(source=dense.source, ffn={0: (2, 5, 7)})))
    weights = {Site(block, role): [torch.rand(12, 9) for _ in range(4)] for block in range(LAYERS) for role in ("heads", "ffn")}
    batches = rows()
    target, units = sums(dense, Site(0, "ffn"), batches)
    kept = units[:, [2, 5, 7]]
    residual = target - units @ model.encoder.layer[0].output.dense.weight.T.double() - model.encoder.layer[0].output.dense.bias.double()
    refit(slim, dense, batches, weights=weights, damping=NONE)
    mask = torch.cat([batch["attention_mask"].bool().flatten() for batch in batches])
    w = torch.cat([part.flatten() for part in weights[Site(0, "ffn")]])[mask].sqrt().double()
    design = torch.cat([kept, torch.ones(len(kept), 1)], 1) * w[:, None]
    expected = torch.linalg.lstsq(design, (target - residual) * w[:, None]).solution
    torch.testing.assert_close(slim.blocks[0].output.dense.weight.double(), expected[:3].T.contiguous(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(slim.blocks[0].output.dense.bias.double(), expected[3], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("case", ["bert", "albert", "distilbert", "gpt2"])
@pytest.mark.parametrize("role", ["heads", "ffn"])
def test_the_bias_of_a_removed_sub_block_is_the_mean_of_what_it_gave(case: str, role: str) -> None:
    model = build(case, **({"num_hidden_layers": 1} if case == "albert" else {}))
    dense = ModelView.of(model)
    blocks = range(dense.num_layers) if case == "albert" else [0]
    slim = ModelView.of(apply(model, Plan(source=dense.source, **{role: dict.fromkeys(blocks, ())})))
    batches = [{name: tensor for name, tensor in batch.items() if name in dense.inputs} for batch in rows()]
    site = Site(0, role)
    weights = {Site(block, name): [torch.rand(12, 9) for _ in batches] for block in range(LAYERS) for name in ("heads", "ffn")}
    _, units = sums(dense, site, batches)
    projection = site.projection(dense)
    assert projection is not None
    assert projection.bias is not None
    given = units @ projection.weight.T.double() + projection.bias.double()
    refit(slim, dense, batches, weights=weights)
    mask = torch.cat([batch["attention_mask"].bool().flatten() for batch in batches])
    w = torch.cat([part.flatten() for part in weights[site]])[mask].double()
    (left,) = (parameter for name, parameter in slim.blocks[0].named_parameters() if name == f"{site.part(slim).removal[-1].at}.bias")
    torch.testing.assert_close(left.double(), w @ given / w.sum(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["bert", "albert", "xlnet", "llama"])
def test_refit_lowers_the_error_of_every_site(case: str) -> None:
    model = build(case)
    dense = ModelView.of(model)
    plan = Plan(source=dense.source, heads=dict.fromkeys(range(LAYERS), (0,)), ffn=dict.fromkeys(range(LAYERS), tuple(range(8))))
    batches = [{name: tensor for name, tensor in batch.items() if name in dense.inputs} for batch in rows()]
    before, after = (ModelView.of(apply(model, plan)) for _ in range(2))
    refit(after, dense, batches)

    def error(view: ModelView) -> list[float]:
        errors = torch.zeros(LAYERS)
        for batch in batches:
            with torch.no_grad():
                ours, theirs = view.hidden_states(batch)[1:], dense.hidden_states(batch)[1:]
            mask = batch["attention_mask"].bool()
            errors += torch.stack([(a - b)[mask].square().sum() for a, b in zip(ours, theirs, strict=True)])
        return list(errors)

    assert all(small < large for small, large in zip(error(after), error(before), strict=True))


def test_the_shift_of_a_norm_is_scaled_too() -> None:
    norm, x = torch.nn.LayerNorm(6), torch.randn(40, 6)
    total = ComomentSum()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
        reached = norm(x)
        wanted = reached * torch.linspace(0.5, 2, 6) + torch.arange(6.0)
        total.add(reached, wanted - reached, torch.ones(40))
        scale(norm, total.finish(), 1e-12, where="a norm")
        torch.testing.assert_close(norm(x), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folding_is_reading_something_else(dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(5, 3, dtype=dtype)
    other, x = copy.deepcopy(layer), torch.randn(7, 5, dtype=dtype)
    turn, shift = torch.randn(5, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    found = Linear(layer.weight.detach(), layer.bias.detach())
    with torch.no_grad():
        fold(found, turn, shift)
        torch.testing.assert_close(layer(x), other(x + x @ turn.T.to(dtype) + shift.to(dtype)))
        correct(found, torch.ones(3, 5, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
        torch.testing.assert_close(
            layer(x), other(x + x @ turn.T.to(dtype) + shift.to(dtype)) + x.sum(1, keepdim=True) + 1, atol=1e-5, rtol=1e-5
        )


def test_matches() -> None:
    assert matches((0, 1, 2), 3) == (Match(0, 0), Match(1, 1), Match(2, 2))
    assert matches((1, 4), 6) == (Match(1, 3), Match(4, 5))
    assert matches((1, 4), 6, fill=False) == (Match(1, 1), Match(4, 4))
    assert matches((), 6) == ()


def test_what_reads_the_last_state_is_turned_towards_the_dense_one() -> None:
    model = build("bert", "ForTokenClassification")
    dense = ModelView.of(model)
    batches, other = rows(), copy.deepcopy(model)
    # A map that can be undone: what the head reads is rotated by the last norm's weights.
    generator = torch.Generator().manual_seed(1)
    other.bert.encoder.layer[-1].output.LayerNorm.weight.data.mul_(torch.rand(24, generator=generator) + 0.5)
    other.bert.encoder.layer[-1].output.LayerNorm.bias.data.add_(torch.randn(24, generator=generator))
    solve_readers(ModelView.of(other), dense, batches, damping=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(other(**batches[0]).logits, model(**batches[0]).logits, atol=1e-3, rtol=1e-3)


def test_models_that_do_not_correspond_are_refused() -> None:
    model = build("bert")
    dense = ModelView.of(model)
    fewer = ModelView.of(apply(model, Plan(source=dense.source, layers=(0, 2))))
    with pytest.raises(UnsupportedError, match="slim model's 2 layers"):
        refit(fewer, dense, rows())
    narrow = ModelView.of(apply(model, Plan(source=dense.source, hidden=tuple(range(20)))))
    with pytest.raises(UnsupportedError, match="hidden width"):
        refit(narrow, dense, rows())
    with pytest.raises(StatisticsError, match="no calibration rows"):
        refit(dense, dense, [])


def test_broken_activations_stop_the_refit() -> None:
    model = build("bert")
    dense = ModelView.of(model)
    slim = ModelView.of(apply(model, Plan(source=dense.source, ffn={0: (1, 2)})))
    model.encoder.layer[0].output.dense.weight.data[0, 0] = torch.nan
    with pytest.raises(StatisticsError, match="not finite"):
        refit(slim, dense, rows())
