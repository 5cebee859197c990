"""Ranks of queries and keys, and of values and outputs, as two more prunable widths per head: are they worth it?

    python benchmarks/ranks.py sst2=MODEL:SST2_DIR trec=MODEL:TREC_DIR --params 0.18 0.12 --seeds 0 1 --test --json ranks.json
    python benchmarks/ranks.py sst2=MODEL:SST2_DIR --rows 128 --check
    python benchmarks/ranks.py sst2=MODEL:SST2_DIR --params 0.12 --speed --json ranks.json

Without rotary positions the scores of a head depend on `Wq^T Wk` alone, and its output on `Wo Wv` (Olica, arXiv 2506.08436), so that each
may have a lower rank. Variants, all pruned without training to the same parameters of the layers and refitted by `prunekit.refit`:

* heads: whole heads and FFN neurons, as prunekit removes them now (`--check` compares the widths with those that it chooses);
* ranks: single query-key and value-output dimensions beside them, at their own prices, so that every head has ranks of its own;
* common: whole heads, and one query-key and one value-output rank for all heads of a layer, as one kernel for equal heads could run it;
* vo, qk: `ranks` with one of the two kinds of dimensions alone.

The removal of a value-output dimension costs what prunekit's elimination says: it is an input of the output projection. A lower query-key
rank costs the same measure of the error of the head's output at that rank, softmax included, less what the refit of the output projection
makes good. One chain of steps visits all shares, so that a small share has other steps than `compress` takes to it. A set is
NAME=MODEL:DATA[:TAGS]; a run that is in the JSON file already is not made again. `--speed` times files of the widths that `heads` and
`common` have there. Differences are paired, row by row, in points of accuracy, with 95% intervals over the draw of the rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rank_pruning import Chain, Move, RankedAttention, Start, narrow, ranked
from torch import Tensor, nn

from prunekit.arch.load import load_model
from prunekit.arch.view import ModelView
from prunekit.budget import Budget
from prunekit.data.batches import encode
from prunekit.data.load import load_data
from prunekit.exporters.onnx import export_onnx
from prunekit.pipeline.records import space_of
from prunekit.pruning.costs import Params
from prunekit.pruning.iterative import IterativePruner
from prunekit.pruning.shrink import goal_of, steps_to
from prunekit.runtime.timing import latency_of_files
from prunekit.stats.blocks import sites
from prunekit.transforms.cut import cut

VARIANTS = ("heads", "ranks", "common", "vo", "qk")


class EqualAttention(RankedAttention):
    """The same where all heads of a layer have equal ranks: batched products of matrices, as a file would have them."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: object) -> tuple[Tensor, None]:
        batch, length, _width = hidden_states.shape
        q, k, v = (
            layer(hidden_states).view(batch, length, len(ranks), ranks[0]).transpose(1, 2)
            for layer, ranks in ((self.query, self.qk), (self.key, self.qk), (self.value, self.vo))
        )
        scores = q @ k.transpose(-1, -2) * self.scale
        mixed = (scores if attention_mask is None else scores + attention_mask).softmax(-1) @ v
        return mixed.transpose(1, 2).reshape(batch, length, sum(self.vo)), None


class Bench:
    """A model and its data."""

    def __init__(self, model: str, data: str, tags: str | None = None) -> None:
        loaded = load_model(model)
        found = load_data(data, labels=loaded.labels, tags=tags)
        self.model, per_token = loaded.model, found.task.per_token
        self.encoded = {name: encode(part, loaded.tokenizer, max_length=64, per_token=per_token) for name, part in found.splits.items()}
        self.dense: dict[str, Any] = {}
        self.space = space_of(loaded.config, loaded.tokenizer)

    def calibration(self, rows: int, seed: int) -> list[dict[str, Tensor]]:
        """Rows of train as `compress` draws them."""
        drawn = self.encoded["train"].draw(rows, seed)
        return [{name: torch.from_numpy(array) for name, array in batch.inputs.items()} for batch in drawn.batches()]

    def outputs(self, model: nn.Module, split: str) -> tuple[Any, Any]:
        """Log-probabilities and labels, row by row or word by word."""
        logs, labels = [], []
        with torch.inference_mode():
            for batch in self.encoded[split].batches():
                logits = model(**{name: torch.from_numpy(array) for name, array in batch.inputs.items()}).logits
                if batch.first is not None:
                    logits = logits[batch.first[:, 0], batch.first[:, 1]]
                logs.append(logits.log_softmax(-1).double().numpy())
                labels.append(batch.labels)
        return np.concatenate(logs), np.concatenate(labels)

    def scores(self, model: nn.Module, split: str) -> dict[str, Any]:
        """Accuracy, divergence from the dense model, and which rows are right, as bits."""
        if split not in self.dense:
            self.dense[split] = self.outputs(self.model, split)
        (dense, labels), (logs, _) = self.dense[split], self.outputs(model, split)
        right = logs.argmax(-1) == labels
        kl = float((np.exp(dense) * (dense - logs)).sum(-1).mean())
        return {"accuracy": float(right.mean()), "kl": round(kl, 4), "rows": len(right), "right": np.packbits(right).tobytes().hex()}


def padded(chain: Chain) -> float:
    """Share of the parameters if all heads of a layer are filled up to its widest, to a multiple of 8, as one kernel would run them."""
    hidden, extra, shape = chain.view.hidden_size, 0, chain.shape()
    for kind, price in (("qk", 2 * hidden + 2), ("vo", 2 * hidden + 1)):
        extra += sum(price * (len(ranks) * (-(-max(ranks) // 8) * 8) - sum(ranks)) for ranks in shape[kind] if ranks)
    return float((Params().of(chain.view) + extra) / chain.full)


def schedule(shares: list[float]) -> list[tuple[float, bool]]:
    """The shares of one chain of steps, and whether each was asked for."""
    found, reached = [], 1.0
    for share in sorted(shares, reverse=True):
        total = steps_to(share / reached)
        found += [(reached * (share / reached) ** (step / total), step == total) for step in range(1, total + 1)]
        reached = share
    return found


def row(bench: Bench, chain: Chain, share: float, splits: tuple[str, ...]) -> dict[str, Any]:
    """What a chain has reached."""
    size = {"params": round(Params().of(chain.view) / chain.full, 5), "padded": round(padded(chain), 5)}
    scores = {split: bench.scores(chain.view.model, split) for split in splits}
    told = {split: (round(score["accuracy"], 4), score["kl"]) for split, score in scores.items()}
    print(json.dumps({"how": chain.how, "seed": chain.start.seed, "keep": round(share, 4), **size, **told}), flush=True)
    return {"keep": round(share, 4), **size, **scores, "shape": chain.shape()}


def run(bench: Bench, start: Start, how: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one variant and one draw of calibration rows, one for each share."""
    chain, found, begin = Chain(start, how, asked.order), [], time.process_time()
    for share, wanted in schedule(asked.params):
        chain.step(share)
        if wanted:
            found.append({"seconds": round(time.process_time() - begin, 1), **row(bench, chain, share, asked.splits)})
    return found


def check(bench: Bench, rows: int, seed: int) -> None:
    """Compare the widths that whole heads alone get with prunekit's, and the outputs before and after heads are rewritten."""
    batches = bench.calibration(rows, seed)
    start, pruner = Start(bench.model, batches, seed), IterativePruner(bench.model, batches, seed=seed)
    chain, whole = Chain(start, "heads", "loss"), Chain(start, "ranks", "loss")
    with torch.inference_mode():
        dense = whole.view.model(**batches[-1]).logits
    whole.step(1.0)
    models = {"rewritten": (whole.view.model, dense)}
    for share in (0.5, 0.25):
        chain.step(share)
        pruner.step([goal_of(Budget.parse(f"{share:.0%} params"), pruner.start, pruner.lengths)])
        widths = {role: [len(pruner.kept[site]) for site in sites(pruner.view) if site.role == role] for role in ("heads", "ffn")}
        shape = chain.shape()
        print(f"{share:.0%}: same widths: {widths == {'heads': [len(ranks) for ranks in shape['vo']], 'ffn': shape['ffn']}}")
    with torch.inference_mode():
        models["heads"] = chain.view.model, pruner.view.model(**batches[-1]).logits
        for name, (model, logits) in models.items():
            print(f"{name}: logits differ by {float((model(**batches[-1]).logits - logits).abs().max()):.1e} at most")


def shaped(model: nn.Module, shape: dict[str, Any]) -> ModelView:
    """A model cut to the widths of a result, whichever units these are: time depends on the widths alone."""
    view = ranked(model)
    for site in sites(view):
        if site.role == "ffn":
            cut(view, site, range(shape["ffn"][site.block]), view.units("ffn", site.block))
            continue
        module = view.blocks[site.block].attention.self
        module.__class__ = EqualAttention
        kept = dict(enumerate(zip(shape["qk"][site.block], shape["vo"][site.block], strict=True)))
        gone = [at for head, own in enumerate(module.places(module.vo)) for at in own[kept.get(head, (0, 0))[1] :]]
        narrow(view, site, [Move(tuple(gone), {head: qk for head, (qk, _) in kept.items()})])
    return view


def speed(bench: Bench, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many times as fast as the dense file those of equal heads are, at batch 1 and 32, with 95% intervals."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {f"{row['how']} {row['keep']:.0%}": shaped(bench.model, row["shape"]).model for row in rows}
        inputs = ModelView.of(bench.model).inputs
        files = {
            name: export_onnx(model, Path(folder) / f"{name}.onnx", inputs=inputs, space=bench.space).path
            for name, model in {"dense": bench.model, **models}.items()
        }
        for size, measured in zip((1, 32), latency_of_files(files, bench.encoded["test"], batch_sizes=(1, 32)), strict=True):
            ratios = {name: measured.ratio(name) for name in models}
            found[f"batch {size}"] = {name: [round(value, 3) for value in (at.value, at.low, at.high)] for name, at in ratios.items()}
    return found


def right(row: dict[str, Any], split: str) -> Any:
    """Which rows of a split are right, 0 or 1."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(row[split]["right"]), np.uint8), count=row[split]["rows"]).astype(float)


def table(results: dict[str, Any], split: str, calibration: int) -> str:
    """Accuracy by set, share and variant, and its paired difference from `heads`; last, the mean of the sets."""
    lines = ["| set | kept | variant | accuracy | of dense | against heads | divergence |", "|---|---:|---|---:|---:|---:|---:|"]
    rows = [row for row in results["rows"] if split in row and row["calibration"] == calibration]
    keys = sorted({(row["keep"], row["how"]) for row in rows}, key=lambda key: (-key[0], VARIANTS.index(key[1])))
    generator = np.random.default_rng(0)
    for keep, how in keys:
        drawn = []
        for name in sorted({row["set"] for row in rows}):
            own = {(row["how"], row["seed"]): row for row in rows if (row["set"], row["keep"]) == (name, keep)}
            seeds = [seed for variant, seed in own if variant == how and ("heads", seed) in own]
            if not seeds:
                continue
            score, dense = np.mean([own[how, seed][split]["accuracy"] for seed in seeds]), results["dense"][name][split]["accuracy"]
            gain = 100 * np.mean([right(own[how, seed], split) - right(own["heads", seed], split) for seed in seeds], axis=0)
            draws = generator.integers(len(gain), size=(4000, len(gain)))
            drawn.append((gain.mean(), gain[draws].mean(1)))
            kl = np.mean([own[how, seed][split]["kl"] for seed in seeds])
            lines.append(f"| {name} | {keep:.0%} | {how} | {score:.2%} | {score / dense:.1%} | {interval(*drawn[-1])} | {kl:.3f} |")
        if len(drawn) > 1 and how != "heads":
            gain, draws = (np.mean([each[part] for each in drawn], axis=0) for part in (0, 1))
            lines.append(f"| mean | {keep:.0%} | {how} | | | {interval(gain, draws)} | |")
    return "\n".join(lines)


def interval(gain: float, draws: Any) -> str:
    """A difference in points with its interval."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{gain:+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--params", nargs="+", type=float, default=[0.28, 0.18, 0.12])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["heads", "ranks", "common"])
    parser.add_argument("--order", choices=("loss", "activation"), default="loss", help="what weights the singular values of outputs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--speed", action="store_true", help="time the widths of heads and common in the JSON file")
    parser.add_argument("--test", action="store_true", help="score test, too, when all is chosen")
    parser.add_argument("--json", type=Path, default=Path("ranks.json"))
    asked = parser.parse_args()
    asked.splits = ("validation", "test") if asked.test else ("validation",)
    torch.set_num_threads(asked.threads)
    results = json.loads(asked.json.read_text()) if asked.json.exists() else {"dense": {}, "rows": []}
    for text in asked.sets:
        name, _, what = text.partition("=")
        bench = Bench(*what.split(":"))
        if asked.check:
            check(bench, asked.rows, asked.seeds[0])
            continue
        if asked.speed:
            key = {"set": name, "seed": asked.seeds[0], "calibration": asked.rows}
            rows = [row for row in results["rows"] if key.items() <= row.items() and row["keep"] in asked.params]
            results["speed"] = speed(bench, [row for row in rows if row["how"] in ("heads", "common")])
            print(json.dumps(results["speed"], indent=1))
            asked.json.write_text(json.dumps(results) + "\n", encoding="utf-8")
            continue
        for seed in asked.seeds:
            start: Start | None = None
            for how in asked.variants:
                shares = sorted(asked.params, reverse=True)
                key = {"set": name, "how": how, "seed": seed, "calibration": asked.rows, "order": asked.order, "shares": shares}
                if any(key.items() <= row.items() for row in results["rows"]):
                    continue
                start = start or Start(bench.model, bench.calibration(asked.rows, seed), seed)
                results["rows"] += [{**key, **row} for row in run(bench, start, how, asked)]
                results["dense"][name] = {split: bench.scores(bench.model, split) for split in bench.dense}
                asked.json.write_text(json.dumps(results) + "\n", encoding="utf-8")
    for split in asked.splits:
        if any(split in row for row in results["rows"]):
            print(f"\n{split}\n\n{table(results, split, asked.rows)}")


if __name__ == "__main__":
    main()
