from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from prunekit.arch.view import ModelView
from prunekit.errors import StatisticsError, UnsupportedError
from prunekit.plan import Plan
from prunekit.stats.blocks import Linear, Site, batch_first, record_calls, run_until, sites, taps
from prunekit.transforms.apply import apply
from tests.models import CASES, HIDDEN, LAYERS, batch_of, build

model_of = cache(build)


def inputs_of(view: ModelView) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch_of().items() if name in view.inputs}


@pytest.mark.parametrize("case", CASES)
def test_blocks_run_one_by_one_as_the_model_runs_them(case: str) -> None:
    view = ModelView.of(model_of(case))
    batch = inputs_of(view)
    calls = record_calls(view, [batch, batch])
    with torch.no_grad():
        states = view.hidden_states(batch)
        hidden = calls.hidden[1]
        # The last state may have passed a final norm.
        for layer in range(LAYERS):
            assert torch.equal(batch_first(view, hidden), states[layer])
            hidden = calls.calls[1][layer](view.blocks[0 if view.spec.shared_blocks else layer], hidden)
    assert view.spec.final_norm or torch.equal(batch_first(view, hidden), states[-1])


@pytest.mark.parametrize("case", CASES)
def test_the_projection_adds_to_the_sum_what_the_units_give(case: str) -> None:
    model = build(case)
    view = ModelView.of(model)
    calls = record_calls(view, [inputs_of(view)])
    assert len(sites(view)) == (2 if view.spec.shared_blocks else 2 * LAYERS)
    for site in sites(view)[:2]:
        projection, (entering, total) = site.projection(view), (site.units_tap(view), site.sum_tap(view))
        assert projection is not None
        with torch.no_grad():
            found = run_until(calls.calls[0][0], view.blocks[0], calls.hidden[0], [entering, total])
            weight = projection.weight.clone()
            # A view of the parameter: the model loses the sub-block's weights.
            projection.weight.zero_()
            without = run_until(calls.calls[0][0], view.blocks[0], calls.hidden[0], [total])[total]
            projection.weight.copy_(weight)
        given = found[entering] @ weight.T
        assert given.shape[-1] == HIDDEN
        torch.testing.assert_close(found[total] - without, given, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_readers_of_the_stream_read_the_same(case: str) -> None:
    view = ModelView.of(model_of(case))
    calls = record_calls(view, [inputs_of(view)])
    for role in ("heads", "ffn"):
        paths = Site(1, role).part(view).reads
        if not paths:
            assert (case, role) == ("xlnet", "heads")
            continue
        block = view.blocks[0 if view.spec.shared_blocks else 1]
        with taps(block, [("in", path) for path in paths]) as found, torch.no_grad():
            calls.calls[0][1](block, calls.hidden[0])
        # Once: what else a layer reads must not be turned with it.
        assert [len(seen) for seen in found.values()] == [1] * len(paths)
        first = found["in", paths[0]][0]
        assert all(torch.equal(seen[0], first) for seen in found.values())
        assert all(reader is not None and reader.weight.shape[1] == HIDDEN for reader in (Linear.at(block, path) for path in paths))


@pytest.mark.parametrize("case", CASES)
def test_where_a_sub_block_is_gone_its_sum_is_still_seen(case: str) -> None:
    model = model_of(case)
    source = ModelView.of(model).source
    for role in ("heads", "ffn"):
        slim = ModelView.of(apply(model, Plan(source=source, **{role: dict.fromkeys(range(LAYERS), ())})))
        calls = record_calls(slim, [inputs_of(slim)])
        site = Site(0, role)
        assert site.projection(slim) is None
        tap = site.sum_tap(slim)
        with torch.no_grad():
            found = run_until(calls.calls[0][0], slim.blocks[0], calls.hidden[0], [tap])
        assert found[tap].shape == calls.hidden[0].shape


def test_taps_leave_no_trace() -> None:
    block = ModelView.of(model_of("xlnet")).blocks[0]
    before = dict(vars(block.rel_attn))
    with taps(block, [("in", "rel_attn.post_attention"), ("in", "ff"), ("out", "")]):
        assert "post_attention" in vars(block.rel_attn)
        assert block._forward_hooks
    assert vars(block.rel_attn) == before
    assert not block._forward_hooks
    assert not block.ff._forward_pre_hooks


def test_linear_layers_are_views() -> None:
    root = nn.Module()
    root.dense, root.raw, root.norm = nn.Linear(3, 2), nn.Parameter(torch.ones(4, 2, 3)), nn.LayerNorm(3)
    layer = Linear.at(root, "dense")
    assert layer is not None
    assert layer.bias is not None
    layer.weight[0, 0] = 5.0
    layer.bias[1] = 7.0
    assert root.dense.weight[0, 0] == 5.0
    assert root.dense.bias[1] == 7.0
    raw = Linear.at(root, "raw")
    assert raw is not None
    assert raw.bias is None
    raw.weight[3, 5] = 9.0
    assert root.raw[3, 1, 2] == 9.0
    assert Linear.at(root, "norm") is None
    assert Linear.at(root, "nothing.here") is None


def test_no_rows_and_what_stands_between_blocks_are_refused() -> None:
    view = ModelView.of(build("deberta-v2", conv_kernel_size=3, conv_act="gelu"))
    with pytest.raises(UnsupportedError, match="stands between its blocks"):
        record_calls(view, [inputs_of(view)])
    with pytest.raises(StatisticsError, match="no calibration rows"):
        record_calls(view, [])
