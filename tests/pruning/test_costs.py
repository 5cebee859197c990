from __future__ import annotations

import copy

import numpy as np
import pytest

from prunekit.arch.view import ModelView
from prunekit.plan import Plan
from prunekit.pruning.costs import Bytes, Cost, Goal, Latency, Macs, Params, head_width, widths_of
from prunekit.pruning.latency_model import LatencyTable, Prices
from prunekit.stats.blocks import sites
from prunekit.transforms.apply import apply
from prunekit.transforms.cut import cut, prunable
from tests.models import FFN, HEADS, HIDDEN, LAYERS, build

TABLE = LatencyTable(1, 0.1, Prices(0.02, 0.01, 0.03, 0.001), Prices(0.015, 0.002, 0.01, 0.0003))


@pytest.mark.parametrize("case", ["bert", "albert", "llama", "gpt2", "mpnet", "deberta-v2"])
@pytest.mark.parametrize("kind", ["params", "macs", "bytes", "latency"])
def test_prices_are_what_cutting_frees(case: str, kind: str) -> None:
    model = build(case)
    dense = ModelView.of(model)
    costs: dict[str, Cost] = {
        "params": Params(),
        "macs": Macs(np.array([3, 9])),
        "bytes": Bytes(fixed=1000.0),
        "latency": Latency(TABLE, head_width(dense)),
    }
    cost = costs[kind]
    for site in (*sites(dense)[:2], *sites(dense)[-2:]):
        if not prunable(dense, site):
            continue
        view = ModelView.of(copy.deepcopy(model))
        units = view.units(site.role, site.block)
        before, each = cost.of(view), cost.each(view, site, units)
        cut(view, site, tuple(range(1, units)), units)
        assert before - cost.of(view) == pytest.approx(each)
        if kind == "latency":
            # What was measured is a block that is gone, and not one of no width.
            last = cost.last(view, site)
            top = site.role == "heads" and (site.block == LAYERS - 1 or view.spec.shared_blocks)
            cut(view, site, (), units - 1)
            freed = before - cost.of(view)
            # The blocks below become cheaper with the highest attention; by how much depends on what they keep, and is not promised.
            assert freed > units * each + last if top else freed == pytest.approx(units * each + last)


def test_widths_are_read_off_the_model() -> None:
    model = build("bert")
    view = ModelView.of(model)
    width = head_width(view)
    ffn, heads = sites(view)[1], sites(view)[2]
    cut(view, ffn, (0, 4, 5), FFN)
    cut(view, heads, (), HEADS)
    found = widths_of(view, width)
    assert found.heads == (HEADS, 0, *(HEADS,) * (LAYERS - 2))
    assert found.ffn == (3, *(FFN,) * (LAYERS - 1))


def test_shares_of_a_file_are_those_of_what_can_go() -> None:
    view = ModelView.of(build("bert"))
    cost = Bytes(fixed=5000.0)
    goal = Goal(cost, 5000.0 + 0.25 * (cost.of(view) - 5000.0), cost.of(view), "--keep '1 MB'")
    assert goal.share == pytest.approx(0.25)
    assert goal.at(0.5).limit == pytest.approx(5000.0 + 0.5 * (cost.of(view) - 5000.0))
    assert not goal.met(view)
    assert goal.at(1.0).met(view)


def test_an_affine_map_has_no_width() -> None:
    model = build("bert", "ForSequenceClassification")
    view = ModelView.of(model)
    slim = ModelView.of(apply(model, Plan(source=view.source, affine=(0,))))
    widths = widths_of(slim, HIDDEN // HEADS)
    assert widths.ffn[0] == 0
    assert widths.ffn[1:] == (FFN,) * (LAYERS - 1)
    assert widths.heads == (HEADS,) * LAYERS
