"""Several processes of one run: what is divided, what ends them, and what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import prunekit
from prunekit import cli
from prunekit.data.parallel import size, spread, total
from prunekit.plan import Plan
from tests.lines import checkpoint, data
from tests.processes import QUICK, Ended, together

HERE = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}


def test_one_process_divides_nothing() -> None:
    assert (size(), list(spread(str, [1, 2])), total([3], lambda parts: [0])) == (1, ["1", "2"], [3])


def alone_spoke(ended: list[Ended], code: int) -> str:
    """All have ended with a code, and only the first has said something; what it said as an error."""
    assert [process.code for process in ended] == [code] * len(ended), ended
    assert [process.out + process.err for process in ended[1:]] == [""] * (len(ended) - 1)
    return ended[0].err


def test_statistics_of_three_processes_are_those_of_one(root: Path, tmp_path: Path) -> None:
    model, rows = checkpoint("tokens"), data("tokens")
    alone = prunekit.collect(model, rows, out=tmp_path / "alone")
    out = tmp_path / "three"
    ended = together(root, ["collect", str(model), "--data", str(rows), "-o", str(out), "-q"], size=3)
    assert not alone_spoke(ended, 0)
    assert ended[0].out == f"{out}\n"
    assert out.read_bytes() == alone.read_bytes()


def test_torchrun_gives_one_output_and_the_plan_of_one_process(root: Path, tmp_path: Path) -> None:
    words = ["compress", str(checkpoint("sequence")), "--data", str(data("text")), "--keep", "60% params", "--dtype", "fp32", "-q"]
    program = tmp_path / "program.py"
    program.write_text(QUICK)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "two"
    done = subprocess.run(
        [*launch, *words, "--recover", "1epoch", "-o", str(out)], capture_output=True, text=True, env=environment, cwd=root, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["program.py", "two"]
    alone = prunekit.make_plan(checkpoint("sequence"), data("text"), keep="60% params")
    assert alone.ffn
    assert Plan.load(out / "plan.json").digest == alone.digest
    # Trained as by one process, but for the bias of keys, on which no answer depends.
    one = tmp_path / "one"
    subprocess.run([sys.executable, str(program), *words, "--recover", "1epoch", "-o", str(one)], env=environment, cwd=root, check=True)
    ours, theirs = (load_file(folder / "pruned.safetensors") for folder in (out, one))
    for name in (name for name in theirs if not name.endswith("key.bias")):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_an_error_is_said_once_and_ends_all(root: Path, tmp_path: Path) -> None:
    ended = together(root, ["compress", "--kep", "1", "--data", str(data("topics")), "-o", str(tmp_path / "out")])
    assert alone_spoke(ended, 2) == "error: No such option: --kep. Did you mean --keep? See 'prunekit compress --help'.\n"
    assert not (tmp_path / "out").exists()


#: A program of which one process, and only that, is in `BROKEN` when it has its second item.
_BROKEN = """
import os, signal, sys
from unittest.mock import patch
from prunekit import cli
from prunekit.errors import StatisticsError
from prunekit.data.parallel import spread

class Work:
    done = 0
    def __call__(self, item):
        self.done += 1
        # Rank 0 has hidden its own from what it runs.
        if self.done == 2 and os.environ.get("RANK", "0") == "WHO":
            BROKEN
        return item

def app(**_):
    print(list(spread(Work(), range(9))))

with patch("prunekit.cli.base.app", app):
    sys.exit(cli.main(["plan"]))
"""


def broken(root: Path, who: int, how: str) -> list[Ended]:
    return together(root, [], code=_BROKEN.replace("WHO", str(who)).replace("BROKEN", how))


def test_an_error_of_another_process_is_that_of_the_run(root: Path) -> None:
    assert alone_spoke(broken(root, 1, "raise StatisticsError('NaN in the second process.')"), 2) == "error: NaN in the second process.\n"


def test_a_process_that_is_killed_ends_the_run(root: Path) -> None:
    first, second = broken(root, 1, "os.kill(os.getpid(), signal.SIGKILL)")
    assert (first.code, second) == (2, (-9, "", ""))
    assert (first.out, first.err) == ("", "error: Process 2 of 2 (rank 1) has ended, and with it the run.\n")


def test_the_others_end_when_the_first_is_killed(root: Path) -> None:
    assert broken(root, 0, "os.kill(os.getpid(), signal.SIGKILL)") == [(-9, "", ""), (2, "", "")]


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["compress", "--help"], ["show", "nothing"], []])
def test_what_divides_nothing_does_not_wait_for_others(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HERE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("prunekit.data.parallel.joined", None)
    assert cli.main(words) == (2 if words[:1] == ["show"] else 0)


def test_parts_of_a_collection_do_not_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HERE.items():
        monkeypatch.setenv(name, value)
    words = [str(checkpoint("base")), "--data", str(data("topics")), "-o", str(tmp_path / "part"), "-q"]
    assert cli.main(["collect", "--shard=2/4", *words]) == 0
    assert (tmp_path / "part").exists()


#: Three processes that add up what they are given, of which one may fail; whatever happened, the next pass is right.
_TOTAL = """
import os, sys
from prunekit.errors import StatisticsError
from prunekit.data.parallel import Helper, joined, size, spread, total
from prunekit.validation.launcher import launched

class Add:
    def __init__(self, bad, error):
        self.bad, self.error = bad, error
    def __call__(self, item):
        if item == self.bad:
            raise self.error
        return total(item, sum) + total(1, sum)

def double(item):
    return 2 * item

with joined(launched(os.environ)) as group:
    if isinstance(group, Helper):
        sys.exit(group.help())
    with group.leading():
        for bad, error in (9, None), (0, StatisticsError("no")), (1, StatisticsError("no")), (2, KeyError("bug")):
            try:
                print(list(spread(Add(bad, error), range(size()))))
            except Exception as error:
                print(repr(error), [note.splitlines()[0] for note in getattr(error, "__notes__", ())])
            print(next(spread(double, range(9))))
            print(list(spread(double, range(7))), list(spread(double, range(3), beside=True)), list(spread(double, [])))
    group.end(3)
"""


def test_parts_are_added_up_in_all_processes(root: Path) -> None:
    ended = together(root, [], code=_TOTAL, size=3)
    assert [process.code for process in ended] == [0, 3, 3], ended
    first = ["[6, 6, 6]", "StatisticsError('no') []", "StatisticsError('no') []", "KeyError('bug') ['In process 3 of 3:']"]
    after = ["0", "[0, 2, 4, 6, 8, 10, 12] [0, 2, 4] []"]
    assert ended[0].out.splitlines() == [line for said in first for line in (said, *after)]


#: Three processes that step together, of which one may fail, or be killed; whatever happened, the next training is right.
_STEPS = """
import os, signal, sys
import torch
from prunekit.errors import StatisticsError
from prunekit.data import parallel
from prunekit.data.parallel import Helper, accompanied, add_up, hand, handed, spread, total
from prunekit.validation.launcher import launched

class Train:
    def __init__(self, bad, error):
        self.bad, self.error = bad, error
    def step(self, rank, number):
        if (rank, number) == self.bad:
            if self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise self.error
        assert total((rank,), flat) == (0, 1, 2)
    def __call__(self, place):
        rank, size = place
        told = torch.zeros(3)
        while (number := handed(told)) is not None:
            self.step(rank, number)
            add_up(10**rank * told)
        return rank, size, told.tolist()

def flat(parts):
    return sum(parts, ())

def double(item):
    return 2 * item

def train(bad, error):
    work, weights = Train(bad, error), torch.ones(3)
    with accompanied(work) as (size, results):
        for number in range(3):
            hand(number, weights)
            work.step(0, number)
            sums = weights.clone()
            add_up(sums)
            weights = weights + sums
        hand(None, weights)
    return weights.tolist(), results

with parallel.joined(launched(os.environ)) as group:
    if isinstance(group, Helper):
        sys.exit(group.help())
    with group.leading():
        for bad, error in CASES:
            try:
                print(train(bad, error))
            except Exception as error:
                print(repr(error))
            else:
                print(list(spread(double, range(4))))
    group.end(3)
"""


def stepped(root: Path, cases: str) -> list[Ended]:
    return together(root, [], code=_STEPS.replace("CASES", cases), size=3)


def test_a_training_of_several_processes_goes_on_after_an_error_of_any(root: Path) -> None:
    error = "StatisticsError('no')"
    failing = ", ".join(f"(({rank}, {number}), {error}), ((9, 9), None)" for rank, number in [(0, 0), (1, 1), (2, 2), (0, 2)])
    ended = stepped(root, f"[((9, 9), None), {failing}]")
    assert [process.code for process in ended] == [0, 3, 3], ended
    right = ["([1404928.0, 1404928.0, 1404928.0], [(1, 3, [1404928.0, 1404928.0, 1404928.0]), (2, 3, [1404928.0, 1404928.0, 1404928.0])])"]
    right += ["[0, 2, 4, 6]"]
    assert ended[0].out.splitlines() == [*right, *[error, *right] * 4]


def test_a_process_that_is_killed_in_a_training_ends_the_run(root: Path) -> None:
    ended = stepped(root, "[((2, 1), None)]")
    assert ended[0].out == "ProcessError('Process 3 of 3 (rank 2) has ended, and with it the run.')\n"
    assert [process.code for process in ended] == [0, 2, -9]
    assert [process.err for process in ended] == ["", "", ""]
