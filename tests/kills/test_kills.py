"""A short run of what `python -m tests.kills` does, on the writing alone, and what it would find."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kills.kill import Kind, killed, names_of, near_the_commit, start, wait

#: Writes an output of some files, as slowly as a model.
PROGRAM = """
import sys, time
from pathlib import Path
from prunekit.exporters.artefact import ArtefactWriter
from prunekit.exporters.manifest import foreign
from prunekit.plan import Plan, Source
if sys.argv[1] == "show":
    sys.exit(foreign(Path(sys.argv[2])) is not None)
# A further word is "--overwrite", which this always does.
out, seed, careless = sys.argv[1:4]
with ArtefactWriter(out, overwrite=True) as folder:
    print("begun", flush=True)
    source = Source(model_type="bert", layers=2, hidden=8, heads=2, ffn=4, vocabulary=9)
    Plan(source=source, provenance={"seed": seed}).save(folder / "plan.json")
    for at in range(20):
        (folder / f"vocab.{at}.txt").write_bytes(bytes(2**16))
        time.sleep(0.005)
    if careless == "True":
        Path(out).mkdir(exist_ok=True)
        Path(out, "half").touch()
        time.sleep(60)
if careless == "linger" and "--overwrite" not in sys.argv:
    time.sleep(60)
"""


def kind(home: Path, *, careless: bool = False) -> Kind:
    home.mkdir()
    assert wait(start([str(home / "out"), "1", "False"], home, fresh=True, program=PROGRAM), 60.0) == 0
    return Kind(("{out}", "2", str(careless)), home / "out", names_of(home / "out"), PROGRAM, forks=False)


def test_whatever_the_moment(tmp_path: Path) -> None:
    draw, seen = random.Random(0), set()
    whole = kind(tmp_path / "made")
    # Where this process is held up, a run may be over before it is killed: then there are more.
    for at, old in enumerate([whole.old, None, whole.old] * 5):
        if at > 2 and {"none", "old"} & seen:
            break
        place = tmp_path / f"{at}"
        place.mkdir()
        seconds = draw.uniform(0.0, 0.1)

        def kill(child: int, place: Path = place, seconds: float = seconds, commit: bool = at == 2) -> int:
            if commit:
                return near_the_commit(place / "beside", seconds / 50, 60.0)(child)
            while not (place / "said").read_text(encoding="utf-8"):
                time.sleep(0.005)
            return wait(child, seconds)

        ended = killed(replace(whole, old=old), place, kill)
        assert ended.fault == ""
        seen.add(ended.output)
    assert seen <= {"none", "old", "new", "finished"}
    assert {"none", "old"} & seen


def test_a_new_output_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()

    def kill(child: int) -> int:
        while not (tmp_path / "run" / "beside" / "out" / "manifest.json").exists():
            time.sleep(0.001)
        return wait(child, 0.0)

    lingers = replace(kind(tmp_path / "made"), old=None, words=("{out}", "2", "linger"))
    ended = killed(lingers, tmp_path / "run", kill)
    assert (ended.output, ended.fault) == ("new", "")


def test_a_half_output_is_found(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    careless = replace(kind(tmp_path / "made", careless=True), old=None)

    def kill(child: int) -> int:
        while not (tmp_path / "run" / "beside" / "out" / "half").exists():
            time.sleep(0.005)
        return wait(child, 0.0)

    assert killed(careless, tmp_path / "run", kill, longest=0.0).fault.startswith("half of an output")


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_a_process_is_waited_for_and_killed(seconds: float, tmp_path: Path) -> None:
    assert wait(start([], tmp_path, fresh=True, program="import time; time.sleep(60)"), seconds) == -9
    assert wait(start([], tmp_path, fresh=True, program="raise SystemExit(3)"), 60.0) == 3
