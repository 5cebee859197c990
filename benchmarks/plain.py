"""What the plain command gives: `prunekit compress MODEL --data DATA --keep 10%`, by data set and seed, in processes of their own.

    python benchmarks/plain.py docstrings=: trec=:TREC_DIR sst2=MODEL:SST2_DIR upos=:UD_EWT_DIR:--tags=upos --seeds 0 1 2 --json plain.json
    python benchmarks/plain.py trec=:TREC_DIR --recover none --json plain_untrained.json

A set is NAME=MODEL:DATA[:OPTION...]; what is left empty is the embedded encoder or data. A run that is in the JSON file already is not made
again. The table goes to standard output; seconds are those of the whole process, on the wall and of all its threads.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--keep", default="10%")
    parser.add_argument("--recover", default="auto")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--json", type=Path, default=Path("plain.json"))
    parser.add_argument("--reports", type=Path, help="a folder that keeps each run's report.json, for benchmarks/picture.py")
    arguments = parser.parse_args()
    rows = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
    for text in arguments.sets:
        name, _, what = text.partition("=")
        model, data, *options = what.split(":")
        for seed in arguments.seeds:
            key = {"set": name, "keep": arguments.keep, "recover": arguments.recover, "seed": seed}
            if any(key.items() <= row.items() for row in rows):
                continue
            words = [*([model] if model else []), *(["--data", data] if data else []), *options]
            words += ["--keep", arguments.keep, "--recover", arguments.recover, "--seed", str(seed)]
            kept = arguments.reports / f"{name}-{seed}.json" if arguments.reports else None
            rows.append({**key, **run(words, kept)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


def run(words: list[str], kept: Path | None = None) -> dict[str, Any]:
    """One compression, and what its report says; the report itself goes to ``kept``."""
    with tempfile.TemporaryDirectory() as folder:
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "prunekit", "compress", *words, "--out", f"{folder}/slim"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        if done.returncode:
            return {"failed": done.stderr.splitlines()[-1:]}
        text = Path(folder, "slim", "report.json").read_text()
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(text)
        report = json.loads(text)
    values = {row["name"]: row for row in report["rows"]}
    reference = "oracle" if "oracle" in values else "dense"
    return {
        "metric": report["metric"],
        "reference": reference,
        "scores": {name: row["value"] for name, row in values.items()},
        "rows": values["slim"]["n"],
        "retained": values["slim"]["value"] / values[reference]["value"],
        "neurons": [values["slim"]["neurons"], report["dense"]["neurons"]],
        "params": report["slim"]["params_layers"] / report["dense"]["params_layers"],
        "speed": {str(each["batch_size"]): ratios(each) for each in report["latency"]},
        "files": {file["dtype"]: [file["bytes"], file["value"]] for file in report["files"]},
        "seconds": round(end - begin, 1),
        "said": next(iter(re.findall(r"this takes (.+)", done.stderr)), ""),
        "left": re.findall(r"^(.+?): .*?about (.+) left$", done.stderr, re.MULTILINE),
        "processor": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "stages": {name: round(seconds, 1) for name, seconds in report["stages"].items()},
        "retrieval": {f"{row['name']} in {row['index']}": [row["ndcg"], row["share"], row["overlap"]] for row in report["retrieval"]},
        "vectors": {row["name"]: [row["cosine"], row["overlap"]] for row in report["vectors"]},
        "recovered": [note for note in report["notes"] if note.startswith("recovered")],
        "verdict": report.get("verdict", ""),
    }


def ratios(comparison: dict[str, Any]) -> Any:
    """How many times as fast the slim file is: median and the ends of its interval."""
    found = next(ratio for ratio in comparison["ratios"] if ratio["candidate"] == "slim")
    return [found["value"], found["low"], found["high"]]


def table(rows: list[dict[str, Any]]) -> str:
    """One line a set: the mean of its seeds, and the worst."""
    lines = ["| data | seeds | reference | slim | retained, mean | least | speed at 1 | at 32 | seconds |", "|---|" + "---:|" * 8]
    for key in dict.fromkeys((row["set"], row["keep"], row["recover"]) for row in rows):
        runs = [row for row in rows if (row["set"], row["keep"], row["recover"]) == key and "failed" not in row]
        if not runs:
            continue
        kept = [run["retained"] for run in runs]
        mean = {name: statistics.fmean(run["scores"][name] for run in runs) for name in (runs[0]["reference"], "slim")}
        speeds = [f"{min(run['speed'][size][1] for run in runs):.2f}x" for size in sorted(runs[0]["speed"], key=int)[:2]]
        cells = [" ".join(key), str(len(runs)), *(f"{value:.1%}" for value in mean.values())]
        cells += [f"{statistics.fmean(kept):.1%}", f"{min(kept):.1%}", *speeds, f"{statistics.fmean(run['seconds'] for run in runs):.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
