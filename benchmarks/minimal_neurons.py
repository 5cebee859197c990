"""How few neurons hold 97% of what all of them know: several tasks, several rankings, one frozen encoder.

    python benchmarks/minimal_neurons.py DATA/sst2 DATA/trec DATA/cola DATA/rte DATA/ud_ewt:upos DATA/ud_ewt:xpos --json results.json

The oracle is a probe on all neurons. For each ranking, made on train, probes are fitted on its first 1, 2, 3, ... neurons; the
smallest number that reaches the target on validation is kept (also on the curve smoothed by isotonic regression), and scored
on test. Rankings are made, and probes fitted, on at most --rows rows or --words words of train.

A closer look at some rankings, with finer steps and a penalty of its own for each number of neurons (the other table takes that which
suits the largest), against the oracles of a run before:

    python benchmarks/minimal_neurons.py DATA/trec ... --rankings elimination "lasso path" --step 0.9 --oracles results.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from prunekit.arch.load import load_model
from prunekit.arch.view import ModelView
from prunekit.data.batches import Encoded, encode
from prunekit.data.demo import demo_model
from prunekit.data.load import load_data
from prunekit.data.rows import Rows
from prunekit.probes.elastic_net import Fit, Problem
from prunekit.probes.elimination import elimination_order
from prunekit.probes.lasso import lasso_path
from prunekit.probes.objective import decision
from prunekit.probes.rankings import descending, mutual_information, probe_gradient_activation, probeless, ranking
from prunekit.probes.selection import ALPHAS, Split, best, fit_and_score, path, sizes_to, smallest
from prunekit.stats.collect import collect
from prunekit.stats.rows import RowStore
from prunekit.tasks import Task

IN_MEMORY = 2**33


def encoded(rows: Rows, tokenizer: object, task: Task, limit: int) -> Encoded:
    """At most `limit` rows or words, drawn with a fixed seed; sentences with a word that has no token are left out."""
    generator = np.random.default_rng(0)
    if not task.per_token:
        taken = np.sort(generator.choice(len(rows), min(limit, len(rows)), replace=False))
        return encode(rows.take(taken), tokenizer, max_length=128, per_token=False)
    order = generator.permutation(len(rows))
    rows = rows.take(np.sort(order[: np.searchsorted(np.cumsum([len(rows.tokens[i]) for i in order]), limit) + 1]))
    found = encode(rows, tokenizer, max_length=128, per_token=True)
    whole = np.flatnonzero(np.diff(found.words.starts) == [len(row) for row in rows.tokens])
    return encode(rows.take(whole), tokenizer, max_length=128, per_token=True)


def splits(source: Path, tags: str | None, limits: dict[str, int], cache: Path | None) -> tuple[Task, dict[str, Split], int]:
    data = load_data(str(source), tags=tags)
    loaded = load_model(demo_model())
    view = ModelView.of(loaded.model)
    pooling = "token" if data.task.per_token else "mean"
    found = {}
    for name, rows in data.splits.items():
        taken = encoded(rows, loaded.tokenizer, data.task, limits[name])
        file = None if cache is None else cache / source.name / f"{name}.npy"
        if file is not None and file.is_file():
            store = RowStore.of(np.load(file), limit=IN_MEMORY)
            assert len(store) == len(taken.labels), f"{file} is of other limits: delete it"
        else:
            store = collect(view, taken, pooling=pooling, outputs=data.task.outputs, limit=IN_MEMORY).rows
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, store.matrix())
        found[name] = Split.of(store, taken.labels, data.task.outputs)
    return data.task, found, view.hidden_size


def orders(train: Split, oracle: Fit | None, outputs: int, names: list[str] | None) -> dict[str, np.ndarray]:
    """Rankings of the non-constant neurons, best first; without an oracle, those that need none."""
    non_constant = train.moments.non_constant(train.rows.width)
    ids = np.flatnonzero(non_constant)
    labels = train.rows.width + np.arange(outputs)
    rows = train.rows.matrix()
    made = {
        "elimination": lambda: ids[elimination_order(train.moments.take(np.concatenate([ids, labels])), len(ids))],
        "lasso path": lambda: lasso_path(train.moments, outputs, most=300),
        "Probeless": lambda: descending(probeless(train.moments, outputs), non_constant),
        "mutual information": lambda: descending(mutual_information(rows[:10_000], train.labels[:10_000]), non_constant),
        "random": lambda: np.random.default_rng(0).permutation(ids),
    }
    if oracle is not None:
        elastic, gradient = ranking(oracle.standard), (train.rows, train.labels, oracle.coef, oracle.intercept)
        made |= {
            "elastic-net": lambda: elastic[non_constant[elastic]],
            "gradient x activation": lambda: descending(probe_gradient_activation(*gradient), non_constant),
            "magnitude": lambda: descending(np.linalg.norm(oracle.coef, axis=0), non_constant),
        }
    return {name: make() for name, make in made.items() if names is None or name in names}


def own_path(train: Split, validation: Split, task: Task, sizes: list[int]) -> tuple[list[Fit], list[tuple[int, float]]]:
    """A probe on the first columns for each size, with the penalty that suits it."""
    problems = [Problem(size, alpha) for size in sizes for alpha in (1e-5, *ALPHAS)]
    fits, scores = fit_and_score(train, validation, task, problems)
    best_of = {}
    for at, problem in enumerate(problems):
        if problem.width not in best_of or (scores[at], problem.alpha) >= (
            scores[best_of[problem.width]],
            problems[best_of[problem.width]].alpha,
        ):
            best_of[problem.width] = at
    return [fits[best_of[size]] for size in sizes], [(size, scores[best_of[size]]) for size in sizes]


def sizes_of(most: int, step: float) -> list[int]:
    """Sizes down from `most`, each `step` of the one before, ascending."""
    return sorted({round(most * step**k) for k in range(200) if most * step**k >= 1})


def test_score(fit: Fit, ids: np.ndarray, test: Split, task: Task) -> float:
    return task.score(decision(test.rows.columns(ids), fit.coef, fit.intercept), test.labels)


def measure(source: Path, tags: str | None, limits: dict[str, int], arguments: argparse.Namespace) -> dict[str, object]:
    share, most, closer = arguments.share, arguments.most, arguments.step is not None
    begin = time.perf_counter()
    task, found, _ = splits(source, tags, limits, arguments.cache)
    train, validation, test = found["train"], found["validation"], found["test"]
    width = train.rows.width
    name = source.name + (f" {tags}" if tags else "")
    known = next((row for row in json.loads(arguments.oracles.read_text()) if row["data"] == name), None) if arguments.oracles else None
    if known is not None:
        alpha, oracle, reference, on_test = known["alpha"], None, known["oracle"]["validation"], known["oracle"]["test"]
    else:
        alpha, oracle, reference = best(train, validation, task, [Problem(width, alpha) for alpha in ALPHAS])
        on_test = test_score(oracle, np.arange(width), test, task)
    target = share * reference
    sizes = sizes_of(round(most * width), arguments.step) if closer else sizes_to(round(most * width))
    row: dict[str, object] = {
        "data": name,
        "rows": {name: len(split.rows) for name, split in found.items()},
        "neurons": width,
        "metric": task.metric.value,
        "alpha": alpha,
        "largest class": float(max(np.bincount(test.labels)) / len(test.labels)),
        "oracle": {"validation": reference, "test": on_test},
        "rankings": {},
    }
    for name, order in orders(train, oracle, task.outputs, arguments.rankings).items():
        ids = order[: sizes[-1]]
        fits, trace = (own_path if closer else path)(train.columns(ids), validation.columns(ids), task, sizes)
        at = smallest(sizes, [value for _, value in trace], target)
        entry: dict[str, object] = {"size": None if at is None else sizes[at], "trace": trace}
        chosen = len(sizes) - 1 if at is None else at
        entry["validation"] = trace[chosen][1] / reference
        entry["test"] = test_score(fits[chosen], ids[: sizes[chosen]], test, task) / on_test
        row["rankings"][name] = entry  # type: ignore[index]
        print(row["data"], name, entry["size"], f"{entry['validation']:.3f} {entry['test']:.3f}", flush=True)
    row["seconds"] = time.perf_counter() - begin
    return row


def table(rows: list[dict], share: float, most: float) -> str:
    names = list(rows[0]["rankings"])
    lines = [
        "| data | rows (train / validation / test) | largest class | oracle on test | " + " | ".join(names) + " | best, share of neurons |"
        " its test score, of oracle |",
        "|---|---:|---:|---:|" + "---:|" * (len(names) + 2),
    ]
    for row in rows:
        cells = {name: entry["size"] for name, entry in row["rankings"].items()}
        known = {name: size for name, size in cells.items() if size is not None}
        winner = min(known, key=lambda name: known[name]) if known else None
        count = " / ".join(f"{row['rows'][name]:,}" for name in ("train", "validation", "test"))
        shown = [f"> {round(most * row['neurons'])}" if size is None else str(size) for size in cells.values()]
        last = ["-", "-"] if winner is None else [f"{known[winner] / row['neurons']:.1%}", f"{row['rankings'][winner]['test']:.1%}"]
        lines.append(
            f"| {row['data']} | {count} | {row['largest class']:.1%} | {row['oracle']['test']:.1%} | " + " | ".join([*shown, *last]) + " |"
        )
    return "\n".join([f"Neurons for {share:.0%} of the oracle on validation.", "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="a data directory, or DIRECTORY:TAGS for a token task")
    parser.add_argument("--share", type=float, default=0.97)
    parser.add_argument("--most", type=float, default=0.1, help="largest share of the neurons that is tried")
    parser.add_argument("--rows", type=int, default=12_000, help="most rows of train")
    parser.add_argument("--words", type=int, default=40_000, help="most words of train; half as many of the other splits")
    parser.add_argument("--rankings", nargs="+", help="these alone")
    parser.add_argument("--step", type=float, help="finer steps, such as 0.9, and a penalty for each size")
    parser.add_argument("--oracles", type=Path, help="the --json of a run before, whose oracles hold")
    parser.add_argument("--cache", type=Path, help="where collected rows are kept")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.data:
        source, _, tags = name.partition(":")
        limits = {"train": arguments.rows, "validation": arguments.rows, "test": arguments.rows}
        if tags:
            limits = {"train": arguments.words, "validation": arguments.words // 2, "test": arguments.words // 2}
        rows.append(measure(Path(source), tags or None, limits, arguments))
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows, arguments.share, arguments.most))


if __name__ == "__main__":
    main()
