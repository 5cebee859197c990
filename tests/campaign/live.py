"""Models, tokenizers and calibration rows that a user's own program has in memory."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tests.campaign.case import Case
from tests.campaign.rows import PLAIN

_TEXTS = [row["text"] for row in PLAIN]


def loaded(places: dict[str, str], name: str = "sequence") -> tuple[Any, Any]:
    """A model and its tokenizer."""
    from prunekit.arch.load import load_model

    loaded = load_model(places[name])
    return loaded.model, loaded.tokenizer


def _fill(name: str, value: float) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        model.get_parameter(name).data[0] = value
        return model

    return change


def _set(path: str, value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A model of which a part is another."""

    def change(model: Any) -> Any:
        parent, _, name = path.rpartition(".")
        root = model
        for step in filter(None, parent.split(".")):
            root = root[int(step)] if step.isdigit() else getattr(root, step)
        setattr(root, name, value(getattr(root, name, None)))
        return model

    return change


def _torch(change: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    def made(model: Any) -> Any:
        import torch

        return change(torch, model)

    return made


def _hook(result: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        model.bert.encoder.layer[0].register_forward_hook(lambda module, given, output: result(output))
        return model

    return change


def _non_leaf(torch: Any, model: Any) -> Any:
    layer = model.bert.encoder.layer[0].intermediate.dense
    weight = layer.weight
    del layer.weight
    layer.weight = weight * 2
    return model


def _int8(torch: Any, model: Any) -> Any:
    weight = model.bert.encoder.layer[0].intermediate.dense.weight
    weight.requires_grad_(False)
    weight.data = weight.data.to(torch.int8)
    return model


def _normed(torch: Any, model: Any) -> Any:
    torch.nn.utils.parametrizations.weight_norm(model.bert.encoder.layer[0].intermediate.dense)
    return model


def _quantized(torch: Any, model: Any) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


class _Adapter:
    """A projection with two matrices beside it, as adapters wrap one."""

    def __new__(cls, base: Any) -> Any:
        import torch

        class Wrapped(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.base_layer = base
                self.lora_A = torch.nn.Linear(base.in_features, 2, bias=False)
                self.lora_B = torch.nn.Linear(2, base.out_features, bias=False)

            def forward(self, states: Any) -> Any:
                return self.base_layer(states) + self.lora_B(self.lora_A(states))

        return Wrapped()


_FFN = "bert.encoder.layer.0.intermediate.dense"
#: {name: what is done to a model in memory}.
MODELS: dict[str, Callable[[Any], Any]] = {
    "on no device": _torch(lambda torch, model: model.to("meta")),
    "with a part on no device": _torch(lambda torch, model: (model.classifier.to("meta"), model)[1]),
    "in half": _torch(lambda torch, model: model.half()),
    "in bfloat16": _torch(lambda torch, model: model.bfloat16()),
    "in double": _torch(lambda torch, model: model.double()),
    "with a matrix of bytes": _torch(_int8),
    "quantised": _torch(_quantized),
    "in parallel": _torch(lambda torch, model: torch.nn.DataParallel(model)),
    "in a list": lambda model: [model],
    "as a class": type,
    "as its config": lambda model: model.config,
    "as its weights": lambda model: model.state_dict(),
    "of nothing": _torch(lambda torch, model: torch.nn.Module()),
    "in training": lambda model: model.train(),
    "that is frozen": lambda model: model.requires_grad_(False),
    "with NaN": _fill(f"{_FFN}.weight", float("nan")),
    "with NaN in its head": _fill("classifier.weight", float("nan")),
    "with infinity": _fill(f"{_FFN}.bias", float("inf")),
    "with huge weights": _fill(f"{_FFN}.weight", 3e38),
    "with a hook that answers nothing": _hook(lambda output: None),
    "with fewer layers than it says": _set("bert.encoder.layer", lambda layers: layers[:2]),
    "with more layers than it says": _set("bert.encoder.layer", lambda layers: layers.append(layers[0])),
    "with no layers": _set("bert.encoder.layer", lambda layers: layers[:0]),
    "with the same layer twice": _set("bert.encoder.layer", lambda layers: type(layers)([layers[0]] * len(layers))),
    "with a layer left out": _torch(lambda torch, model: _set("bert.encoder.layer.0.output", lambda _: torch.nn.Identity())(model)),
    "with a wider matrix": _torch(lambda torch, model: _set(_FFN, lambda _: torch.nn.Linear(16, 64))(model)),
    "with an adapter": _set(_FFN, _Adapter),
    "with a norm of weights": _torch(_normed),
    "with a weight that is computed": _torch(_non_leaf),
    "with a lock": _set("lock", lambda _: threading.Lock()),
    "with an open file": _set("file", lambda _: open(__file__)),  # noqa: SIM115
    "with a generator": _set("stream", lambda _: (at for at in range(3))),
    "without a config": _set("config", lambda _: None),
    "with a config of a dict": _set("config", lambda config: config.to_dict()),
    "with a head of two layers": _torch(
        lambda torch, model: _set("classifier", lambda head: torch.nn.Sequential(torch.nn.Linear(16, 16), head))(model)
    ),
    "with a head of more outputs": _torch(lambda torch, model: _set("classifier", lambda _: torch.nn.Linear(16, 5))(model)),
    "with a head of nothing": _torch(lambda torch, model: _set("classifier", lambda _: torch.nn.Identity())(model)),
    "without a head": _set("classifier", lambda _: None),
    "without embeddings": _set("bert.embeddings", lambda _: None),
    "with a smaller vocabulary": lambda model: (model.resize_token_embeddings(9, mean_resizing=False), model)[1],
    "with fewer positions": _torch(
        lambda torch, model: _set("bert.embeddings.position_embeddings", lambda _: torch.nn.Embedding(4, 16))(model)
    ),
    **{
        f"that says {name}={value!r}": _set(f"config.{name}", lambda _, value=value: value)  # type: ignore[misc]
        for name, values in {
            "num_hidden_layers": (0, 99),
            "hidden_size": (8,),
            "intermediate_size": (0, 64),
            "num_attention_heads": (3, 0),
            "vocab_size": (1, 10**9),
            "max_position_embeddings": (4, 10**6),
            "id2label": ({}, None, {0: "a"}, {"x": "y"}, {0: "a", 1: "a"}),
            "model_type": ("evil", None, 5),
            "problem_type": ("multi_label_classification", "evil"),
            "architectures": (["Evil"], 5),
            "pad_token_id": (-5, 10**9),
            "dense_config": ({}, 5),
            "thresholds": ("x", [0.5]),
        }.items()
        for value in values
    },
}


def _without(name: str) -> Callable[[Any], Any]:
    def change(tokenizer: Any) -> Any:
        setattr(tokenizer, name, None)
        return tokenizer

    return change


def _tokens(change: Callable[[Any], object]) -> Callable[[Any], Any]:
    def made(tokenizer: Any) -> Any:
        change(tokenizer)
        return tokenizer

    return made


class _Silent:
    """A function in a tokenizer's place."""

    def __call__(self, *given: object, **named: object) -> dict[str, object]:
        return {}


def _raising(*given: object, **named: object) -> object:
    raise KeyError("evil\nline")


TOKENIZERS: dict[str, Callable[[Any], Any]] = {
    "of nothing": lambda tokenizer: None,
    "that is a path": lambda tokenizer: tokenizer.name_or_path,
    "that is a class": type,
    "that is a function": lambda tokenizer: _Silent(),
    "of the library below": lambda tokenizer: tokenizer.backend_tokenizer,
    "without padding": _without("pad_token"),
    "without unknown words": _without("unk_token"),
    "with more tokens": _tokens(lambda tokenizer: tokenizer.add_tokens(["evil"])),
    "that pads on the left": _tokens(lambda tokenizer: setattr(tokenizer, "padding_side", "left")),
    "that cuts on the left": _tokens(lambda tokenizer: setattr(tokenizer, "truncation_side", "left")),
    "of no length": _tokens(lambda tokenizer: setattr(tokenizer, "model_max_length", 0)),
    "of two tokens": _tokens(lambda tokenizer: setattr(tokenizer, "model_max_length", 2)),
    "of a length that is text": _tokens(lambda tokenizer: setattr(tokenizer, "model_max_length", "x")),
    "that cuts by itself": _tokens(lambda tokenizer: tokenizer.backend_tokenizer.enable_truncation(3)),
    "that pads by itself": _tokens(lambda tokenizer: tokenizer.backend_tokenizer.enable_padding(length=7)),
    "of no inputs": _tokens(lambda tokenizer: setattr(tokenizer, "model_input_names", [])),
    "of other inputs": _tokens(lambda tokenizer: setattr(tokenizer, "model_input_names", ["evil"])),
    "that raises": _tokens(lambda tokenizer: setattr(tokenizer, "_encode_plus", _raising)),
    "that pads with another": _tokens(lambda tokenizer: setattr(tokenizer, "pad_token", "[UNK]")),
    "with a lock": _tokens(lambda tokenizer: setattr(tokenizer, "lock", threading.Lock())),
}


def _of_model(command: str, change: Callable[[Any], Any], places: dict[str, str]) -> object:
    import prunekit

    model, tokenizer = loaded(places)
    given: dict[str, Any] = {"tokenizer": tokenizer}
    if command == "analyze":
        given |= {"rows": 40, "out": f"{places['here']}/out", "analyzers": ["neurons"]}
    elif command == "collect":
        given |= {"out": f"{places['here']}/out"}
    else:
        given |= {"keep": "60% params"}
    return getattr(prunekit, command)(change(model), places["rows"], **given)


def _of_tokenizer(change: Callable[[Any], Any], places: dict[str, str]) -> object:
    import prunekit

    model, tokenizer = loaded(places)
    given = {"rows": 40, "out": f"{places['here']}/out", "analyzers": ["neurons"]}
    return prunekit.analyze(model, places["rows"], tokenizer=change(tokenizer), **given)


def _bare(command: str, change: Callable[[Any], Any], places: dict[str, str]) -> object:
    """A model in memory, given to what takes one without a tokenizer."""
    import prunekit
    from prunekit.plan import Plan

    model, tokenizer = loaded(places)
    if command == "apply":
        return prunekit.apply(change(model), Plan.load(places["plan"]))
    if command == "shrink":
        batch = dict(tokenizer(_TEXTS[:16], padding=True, return_tensors="pt"))
        return prunekit.shrink(change(model), [batch], [prunekit.Budget.parse("60% params")])
    return prunekit.recover(change(model), None, _TEXTS, tokenizer=tokenizer, effort="1s")


def _batch(**changes: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Batches of which one input is another; what is made None is left out."""

    def made(torch: Any, batch: Any) -> Any:
        for name, change in changes.items():
            batch[name] = change(torch, batch.get(name))
        return [{name: value for name, value in batch.items() if value is not None}]

    return made


#: Calibration rows.
BATCHES: dict[str, Callable[[Any, Any], Any]] = {
    "none": lambda torch, batch: [],
    "of nothing": lambda torch, batch: [{}],
    "a batch alone": lambda torch, batch: batch,
    "a tuple of batches": lambda torch, batch: (batch, batch),
    "a generator": lambda torch, batch: (each for each in [batch]),
    "a loader": lambda torch, batch: torch.utils.data.DataLoader([batch]),
    "texts": lambda torch, batch: _TEXTS,
    "numbers": lambda torch, batch: [1, 2],
    "of lists": lambda torch, batch: [{name: value.tolist() for name, value in batch.items()}],
    "of arrays": lambda torch, batch: [{name: value.numpy() for name, value in batch.items()}],
    "without ids": _batch(input_ids=lambda torch, ids: None),
    "without a mask": _batch(attention_mask=lambda torch, mask: None),
    "of no mask": _batch(attention_mask=lambda torch, mask: mask * 0),
    "of a mask of floats": _batch(attention_mask=lambda torch, mask: mask.float()),
    "of a mask of switches": _batch(attention_mask=lambda torch, mask: mask.bool()),
    "of a mask of another shape": _batch(attention_mask=lambda torch, mask: mask[:, :1]),
    "of ids of floats": _batch(input_ids=lambda torch, ids: ids.float()),
    "of short ids": _batch(input_ids=lambda torch, ids: ids.to(torch.int32)),
    "of ids too large": _batch(input_ids=lambda torch, ids: ids + 10**6),
    "of ids below 0": _batch(input_ids=lambda torch, ids: -ids),
    "of one row without a dimension": lambda torch, batch: [{name: value[0] for name, value in batch.items()}],
    "of no rows": lambda torch, batch: [{name: value[:0] for name, value in batch.items()}],
    "of no tokens": lambda torch, batch: [{name: value[:, :0] for name, value in batch.items()}],
    "of more tokens than positions": lambda torch, batch: [{name: value.repeat(1, 30) for name, value in batch.items()}],
    "on no device": lambda torch, batch: [{name: value.to("meta") for name, value in batch.items()}],
    "of more inputs": _batch(evil=lambda torch, _: torch.zeros(1)),
    "of types too large": lambda torch, batch: [{**batch, "token_type_ids": torch.full_like(batch["input_ids"], 99)}],
}


def _calibrated(command: str, change: Callable[[Any, Any], Any], places: dict[str, str]) -> object:
    import torch

    import prunekit
    from prunekit.plan import Plan

    model, tokenizer = loaded(places)
    batches = change(torch, dict(tokenizer(_TEXTS[:16], padding=True, return_tensors="pt")))
    if command == "apply":
        return prunekit.apply(model, Plan.load(places["plan"]), batches)
    return prunekit.shrink(model, batches, [prunekit.Budget.parse("60% params")])


def array(make: Callable[[Any], Any]) -> Callable[[], Any]:
    """Something that is made with NumPy, imported late."""

    def made() -> Any:
        import numpy as np

        return make(np)

    return made


LENGTHS: dict[str, Callable[[], Any]] = {
    "none": array(lambda np: np.array([], dtype=np.int64)),
    "NaN": array(lambda np: np.array([np.nan])),
    "below 0": array(lambda np: np.array([-5])),
    "0": array(lambda np: np.array([0])),
    "a matrix": array(lambda np: np.array([[5, 6]])),
    "objects": array(lambda np: np.array([object()])),
    "texts": array(lambda np: np.array(["5"])),
    "a list": lambda: [5, 6],
    "huge": array(lambda np: np.array([2**62])),
}


def _of_lengths(make: Callable[[], Any], places: dict[str, str]) -> object:
    import prunekit

    model, tokenizer = loaded(places)
    batch = dict(tokenizer(_TEXTS[:16], padding=True, return_tensors="pt"))
    return prunekit.shrink(model, [batch], [prunekit.Budget.parse("60% macs")], lengths=make())


#: Rows for `recover`.
TEXTS: dict[str, Callable[[], Any]] = {
    "none": lambda: [],
    "one": lambda: ["a"],
    "two": lambda: ["a", "b"],
    "empty": lambda: [""] * 40,
    "blank": lambda: [" \n"] * 40,
    "half a character": lambda: ["\ud800"] * 40,
    "long": lambda: ["bapos " * 10**4] * 40,
    "null": lambda: [None] * 40,
    "lists": lambda: [["a"]] * 40,
    "a deque": lambda: collections.deque(["a b"] * 40),
    "an array": array(lambda np: np.array(["a b"] * 40)),
    "a set": lambda: {"a", "b"},
}


def _of_texts(make: Callable[[], Any], more: dict[str, Any], places: dict[str, str]) -> object:
    import prunekit

    model, tokenizer = loaded(places)
    return prunekit.recover(model, model, make(), **{"tokenizer": tokenizer, "effort": "1epochs", **more})


#: Models that no copy can be made of, through what the user's own program put into them.
_OWN = ("with a lock", "with an open file", "with a generator")


def live_cases() -> Iterator[Case]:
    """Every model, tokenizer and batch."""
    for name, change in MODELS.items():
        for command in ("analyze", "make_plan", "collect"):
            yield Case(f"live {command} a model {name}", call=partial(_of_model, command, change), may=True)
        for command in ("apply", "shrink", "recover") if name not in _OWN else ():
            yield Case(f"live {command} a model {name}", call=partial(_bare, command, change), may=True)
    for name, change in TOKENIZERS.items():
        yield Case(f"live analyze a tokenizer {name}", call=partial(_of_tokenizer, change), may=True)
    for name, batches in BATCHES.items():
        for command in ("apply", "shrink"):
            yield Case(f"calibration {command} {name}", call=partial(_calibrated, command, batches), may=True)
    for name, make in LENGTHS.items():
        yield Case(f"calibration shrink lengths {name}", call=partial(_of_lengths, make))
    for name, make in TEXTS.items():
        yield Case(f"texts recover {name}", call=partial(_of_texts, make, {}), may=True)
