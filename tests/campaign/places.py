"""What the cases work on: a tiny model, its data, and what each command makes of them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

_MAKE = """
import sys, shutil
from pathlib import Path
import prunekit
from tests import lines
home = Path(sys.argv[1])
for name in ("base", "sequence", "tokens"):
    shutil.copytree(lines.checkpoint(name), home / name)
shutil.copytree(lines.data("text"), home / "rows")
shutil.copytree(lines.data("topics"), home / "topics")
with lines.quick():
    prunekit.compress(home / "sequence", home / "rows", out=home / "slim", keep="80% params", uniform=True, multiple_of=8)
    prunekit.compress(home / "sequence", home / "rows", out=home / "readout", keep="40%")
prunekit.export(home / "sequence", home / "exported")
prunekit.analyze(home / "sequence", home / "rows", rows=40, out=home / "analysis", analyzers=["neurons"])
"""


class Places:
    """The places, made once by a process of its own, so that the driver has no threads when it forks.

    Parameters
    ----------
    home : Path
        Where they are made.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    def made(self) -> dict[str, str]:
        """{name: path}."""
        self._home.mkdir(parents=True)
        subprocess.run([sys.executable, "-c", _MAKE, str(self._home)], check=True)
        names = ("base", "sequence", "tokens", "rows", "topics", "slim", "readout", "exported", "analysis")
        places = {name: str(self._home / name) for name in names}
        places["plan"] = f"{places['slim']}/plan.json"
        places["statistics"] = f"{places['analysis']}/statistics.safetensors"
        places["onnx"] = f"{places['exported']}/onnx/model.onnx"
        return places


def imported() -> None:
    """Import what the commands import, once for all children."""
    for name in ("analysis", "pipeline", "exporters.export", "measure.bench", "training.distill", "solve", "shrinking", "cli"):
        importlib.import_module(f"prunekit.{name}")
    for name in ("datasets", "onnxruntime", "onnx", "sklearn.linear_model", "transformers.models.bert.modeling_bert"):
        importlib.import_module(name)
