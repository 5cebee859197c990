"""One run of several processes: the CPU seconds that collecting takes with 1, 2 and 4 of them, and training with 1 and 2.

    python benchmarks/group.py collect MODEL DATA benchmarks/results/group_collect.json [ROWS ...]
    python benchmarks/group.py train MODEL DATA benchmarks/results/group_train.json [WORDS ...]

MODEL is an encoder without a head, DATA a directory with `train.jsonl` and `validation.jsonl` of texts and labels. Processes are
started as torchrun starts them, with a thread each, and share whatever cores there are; what is counted is processor time, of which a
process that waits takes none. What torchrun itself takes is measured by itself.

`collect` runs `prunekit collect` on the first ROWS rows of train and a tenth as many of validation. `train` is `prunekit.recover` alone,
after all imports: an epoch of 256 rows, which are sentences joined to WORDS words at least (1: as they are), from a teacher with a head at
random; half of the FFN neurons are trained.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from prunekit.runtime.records import environment

PROCESSES = {"collect": (1, 2, 4), "train": (1, 2)}
SPLITS = {"train": 256, "validation": 16}


def read(data: Path, split: str) -> list[dict[str, Any]]:
    """Rows of a split."""
    return [json.loads(line) for line in (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def cpu(command: list[str], size: int = 1) -> list[float]:
    """CPU seconds, of user and system, of each process of a command; one that is alone has no launcher's variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.DEVNULL,
            env=common if size == 1 else {**common, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]
    found = []
    for process in started:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, command
        found.append(round(usage.ru_utime + usage.ru_stime, 2))
    return found


def collect(model: str, data: Path, rows: int) -> dict[str, Any]:
    """What `prunekit collect` takes on so many rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, count in (("train", rows), ("validation", rows // 10)):
            lines = [json.dumps(row) for row in read(data, split)[:count]]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        words = ["-m", "prunekit", "collect", model, "--data", name, "-q"]
        found = {size: cpu([*words, "-o", str(folder / f"{size}.safetensors")], size) for size in PROCESSES["collect"]}
        files = {(folder / f"{size}.safetensors").read_bytes() for size in PROCESSES["collect"]}
    return {"rows": rows, "seconds": found, "equal": len(files) == 1}


def train(model: str, data: Path, words: int) -> dict[str, Any]:
    """What a training takes, from the moment at which a process has imported everything."""
    found: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for size in PROCESSES["train"]:
            wall = time.perf_counter()
            cpu([__file__, "one", model, str(data), name, str(words)], size)
            found[size] = [json.loads((Path(name) / str(rank)).read_text()) for rank in range(size)]
            print(size, round(time.perf_counter() - wall, 1), found[size], flush=True)
    return {"words": words, "runs": found}


def joined(data: Path, split: str, words: int) -> list[str]:
    """Texts of so many words at least."""
    texts, rows = [], itertools.cycle(read(data, split))
    while len(texts) < SPLITS[split]:
        text = ""
        while len(text.split()) < words:
            text = f"{text} {next(rows)['text']}".strip()
        texts.append(text)
    return texts


def one(model: str, data: str, out: str, words: str) -> int:
    """A process of a training, which leaves at OUT/RANK what it has taken."""
    import numpy as np
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from prunekit.arch.view import ModelView, digest_of
    from prunekit.data.batches import encode
    from prunekit.data.parallel import Helper
    from prunekit.data.parallel import joined as met
    from prunekit.data.rows import Rows
    from prunekit.plan import Plan
    from prunekit.training.distill import recover
    from prunekit.transforms.apply import apply
    from prunekit.validation.launcher import launched

    def measured(begin: float, **more: object) -> None:
        taken = {"seconds": round(time.process_time() - begin, 2), **more}
        (Path(out) / str(0 if place is None else place.rank)).write_text(json.dumps(taken))

    def run() -> None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        torch.manual_seed(0)
        dense = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2).eval()
        source = ModelView.of(dense).source
        plan = Plan(source=source, ffn={block: tuple(range(source.ffn // 2)) for block in range(source.layers)})
        splits = [joined(Path(data), split, int(words)) for split in SPLITS]
        rows, held = (
            encode(Rows(labels=np.zeros(len(texts)), texts=tuple(texts)), tokenizer, max_length=128, per_token=False) for texts in splits
        )
        begin = time.process_time()
        found = recover(apply(dense, plan), dense, rows, effort="1epoch", plan=plan, validation=held)
        trained = sum(parameter.numel() for parameter in found.model.parameters())
        tokens = int(rows.lengths.sum())
        measured(begin, steps=found.steps, precision=found.precision, parameters=trained, tokens=tokens, digest=digest_of(found.model))

    place = launched(os.environ)
    if place is None:
        run()
        return 0
    with met(place) as group:
        begin = time.process_time()
        if isinstance(group, Helper):
            code = group.help()
            measured(begin)
            return code
        with group.leading():
            run()
        group.end(0)
    return 0


def main(what: str, model: str, data: str, out: str, *counts: str) -> None:
    """Measure, and write what was measured."""
    numbers = [int(count) for count in counts] or ([2000] if what == "collect" else [1, 60])
    runs = []
    for number in numbers:
        runs.append(collect(model, Path(data), number) if what == "collect" else train(model, Path(data), number))
        print(runs[-1], flush=True)
    launcher = cpu(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", "true"])[0]
    record = {"model": Path(model).name, "data": Path(data).name, "runs": runs, "torchrun": launcher, "packages": environment().packages}
    Path(out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(one(*sys.argv[2:]) if sys.argv[1] == "one" else main(*sys.argv[1:]))
