"""All cases: options, paths, and what `tests.campaign.files` and `tests.campaign.calls` add."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from tests.campaign.calls import call_cases
from tests.campaign.case import Case
from tests.campaign.files import file_cases
from tests.campaign.live import live_cases
from tests.campaign.memory import memory_cases
from tests.campaign.models import model_cases
from tests.campaign.rows import row_cases
from tests.campaign.systems import system_cases as surrounding_cases
from tests.campaign.tables import table_cases

#: Each command with what it needs to run, and nothing hostile.
COMMANDS: dict[str, tuple[str, ...]] = {
    "compress": ("compress", "{sequence}", "--data", "{rows}", "--keep", "60% params", "-o", "{here}/out", "--quiet"),
    "plan": ("plan", "{sequence}", "--data", "{rows}", "--keep", "60% params", "-o", "{here}/plan.json", "--quiet"),
    "apply": ("apply", "{sequence}", "--plan", "{plan}", "-o", "{here}/out", "--quiet"),
    "analyze": ("analyze", "{sequence}", "--data", "{rows}", "--rows", "40", "-o", "{here}/out", "--quiet"),
    "export": ("export", "{sequence}", "-o", "{here}/out", "--quiet"),
    "bench": ("bench", "{exported}", "--length", "5", "--time-budget", "0.001"),
}
#: The same on what has options of its own: questions and embedders.
KINDS: dict[str, tuple[str, ...]] = {
    "questions": ("compress", "{questions}", "--data", "{asked}", "--max-length", "48", "--recover", "none", "-o", "{here}/out", "--quiet"),
    "embedder": (
        *("compress", "{embedder}", "--data", "{rows}", "--task", "embedding", "--keep", "60% params", "--recover", "none"),
        *("-o", "{here}/out", "--quiet"),
    ),
}
#: What is no whole number from 1 on.
WHOLE = (
    "-1", "1_0", "\uff11\uff10", "\u0664", "1e3", "0x10", "", " ", "9" * 40, "nan", "inf", "abc", "1.5", "true", "1\n2", "1;2",
    "99999999999999999", "--",
)  # fmt: skip
NUMBER = ("-1", "1_0", "\uff11", "", " ", "nan", "inf", "-inf", "1e999", "abc", "0x1", "1,5", "9" * 400)
PERCENT = ("-1%", "1_0%", "\uff11%", "", "%", "nan%", "inf%", "1e3%", "abc", "200%", "9" * 400 + "%", "50")
BUDGET = ("-1%", "1_0%", "\uff11\uff10%", "", "%", "nan%", "0%", "200%", "abc", "10% evil", "0 MB", "-1 MB", "1e9%", "9" * 400, "x" * 10**6)
BLOCKS = (
    "", "0-", "-1", "0-99999999999", "1_0", "\uff10", "0.9", "null", "2-0", "0,0", "a-b", "0,,1", "0-1-2", "9" * 5000, "0-4294967295",
)  # fmt: skip
NAME = ("evil", "", "\x1b[31mred", "a\nb", "x" * 10**5)
OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "compress": {
        "--max-length": (*WHOLE, "0", "65", "1024"),
        "--seed": WHOLE,
        "--threads": (*WHOLE, "0", "100000"),
        "--batch": (*WHOLE, "0", "1", "2"),
        "--multiple-of": (*WHOLE, "0", "7"),
        "--threshold": (*NUMBER, "2"),
        "--layer-delta": PERCENT,
        "--max-drop": PERCENT,
        "--keep": BUDGET,
        "--speedup": ("1x", "0x", "-1x", "nanx", "infx", "1_0x", "\uff13x", "1001x", ""),
        "--layers": BLOCKS,
        "--drop": ("", "ffn:", "ffn:0-", "evil:0", "ffn:0-99999999999", "attention:-1", "ffn:1_0", "ffn"),
        "--vocabulary": NAME,
        "--dtype": NAME,
        "--method": NAME,
        "--task": NAME,
        "--metric": NAME,
        "--pooling": NAME,
        "--recover": ("", "0min", "-1min", "nanmin", "1_0min", "\uff11min", "10", "10 years", "1e9h"),
        "--freeze": ("evil", "layers:0-"),
        "--text": NAME,
        "--label": NAME,
        "--tokens": NAME,
        "--tags": NAME,
        "--group": NAME,
        "--prompt": NAME,
        "--space": NAME,
        "--dims": (*WHOLE, "0", "4"),
        "--stride": (*WHOLE, "0", "4"),
        "--retrieval": (*NAME, "{rows}", "{search}"),
        "--json": ("", "{here}/out/report.json", "{rows}/train.jsonl", "{sequence}/config.json"),
        "--output-dir": ("", "/", "~", "{sequence}", "{rows}", "/dev/null", "nul\0byte", "{sequence}/config.json"),
    },
    "questions": {
        "--stride": (*WHOLE, "24", "1000000"),
        "--max-length": ("4", "5", "65"),
        "--text": NAME,
        "--text-pair": NAME,
        "--label": (*NAME, "question"),
        "--tokens": ("question",),
        "--group": NAME,
        "--metric": ("accuracy", "spearman", "f1"),
        "--task": ("text-classification", "regression", "embedding", "token-classification", "multi-label-classification", "text-ranking"),
        "--dims": ("4",),
        "--pooling": ("max",),
        "--retrieval": ("{search}",),
        "--method": ("dalvi2020",),
    },
    "embedder": {
        "--dims": (*WHOLE, "0", "17", "1048577"),
        "--prompt": NAME,
        "--space": NAME,
        "--retrieval": (*NAME, "{rows}", "{embedder}", "{here}", "/dev/null", "~nosuchuser/x", "nul\0byte", "absent/absent/absent"),
        "--stride": ("4",),
        "--metric": ("accuracy", "answer-f1"),
        "--keep": ("10% neurons",),
        "--label": NAME,
        "--baselines": ("x",),
    },
    "plan": {
        "--baselines": ("",),
        "--retrieval": ("{search}",),
        "--dtype": ("int8",),
        "--max-length": ("65",),
        "--layers": BLOCKS,
        "--keep": BUDGET,
        "--threads": ("100000",),
        "--dims": (*WHOLE, "0"),
        "--stride": ("4",),
        "--group": NAME,
    },
    "apply": {
        "--baselines": ("",),
        "--json": ("", "{here}/out/report.json", "{plan}"),
        "--output-dir": ("", "/", "{sequence}", "/dev/null"),
        "--max-length": (*WHOLE, "65"),
        "--seed": WHOLE,
        "--threads": (*WHOLE, "100000"),
        "--dtype": NAME,
    },
    "analyze": {
        "--output-dir": ("", "/", "{sequence}", "/dev/null"),
        "--group": NAME,
        "--stride": ("4",),
        "--rows": (*WHOLE, "0"),
        "--max-length": (*WHOLE, "65", "0"),
        "--seed": WHOLE,
        "--analyzers": (*NAME, ",", "cka,evil"),
        "--pooling": NAME,
    },
    "export": {
        "--opset": (*WHOLE, "0", "16", "21"),
        "--max-length": (*WHOLE, "0", "65"),
        "--seed": WHOLE,
        "--dtype": NAME,
        "--optimize": NAME,
        "--device": NAME,
        "--pooling": (*NAME, "mean"),
        "--metric": (*NAME, "accuracy"),
        "--text": ("text",),
        "--label": ("", "label"),
    },
    "bench": {
        "--batch": (*WHOLE, "0", "1000000000", "1,,2", "65536"),
        "--batch-size": ("0", "-1", "1_0", "1,,2", "5000"),
        "--json": ("", "{exported}/config.json", "{onnx}"),
        "--csv": ("{onnx}", "{exported}/config.json"),
        "--length": (*WHOLE, "0", "65", "1000000000", "5,", "data"),
        "--threads": (*WHOLE, "0", "100000"),
        "--seed": WHOLE,
        "--max-length": (*WHOLE, "0", "3"),
        "--time-budget": (*NUMBER, "0", "1e9"),
        "--min-speedup": NUMBER,
        "--max-regression": ("-1%", "nan", "inf", "abc", "1_0%", "", "5%"),
        "--backend": ("", ",", "evil", "ort,", "openvino,evil"),
        "--gate": ("", "evil", ",", "latency,"),
        "--against": ("", "evil", ",", "dense"),
        "--device": NAME,
        "--data": ("nope.csv", "{rows}", ""),
        "--baseline": ("", "absent", "evil:{exported}"),
    },
}
#: Paths at which nothing can be, or nothing that is read.
PATHS = (
    "", "~nosuchuser/x", "x" * 5000, "a/" * 3000, "{here}/loop", "{here}/fifo", "{here}/closed/x", "{here}/dangling", "nul\0byte",
    "/dev/zero", "/dev/full", "/dev/null", "absent", "absent/absent", "\x1b[31mred", "a\nb", "{here}/file/x", "\udcff",
)  # fmt: skip
#: Options that name a file or a directory that is read.
READ: dict[str, tuple[str, ...]] = {
    "compress": ("MODEL", "--recipe", "--data"),
    "plan": ("MODEL", "--recipe", "--statistics"),
    "apply": ("MODEL", "--plan"),
    "analyze": ("MODEL", "--compare", "--out-of-domain"),
    "export": ("MODEL",),
    "bench": ("MODEL", "--baseline"),
}
#: Options that name a file that is written.
WRITTEN: dict[str, tuple[str, ...]] = {
    "compress": ("--json",),
    "apply": ("--json",),
    "plan": ("-o",),
    "bench": ("--json", "--csv", "--markdown", "--github", "--pytest-benchmark"),
}
#: Options that name a directory that is written.
MADE: dict[str, tuple[str, ...]] = {"compress": ("-o", "--output-dir"), "apply": ("-o",), "analyze": ("--output-dir",), "export": ("-o",)}
NOWHERE = ("~nosuchuser/x", "x" * 5000, "{here}/loop", "nul\0byte", "{here}/file/x", "{here}/fifo", "/dev/null", "/dev/full", "/proc/x", "")


#: Commands, and bytes at which one of their files does not fit.
FULL = (
    *((command, largest) for command in ("compress", "apply", "analyze", "export") for largest in (400, 1_000, 10_000)),
    ("compress", 30_000),
    ("export", 30_000),
    ("plan", 400),
    ("plan", 500),
)


def odd_files(here: Path) -> None:
    """Files that no reader should wait for, follow or believe."""
    (here / "loop").symlink_to("loop")
    (here / "dangling").symlink_to("nowhere")
    (here / "file").write_text("not a directory")
    (here / "directory").mkdir()
    os.mkfifo(here / "fifo")


def all_cases() -> Iterator[Case]:
    """Every case, with a name of its own."""
    yield from itertools.chain(option_cases(), path_cases(), system_cases(), file_cases(), row_cases(), call_cases())
    # New kinds come last, so that every N-th of the rest stays the same.
    yield from itertools.chain(model_cases(), table_cases(), surrounding_cases(), live_cases(), memory_cases())
    # That module reads the commands above.
    from tests.campaign.parts import part_cases

    yield from part_cases()


def option_cases() -> Iterator[Case]:
    """Values of options."""
    for command, options in OPTIONS.items():
        for option, values in options.items():
            for value in values:
                yield Case(f"option {command} {option} {short(value)}", (*{**COMMANDS, **KINDS}[command], option, value))
    yield Case("option show", ("show",))
    for extra in (("--evil",), ("--keep",), ("evil", "evil")):
        for command in COMMANDS:
            yield Case(f"option {command} {' '.join(extra)}", (*COMMANDS[command], *extra))
    yield Case("option evil", ("evil",))
    yield Case("option bench twice", (*COMMANDS["bench"], "--json", "{here}/a", "--csv", "{here}/a"))
    yield Case("option bench over a model", (*COMMANDS["bench"][:1], "{onnx}", *COMMANDS["bench"][2:], "--json", "{onnx}"))
    yield Case("option bench a plan", ("bench", "{plan}", "--length", "5"))
    yield Case("option bench length and data", ("bench", "{exported}", "--length", "4", "--data", "nope.csv"))
    yield Case("option bench data too long", ("bench", "{exported}", "--data", "{rows}", "--max-length", "65"))
    yield Case("option export evil metric", (*COMMANDS["export"], "--data", "{rows}", "--metric", "evil"))
    yield Case("option plan over a file", (*COMMANDS["plan"][:-1], "--overwrite", "-o", "{here}/file"), make=odd_files)


def path_cases() -> Iterator[Case]:
    """Places that cannot be read or written."""
    for command, options in READ.items():
        for option, path in itertools.product(options, PATHS):
            words = list(COMMANDS[command])
            if option == "MODEL":
                words[1] = path
                if path == "\x1b[31mred" or (command == "bench" and path == ""):
                    pass
            else:
                words += [option, path]
            yield Case(f"path {command} {option} {short(path)}", tuple(words), make=odd_files)
    for path in PATHS:
        yield Case(f"path show {short(path)}", ("show", path), make=odd_files)
    for command, options in WRITTEN.items():
        for option, path in itertools.product(options, (*NOWHERE, "absent/absent/x", "{here}/directory")):
            yield Case(f"path {command} {option} {short(path)}", (*COMMANDS[command], option, path), make=odd_files)
    for command, options in MADE.items():
        for option, path in itertools.product(options, (*NOWHERE, "{here}/file", "{here}", "/", "~")):
            yield Case(f"path {command} {option} {short(path)}", (*COMMANDS[command], "--overwrite", option, path), make=odd_files)


def system_cases() -> Iterator[Case]:
    """A system that takes nothing."""
    for words in (("show", "{plan}"), ("show", "--help"), ("--version",)):
        yield Case(f"system full stdout {' '.join(words)}", words, stdout="/dev/full")
    for command, words in COMMANDS.items():
        kept = tuple(word.replace("{here}/", "") for word in words)
        yield Case(f"system no working directory {command}", (kept[0], "model", *kept[2:]), gone=True)
    for command, largest in FULL:
        yield Case(f"system full disk {command} {largest}", COMMANDS[command], largest=largest)
    yield Case("system full disk bench --json", (*COMMANDS["bench"], "--json", "{here}/report.json"), largest=1_000)
    for value in ("/dev/full/x", "absent/x", "{here}", "~nosuchuser/x", "nul"):
        environment = {"GITHUB_STEP_SUMMARY": value.replace("{here}", ".")}
        if value != "nul":
            yield Case(f"system summary {value}", COMMANDS["bench"], environment=environment)


def short(value: str) -> str:
    """A value as part of a name."""
    return ascii(value if len(value) <= 40 else f"{value[:20]}... ({len(value)})")
