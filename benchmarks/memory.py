"""Peak memory of `compress --keep "30% params"`, stage by stage: `python benchmarks/memory.py base` (or `large`), with random weights.

A BERT of the published size is written with the embedded model's tokenizer, and rows of 128 tokens with random words and labels; the run is
that of the command line. Memory is the resident set of the process, read five times a second from Linux's /proc.

Result: docs/results.md, "Memory".
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

SIZES = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}


def write(size: str, rows: int, folder: Path) -> None:
    """Write the model and the data."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from prunekit.data.demo import demo_model

    tokenizer = AutoTokenizer.from_pretrained(demo_model())
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}, **SIZES[size])
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and len(word) > 3)
    generator = random.Random(0)
    (folder / "data").mkdir()
    for name, count in (("train", rows), ("validation", 300), ("test", 300)):
        lines = [
            json.dumps({"text": " ".join(generator.choices(words, k=126)), "label": generator.choice(["no", "yes"])}) for _ in range(count)
        ]
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def resident() -> float:
    """The resident set of this process, in GB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1e6


def main() -> None:
    """Print the peak of each stage as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--rows", type=int, default=2048, help="of train")
    parser.add_argument("--recover", default="90s")
    arguments = parser.parse_args()
    from multiprocessing import get_context

    from prunekit.cli import main as prunekit
    from prunekit.report.progress import Stages

    with tempfile.TemporaryDirectory() as place:
        folder, begin, peak = Path(place), time.perf_counter(), [0.0]
        # In a process of its own, whose memory does not count.
        child = get_context("spawn").Process(target=write, args=(arguments.size, arguments.rows, folder))
        child.start()
        child.join()

        def watch() -> None:
            while True:
                peak[0] = max(peak[0], resident())
                time.sleep(0.2)

        call = Stages.__call__

        @contextmanager
        def stage(stages: Stages, name: str, unit: str = "") -> Iterator[None]:
            peak[0] = 0.0
            try:
                with call(stages, name, unit):
                    yield
            finally:
                print(
                    json.dumps({"stage": name, "GB": round(max(peak[0], resident()), 2), "s": round(time.perf_counter() - begin)}),
                    flush=True,
                )

        threading.Thread(target=watch, daemon=True).start()
        command = [
            "compress",
            str(folder / "model"),
            "--data",
            str(folder / "data"),
            "--keep",
            "30% params",
            "--recover",
            arguments.recover,
        ]
        with patch.object(Stages, "__call__", stage):
            raise SystemExit(prunekit([*command, "--out", str(folder / "slim")]))


if __name__ == "__main__":
    main()
