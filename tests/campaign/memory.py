"""What a user's own program passes on: rows in memory, numbers of NumPy, parameters of the callback, and places to save to."""

from __future__ import annotations

import collections
import fractions
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.campaign.case import Case
from tests.campaign.live import array, loaded
from tests.campaign.rows import PLAIN

_TEXTS, _LABELS = [row["text"] for row in PLAIN], [row["label"] for row in PLAIN]


#: {parameter of the callback: values that it does not take}.
CALLBACKS: dict[str, tuple[Any, ...]] = {
    "keep": (5, "", "evil", [], "10% neurons", "8 MB", ["10% params", "20% params"], b"10%", {"a": 1}, [5], "10%\ud800"),
    "schedule": ("evil", None, 5, []),
    "start": (-1, 2, "0", None, float("nan"), float("inf"), True, 1j, [0]),
    "end": (-1, 2, "1", None, float("nan"), True, 0.1),
    "steps": (0, -1, 1.5, "3", None, True, 10**30),
    "recover": ("no", 1, None),
    "masks": ("no", 0, None),
    "layers": ("", "0-", 5, [0], "9" * 5000, "0-99999999999"),
    "ffn_blocks": ("", "0-", 5, [0]),
    "freeze": ("", "evil", 5, [0]),
    "average": ("evil", 5, [], len),
    "calibration": ("evil", 5, [1], ["a"], {"a": 1}, {1}, [{"a": 1}]),
    "rows": (0, -1, 1.5, "3", True, 10**30),
    "seed": (-1, 1.5, "3", None, True, 10**30),
}


def _of_callback(parameter: str, value: Any, places: dict[str, str]) -> object:
    import prunekit

    return prunekit.PruneCallback(**{"keep": "50% params", parameter: value})


def _numpy(name: str, value: float) -> Callable[[], Any]:
    return array(lambda np: getattr(np, name)(value))


#: Numbers that are right, in types that programs have them in.
NUMBERS: dict[str, tuple[dict[str, Any], dict[str, Callable[[], Any]]]] = {
    "analyze": (
        {"model": "{sequence}", "data": "{rows}", "rows": 40, "analyzers": ["neurons"], "out": "{here}/out"},
        {"rows": _numpy("int64", 40), "seed": _numpy("int32", 1), "max_length": _numpy("uint8", 16)},
    ),
    "export": (
        {"model": "{sequence}", "out": "{here}/out"},
        {"seed": _numpy("int64", 1), "max_length": _numpy("int64", 16), "opset": _numpy("int64", 17)},
    ),
    "bench": (
        {"lengths": [5], "time_budget": 0.001, "memory": False},
        {
            "threads": _numpy("int64", 1),
            "seed": _numpy("int64", 1),
            "time_budget": _numpy("float32", 0.001),
            "min_speedup": lambda: fractions.Fraction(1, 1000),
            "max_regression": lambda: fractions.Fraction(1000),
            "batch_sizes": lambda: [_numpy("int64", 2)()],
            "lengths": lambda: [_numpy("int64", 5)()],
        },
    ),
    "Recipe": (
        {},
        {"seed": _numpy("int64", 1), "threads": _numpy("int64", 1), "threshold": _numpy("float64", 0.5), "layers": lambda: [0, 1]},
    ),
}


def _of_number(function: str, parameter: str, make: Callable[[], Any], places: dict[str, str]) -> object:
    import prunekit

    right, _ = NUMBERS[function]
    given = {}
    for name, value in right.items():
        for place, path in places.items():
            value = value.replace(f"{{{place}}}", path) if isinstance(value, str) else value
        given[name] = value
    models = (places["onnx"], f"other={places['onnx']}") if function == "bench" else ()
    made = getattr(prunekit, function)(*models, **{**given, parameter: make()})
    if function == "bench":
        return made.to_json()
    return made.to_yaml() if function == "Recipe" else made


def _trained(given: dict[str, Callable[[], Any]], places: dict[str, str]) -> object:
    import prunekit

    model, tokenizer = loaded(places)
    return prunekit.recover(model, model, _TEXTS, **{"tokenizer": tokenizer, "effort": "1epochs", **{k: v() for k, v in given.items()}})


TRAININGS: dict[str, dict[str, Callable[[], Any]]] = {
    "learning_rate=fraction": {"learning_rate": lambda: fractions.Fraction(1, 1000)},
    "learning_rate=numpy": {"learning_rate": _numpy("float32", 1e-3)},
    "seed=numpy": {"seed": _numpy("int64", 1)},
    "max_length=numpy": {"max_length": _numpy("int64", 16)},
    "memory=numpy": {"memory": _numpy("int64", 10**6)},
    "tokenizer=none": {"tokenizer": lambda: None},
    "tokenizer=text": {"tokenizer": lambda: "bert"},
    "tokenizer=function": {"tokenizer": lambda: len},
}


def _kept(value: Any, what: str, places: dict[str, str]) -> object:
    """Write a plan or a recipe to a place that is none."""
    import prunekit
    from prunekit.plan import Plan

    return (Plan.load(places["plan"]) if what == "Plan" else prunekit.Recipe()).save(value)


NOWHERE: dict[str, Any] = {"number": 5, "none": None, "bytes": b"x", "absent": "absent/absent/x", "nul": "a\0b", "device": "/dev/full",
                            "directory": "/", "loop": "~nosuchuser/x"}  # fmt: skip


def _torch_data(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def made() -> Any:
        import torch

        return make(torch)

    return made


def _arrow(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def made() -> Any:
        import pyarrow as pa

        return make(pa)

    return made


def _frame(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def made() -> Any:
        import pandas as pd

        return make(pd)

    return made


def _sets(make: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    def made() -> Any:
        import datasets

        datasets.disable_progress_bars()
        return make(datasets, datasets.Dataset.from_dict({"text": _TEXTS, "label": _LABELS}))

    return made


def _gone(datasets: Any, plain: Any) -> Any:
    """A set whose file is no longer there."""
    import tempfile

    with tempfile.TemporaryDirectory(dir=Path.cwd().parent) as home:
        plain.save_to_disk(f"{home}/set")
        return datasets.load_from_disk(f"{home}/set")


_DATA = {"text": _TEXTS, "label": _LABELS}
#: Rows in memory.
DATA: dict[str, Callable[[], Any]] = {
    "an arrow table": _arrow(lambda pa: pa.table(_DATA)),
    "an arrow batch": _arrow(lambda pa: pa.RecordBatch.from_pydict(_DATA)),
    "arrow arrays": _arrow(lambda pa: {name: pa.array(values) for name, values in _DATA.items()}),
    "arrow chunks": _arrow(lambda pa: {name: pa.chunkedarray([values]) for name, values in _DATA.items()}),
    "arrow scalars": _arrow(lambda pa: {"text": _TEXTS, "label": [pa.scalar(value) for value in _LABELS]}),
    "tensors as labels": _torch_data(lambda torch: {"text": _TEXTS, "label": torch.tensor(_LABELS)}),
    "tensors of one as labels": _torch_data(lambda torch: {"text": _TEXTS, "label": [torch.tensor(value) for value in _LABELS]}),
    "tensors on no device": _torch_data(lambda torch: {"text": _TEXTS, "label": torch.tensor(_LABELS).to("meta")}),
    "tensors that are trained": _torch_data(lambda torch: {"text": _TEXTS, "label": torch.rand(60, requires_grad=True)}),
    "tensors that are sparse": _torch_data(lambda torch: {"text": _TEXTS, "label": torch.tensor(_LABELS).to_sparse()}),
    "tensors of bfloat16": _torch_data(lambda torch: {"text": _TEXTS, "label": torch.rand(60).bfloat16()}),
    "tensors of complex numbers": _torch_data(lambda torch: {"text": _TEXTS, "label": torch.zeros(60, dtype=torch.complex64)}),
    "a matrix of tensors": _torch_data(lambda torch: {"text": _TEXTS, "label": torch.zeros(60, 2)}),
    "a number of tensors": _torch_data(lambda torch: {"text": _TEXTS, "label": torch.tensor(5)}),
    "a loader": _torch_data(lambda torch: torch.utils.data.DataLoader(PLAIN)),
    "a set of torch": _torch_data(lambda torch: torch.utils.data.TensorDataset(torch.zeros(60))),
    "masked labels": array(lambda np: {"text": _TEXTS, "label": np.ma.array(_LABELS, mask=[True] + [False] * 59)}),
    "labels of longdouble": array(lambda np: {"text": _TEXTS, "label": np.array(_LABELS, dtype=np.longdouble)}),
    "labels of half": array(lambda np: {"text": _TEXTS, "label": np.array(_LABELS, dtype=np.float16)}),
    "labels of durations": array(lambda np: {"text": _TEXTS, "label": np.array(_LABELS, dtype="timedelta64[s]")}),
    "labels of nanoseconds": array(lambda np: {"text": _TEXTS, "label": np.array(_LABELS, dtype="datetime64[ns]")}),
    "a matrix of texts": array(lambda np: {"text": np.array([_TEXTS]), "label": _LABELS}),
    "records": array(lambda np: np.rec.fromarrays([_TEXTS, _LABELS], names="text,label")),
    "a deque": lambda: {"text": collections.deque(_TEXTS), "label": collections.deque(_LABELS)},
    "a proxy": lambda: types.MappingProxyType(_DATA),
    "a chain": lambda: collections.ChainMap({"text": _TEXTS}, {"label": _LABELS}),
    "a counter": lambda: collections.Counter(_TEXTS),
    "a namedtuple": lambda: collections.namedtuple("Pair", "a b")(_TEXTS, _LABELS),
    "views of a dict": lambda: {"text": dict.fromkeys(_TEXTS).keys(), "label": _LABELS},
    "ranges": lambda: {"text": _TEXTS, "label": range(60)},
    "memory": lambda: {"text": _TEXTS, "label": memoryview(bytes(_LABELS))},
    "bytes as labels": lambda: {"text": _TEXTS, "label": bytes(_LABELS)},
    "fractions as labels": lambda: {"text": _TEXTS, "label": [fractions.Fraction(1, 3), fractions.Fraction(1)] * 30},
    "two texts": lambda: ["a", "b"],
    "two rows": lambda: [PLAIN[0], PLAIN[1]],
    "a list of pairs": lambda: [("a", 1)] * 60,
    "a pair of generators": lambda: ((text for text in _TEXTS), (label for label in _LABELS)),
    "a pair of sets": lambda: (set(_TEXTS), set(_LABELS)),
    "a pair of dicts": lambda: ({"text": _TEXTS}, {"label": _LABELS}),
    "splits of numbers": lambda: {1: _DATA, 2: _DATA},
    "splits of none": lambda: {"train": _DATA, "test": None},
    "splits of nothing": lambda: {"train": _DATA, "validation": {"text": [], "label": []}},
    "splits of pairs": lambda: {"train": (_TEXTS, _LABELS), "test": (_TEXTS, _LABELS)},
    "splits of other columns": lambda: {"train": _DATA, "test": {"evil": [1]}},
    "splits of a text": lambda: {"train": "text", "test": "x"},
    "splits and columns": lambda: {"train": _TEXTS, "test": _LABELS},
    "a split that is itself one": lambda: {"train": {"train": _DATA}},
    "a frame of NaT": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": [pd.NaT] * 60})),
    "a frame of NA alone": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": [pd.NA] * 60})),
    "a frame of complex numbers": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": [1j, 0] * 30})),
    "a frame of tuples": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": [(1, 2)] * 60})),
    "a frame of frames": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": [pd.DataFrame({"a": [1]})] * 60})),
    "a frame of sets": _frame(lambda pd: pd.DataFrame({"text": _TEXTS, "label": [{1}, {2}] * 30})),
    "a frame of arrow": _frame(lambda pd: pd.DataFrame(PLAIN).convert_dtypes(dtype_backend="pyarrow")),
    "a frame of sparse texts": _frame(lambda pd: pd.DataFrame({"text": pd.arrays.SparseArray(_TEXTS, fill_value="a"), "label": _LABELS})),
    "a frame of columns of None": _frame(lambda pd: pd.DataFrame({None: _TEXTS, "label": _LABELS})),
    "a frame of columns of tuples": _frame(lambda pd: pd.DataFrame({("a", "b"): _TEXTS, "label": _LABELS})),
    "a frame that is turned": _frame(lambda pd: pd.DataFrame(PLAIN).T),
    "a frame of rows alone": _frame(lambda pd: pd.DataFrame(index=range(60))),
    "series": _frame(lambda pd: {"text": pd.Series(_TEXTS), "label": pd.Series(_LABELS)}),
    "series of NA": _frame(lambda pd: {"text": pd.Series(_TEXTS), "label": pd.Series([0, 1, None] * 20, dtype="Int64")}),
    "series of NA texts": _frame(lambda pd: {"text": pd.Series(["a", None] * 30, dtype="string"), "label": pd.Series(_LABELS)}),
    "series of times": _frame(lambda pd: {"text": _TEXTS, "label": pd.Series(pd.date_range("2001-01-01", periods=60))}),
    "series of categories": _frame(lambda pd: {"text": _TEXTS, "label": pd.Series(pd.Categorical(["a", "b"] * 30))}),
    "an index": _frame(lambda pd: {"text": pd.Index(_TEXTS), "label": pd.Index(_LABELS)}),
    "a pair of series": _frame(lambda pd: (pd.Series(_TEXTS), pd.Series(_LABELS, dtype="Int64"))),
    "splits of frames": _frame(lambda pd: {"train": pd.DataFrame(PLAIN), "test": pd.DataFrame(PLAIN)}),
    "splits of a series": _frame(lambda pd: {"train": pd.Series(_TEXTS), "test": pd.Series(_LABELS)}),
    **{
        f"a set in the format of {name}": _sets(lambda _, plain, name=name: plain.with_format(name))  # type: ignore[misc]
        for name in ("numpy", "pandas", "arrow", "torch", "python")
    },
    "a set of a selection": _sets(lambda _, plain: plain.shuffle(seed=1).select(range(50))),
    "a set of no columns": _sets(lambda _, plain: plain.remove_columns(["text", "label"])),
    "a set of itself": _sets(lambda datasets, plain: datasets.concatenate_datasets([plain, plain])),
    "a set that is gone": _sets(_gone),
    "a set of no classes": _sets(lambda datasets, plain: plain.cast_column("label", datasets.ClassLabel(num_classes=2))),
    "a set of translations": _sets(
        lambda datasets, plain: datasets.Dataset.from_dict(
            {"text": [{"a": "x", "b": "y"}] * 60, "label": _LABELS},
            features=datasets.Features({"text": datasets.Translation(["a", "b"]), "label": datasets.Value("int64")}),
        )
    ),
    "a set of classes in lists": _sets(
        lambda datasets, plain: datasets.Dataset.from_dict(
            {"text": _TEXTS, "label": [[0, 1]] * 60},
            features=datasets.Features(
                {"text": datasets.Value("string"), "label": datasets.Sequence(datasets.ClassLabel(names=["a", "b"]))}
            ),
        )
    ),
    "splits of two sets": _sets(lambda datasets, plain: datasets.DatasetDict({"train": plain, "test": plain.select([])})),
    "splits of other names": _sets(lambda datasets, plain: datasets.DatasetDict({"train[:10%]": plain, "unsupervised": plain})),
    "splits of a stream": _sets(lambda datasets, plain: {"train": plain.to_iterable_dataset(), "test": plain}),
    "streams": _sets(lambda datasets, plain: datasets.IterableDatasetDict({"train": plain.to_iterable_dataset()})),
}


def _of_data(make: Callable[[], Any], places: dict[str, str]) -> object:
    import prunekit

    out = f"{places['here']}/out"
    return prunekit.analyze(places["sequence"], make(), rows=40, out=out, analyzers=["neurons"], progress=False)


def memory_cases() -> Iterator[Case]:
    """Every object, given to what takes one like it."""
    for name, given in TRAININGS.items():
        yield Case(f"number recover {name}", call=partial(_trained, given), may=True)
    for parameter, values in CALLBACKS.items():
        for value in values:
            yield Case(f"callback {parameter}={str(value)[:20]!a} {type(value).__name__}", call=partial(_of_callback, parameter, value))
    for function, (_, parameters) in NUMBERS.items():
        for parameter, make in parameters.items():
            yield Case(f"number {function} {parameter}", call=partial(_of_number, function, parameter, make), may=True)
    for what in ("Plan", "Recipe"):
        for name, place in NOWHERE.items():
            yield Case(f"saved {what} {name}", call=partial(_kept, place, what))
    for name, make in DATA.items():
        yield Case(f"memory analyze more {name}", call=partial(_of_data, make), may=True)
