"""What the cases work on: a tiny model, its data, and what each command makes of them."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

_MAKE = """
import sys, shutil
from pathlib import Path
import prunekit
from tests import lines
from tests.campaign.rows import ASKED, FOUND
from tests.pipeline.test_embedding import dense
from tests.pipeline.test_questions import decided
home = Path(sys.argv[1])
for name in ("base", "sequence", "tokens"):
    shutil.copytree(lines.checkpoint(name), home / name)
shutil.copytree(lines.data("text"), home / "rows")
shutil.copytree(lines.data("topics"), home / "topics")
dense(home / "embedder")
lines.save(decided(), home / "questions")
lines.write_rows(home / "asked", {"train": ASKED, "validation": ASKED[:30], "test": ASKED[:30]})
lines.write_rows(home / "search", {name: rows for name, rows in FOUND.items()})
with lines.quick():
    prunekit.compress(home / "sequence", home / "rows", out=home / "slim", keep="80% params", uniform=True, multiple_of=8)
    prunekit.compress(home / "sequence", home / "rows", out=home / "readout", keep="40%")
prunekit.export(home / "sequence", home / "exported")
prunekit.analyze(home / "sequence", home / "rows", rows=40, out=home / "analysis", analyzers=["neurons"])
(home / "parts").mkdir()
for number in (1, 2):
    prunekit.collect(home / "sequence", home / "rows", shard=f"{number}/2", out=home / "parts" / f"{number}.safetensors")
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
        """{name: path}; what is there already is taken as it is."""
        if not self._home.exists():
            self._home.mkdir(parents=True)
            subprocess.run([sys.executable, "-c", _MAKE, str(self._home)], check=True)
        names = (
            "base",
            "sequence",
            "tokens",
            "embedder",
            "questions",
            "asked",
            "search",
            "rows",
            "topics",
            "slim",
            "readout",
            "exported",
            "analysis",
            "parts",
        )
        places = {name: str(self._home / name) for name in names}
        places["plan"] = f"{places['slim']}/plan.json"
        places["statistics"] = f"{places['analysis']}/statistics.safetensors"
        places["onnx"] = f"{places['exported']}/onnx/model.onnx"
        return places


def imported() -> None:
    """Import what the commands import, once for all children."""
    import prunekit

    for module in pkgutil.walk_packages(prunekit.__path__, "prunekit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("datasets", "onnxruntime", "onnx", "sklearn.linear_model", "transformers.models.bert.modeling_bert"):
        importlib.import_module(name)
    # What is there already is not looked at again, and so not copied, in each child.
    gc.freeze()
