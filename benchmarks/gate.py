"""False alarms and misses of the gate: a model against itself, and against itself with work planted that takes a tenth more time.

    python benchmarks/gate.py MODEL_DIR DATA --runs 20 --json benchmarks/results/gate.json

The planted file has one more matrix product in each layer of the ONNX graph, of weights that are zero, so that its answers are
the same. How wide it must be to take that much more time is found before the series, by benchmarks without a gate. Results are
appended run by run, and a second call goes on where the first one stopped: do a few runs at a time (--seconds).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import prunekit
from prunekit.exporters.export import export

_CLOSE = 0.05  # of the growth asked for: 10% is 9.5% to 10.5%
_CALIBRATE = 5  # benchmarks whose median tells how much more time a share takes


def plant(path: Path, to: Path, share: float) -> Path:
    """Write the file with `share` more work.

    Beside every product of the file with a square weight (attention's projections) runs another, of the same input with a zero
    weight, which is summed over its outputs and added.
    """
    model = onnx.load(str(path))
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    total = sum(int(np.prod(weights[node.input[1]].dims)) for node in products)
    square = [node for node in products if len(set(weights[node.input[1]].dims)) == 1]
    graph.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), "planted/axis"))
    left = round(share * total)
    for at, node in enumerate(square):
        hidden = weights[node.input[1]].dims[0]
        width = round(left / (len(square) - at) / hidden)
        left -= width * hidden
        graph.initializer.append(numpy_helper.from_array(np.zeros((hidden, width), dtype=np.float32), f"planted/{at}"))
        name, node.output[0] = node.output[0], f"{node.output[0]}/before"
        added = [
            helper.make_node("MatMul", [node.input[0], f"planted/{at}"], [f"planted/product/{at}"], name=f"planted/MatMul/{at}"),
            helper.make_node(
                "ReduceSum", [f"planted/product/{at}", "planted/axis"], [f"planted/sum/{at}"], name=f"planted/Sum/{at}", keepdims=1
            ),
            helper.make_node("Add", [node.output[0], f"planted/sum/{at}"], [name], name=f"planted/Add/{at}"),
        ]
        place = list(graph.node).index(node) + 1
        for offset, each in enumerate(added):
            graph.node.insert(place + offset, each)
    onnx.save(model, str(to))
    return to


def calibrate(dense: Path, planted: Path, slower: float, data: str, batch: int, budget: float) -> float:
    """The share of work that takes `slower` more time; the file with it is left at `planted`."""
    share = slower
    for turn in range(4):
        plant(dense, planted, share)
        growth = []
        for seed in range(_CALIBRATE):
            found = prunekit.bench(
                f"planted=ort:{planted}",
                baseline=f"dense=ort:{dense}",
                data=data,
                batch_sizes=[batch],
                time_budget=budget,
                memory=False,
                seed=1000 + _CALIBRATE * turn + seed,
            )
            growth.append(1 / found.ratio().value - 1)
        middle = float(np.median(growth))
        print(f"{share:.2%} more work takes {middle:.2%} more time ({min(growth):.2%} to {max(growth):.2%})", flush=True)
        if abs(middle - slower) <= _CLOSE * slower:
            return share
        share *= slower / middle
    raise SystemExit("No share of work takes as much more time as was asked for: give more --budget.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint's directory")
    parser.add_argument("data")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--slower", type=float, default=0.1, help="how much more time the planted work must take")
    parser.add_argument("--allowed", type=float, default=0.05)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds a run")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after this time")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    begin = time.monotonic()
    rows: list[dict[str, Any]] = json.loads(arguments.json.read_text(encoding="utf-8")) if arguments.json.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        dense = export(arguments.model, Path(folder) / "dense").path
        planted = dense / "onnx/planted.onnx"
        if rows:
            share = rows[0]["share"]
            plant(dense / "onnx/model.onnx", planted, share)
        else:
            share = calibrate(dense / "onnx/model.onnx", planted, arguments.slower, arguments.data, arguments.batch, arguments.budget)
        for run in range(len(rows) // 2, arguments.runs):
            if time.monotonic() - begin > arguments.seconds:
                break
            for name, candidate in (("itself", dense / "onnx/model.onnx"), ("planted", planted)):
                found = prunekit.bench(
                    f"candidate=ort:{candidate}",
                    baseline=f"dense=ort:{dense / 'onnx/model.onnx'}",
                    data=arguments.data,
                    batch_sizes=[arguments.batch],
                    max_regression=arguments.allowed,
                    checks=["latency"],
                    time_budget=arguments.budget,
                    memory=False,
                    seed=run,
                )
                (verdict,) = found.verdicts
                times = found.comparisons[0]
                rows.append(
                    {
                        "run": run,
                        "candidate": name,
                        "outcome": verdict.outcome,
                        "growth": round(verdict.value, 4),
                        "low": round(verdict.low, 4),
                        "high": round(verdict.high, 4),
                        "rounds": times.rounds,
                        "sittings": len(times.invocations),
                        "seconds": round(times.seconds, 2),
                        "batch": arguments.batch,
                        "macs": found.cost("candidate").macs,
                        "clock": times.clock,
                        "share": round(share, 5),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
            arguments.json.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    for name in ("itself", "planted"):
        mine = [row for row in rows if row["candidate"] == name]
        growth = [row["growth"] for row in mine]
        outcomes = {outcome: sum(row["outcome"] == outcome for row in mine) for outcome in ("passed", "undecided", "failed")}
        print(f"{name}: {len(mine)} runs, {outcomes}, growth {min(growth):+.1%} to {max(growth):+.1%}, median {np.median(growth):+.1%}")


if __name__ == "__main__":
    main()
