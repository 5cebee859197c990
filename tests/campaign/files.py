"""Files that are not what they say: plans, recipes, configs, tokenizers, statistics, ONNX."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.campaign.case import Case

DEEP = 200_000
SOURCE = {"model_type": "bert", "layers": 3, "hidden": 16, "heads": 4, "ffn": 32, "vocabulary": 73}
_BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{one}: &{one} [{','.join([f'*{other}'] * 10)}]\n" for other, one in zip("abcdefgh", "bcdefghi", strict=True)
)

#: Values that no set of indices is.
INDICES = (
    "0-99999999999",
    "0-4294967295",
    "-1",
    "0-",
    "1_0",
    "\uff10",
    "0.9",
    "null",
    "2-0",
    "0,0",
    "9" * 5000,
    None,
    3,
    0.9,
    [0.9],
    [None],
    [[0]],
    [{}],
    {},
    {"0": "1"},
    True,
    [True],
    ["0"],
    [-1],
    [99],
    "x" * 10**6,
    [10**30],
    [1e308],
)
#: Values of one field of a plan each; a plan of an untouched source beside them.
PLANS: dict[str, list[Any]] = {
    "layers": [value for value in INDICES if value is not None],
    "hidden": ["0-99999999999", 0.9, [0.9], True, [None]],
    "vocabulary": ["0-99999999999", "0-4194303", [0.9], {}],
    "affine": ["0-99999999999", [0.9], {}, "9"],
    "heads": [
        *({"0": value} for value in INDICES),
        3,
        "0",
        [0],
        {"x": "0"},
        {"-1": "0"},
        {"0.5": "0"},
        {"1_0": "0"},
        {"9" * 5000: "0"},
        {"00": "0"},
        {str(block): "0-4194303" for block in range(900)},
    ],
    "ffn": [{"0": "0-99999999999"}, {"0": None}, {"0": 0.9}, [], {"\uff10": "0"}],
    "readout": [
        3,
        [],
        {},
        {"pooling": "cls"},
        {"pooling": 3, "neurons": {}},
        {"pooling": "cls", "neurons": 3},
        {"pooling": "cls", "neurons": {"0": None}},
        {"pooling": "cls", "neurons": {"0": 0.9}},
        {"pooling": "cls", "neurons": {"0": "0-99999999999"}},
        {"pooling": "evil", "neurons": {"0": "0"}},
    ],
    "components": [0, -1, 0.9, True, "1", 16, 10**30, []],
    "digest": [3, None, [], {}, "evil", "0" * 64, "x" * 10**6, True],
    "version": [0, 2, "1", 1.0, True, None, [], 10**30],
    "provenance": [3, [], "evil"],
    "evil": [1],
    "x" * 10**5: [1],
    "source": [
        None,
        3,
        [],
        {},
        *({**SOURCE, name: value} for name in SOURCE for value in (None, -1, 0.9, True, "x" * 10**5, [], 10**30)),
        {**SOURCE, "evil": 1},
    ],
}
TEXTS: dict[str, str] = {
    "empty": "",
    "a word": "evil",
    "a list": "[]",
    "deep lists": "[" * DEEP + "]" * DEEP,
    "deep objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "open lists": "[" * DEEP,
    "not a number": '{"version": NaN}',
    "infinity": '{"version": Infinity}',
    "a large number": '{"version": 1e999}',
    "many digits": '{"version": ' + "9" * 5000 + "}",
    "twins": '{"version": 1, "version": 1}',
    "cut": '{"version": 1',
    "surrogate": '{"version": "\\ud800"}',
    "control characters": '{"\x1b[31m": 1}',
}
RECIPES: dict[str, str] = {
    "a date": "seed: 2001-99-99",
    "a date that is one": "seed: 2001-01-01",
    "a tag": "seed: !!int abc",
    "a tagged date": "seed: !!timestamp abc",
    "a tagged float": "threshold: !!float abc",
    "a tagged bool": "affine: !!bool abc",
    "python": "seed: !!python/object/apply:os.system ['true']",
    "digits": "seed: " + "9" * 5000,
    "deep": "keep: " + "[" * 5000 + "]" * 5000,
    "deep and open": "keep: " + "[" * 20000,
    "deep blocks": "".join(" " * depth + "a:\n" for depth in range(300)),
    "a bomb": _BOMB + "layers: *i",
    "an alias": "keep: &a 10%\nlabel: *a",
    "a circle": "keep: &a [*a]",
    "a merge": "<<: {seed: 1}",
    "underscores": "seed: 1_0",
    "sexagesimal": "seed: 1:30",
    "octal": "seed: 0o10",
    "a word for false": "affine: no",
    "yes": "trust_remote_code: yes",
    "twins": "seed: 1\nseed: 2",
    "infinite": "threshold: .inf",
    "not a number": "threshold: .nan",
    "a list": "- seed",
    "a word": "seed",
    "nothing": "",
    "two documents": "seed: 1\n---\nseed: 2",
    "a set": "seed: !!set {1, 2}",
    "binary": "seed: !!binary abc",
    "pairs": "seed: !!pairs abc",
    "a key that is a list": "? [1]\n: 2",
    "a key that is a mapping": "? {a: 1}\n: 2",
    "a number as a key": "1: 2",
    "an unknown key": "evil: 1",
    "a long key": "x" * 10**4 + ": 1",
    "a long value": "keep: " + "x" * 10**4,
    "control characters": 'label: "\\e[31m"\nevil: 1',
    "tab": "\tseed: 1",
    "version": "version: 4",
    "version as text": "version: '1'",
    "large": "# " + "x" * 10**6 + "\nseed: 1",
    "null": "seed: null",
    "a plan that is a list": "plan: [1]",
    "layers that are many": "layers: 0-99999999999",
    "layers that are floats": "layers: [0.9]",
    "layers nested": "layers: [[[[1]]]]",
    "threads": "threads: 100000",
    "max length": "max_length: 1024",
    "drop nested": "drop: [[ffn]]",
    "keep nested": "keep: [[10%]]",
    "keep a number": "keep: 10",
    "recover a number": "recover: 10",
    "task a list": "task: [evil]",
}
#: Fields of config.json, with values that no model has; the model is the tests' own BERT.
CONFIGS: dict[str, list[Any]] = {
    "num_hidden_layers": [1_000_000, 1000, 0, -1, 0.5, "3", None, [], {}, True, 10**30, 4],
    "hidden_size": [0, -1, 17, "wide", None, [], 10**30, 2**20, 32],
    "num_attention_heads": [0, -1, 3, "4", None, [], 10**30, 17],
    "intermediate_size": [0, -1, "32", [], 2**20, 10**30],
    "vocab_size": [0, -1, 1, "73", [], 10**30, 2**22],
    "max_position_embeddings": [0, -1, "64", [], 10**30, 2**20, 1],
    "type_vocab_size": [-1, "2", [], 10**30],
    "num_labels": [300_000_000, -1, "2", [], 0.5, 10**30],
    "id2label": [3, [], "evil", {"a": "b"}, {"0": None}, {"0": []}, {"0": "x", "9": "y"}, {"-1": "x"}],
    "label2id": [3, "evil", {"a": []}],
    "architectures": [5, "evil", [5], [None], [[]], {"a": 1}, ["x" * 10**5], ["evil"] * 100],
    "model_type": [5, None, [], "", "evil", "t5", "x" * 10**5],
    "hidden_act": ["evil", 5, [], None],
    "layer_norm_eps": ["evil", []],
    "hidden_dropout_prob": ["evil", [], 5],
    "pad_token_id": ["evil", [], 0.5, 10**9],
    "problem_type": ["evil", 5],
    "dtype": [5, []],
    "initializer_range": ["evil"],
}
#: Fields of tokenizer_config.json.
TOKENIZERS: dict[str, list[Any]] = {
    "model_max_length": ["abc", -1, 0, [], {}, True],
    "tokenizer_class": [5, []],
    "pad_token": [5, [], {"evil": 1}],
    "padding_side": ["evil", 5],
    "added_tokens_decoder": [5, [], {"x": {}}, {"-1": {"content": "x"}}, {"99999999": {"content": "evil"}}],
}
#: Fields of the config.json of a slim model.
SLIM: dict[str, list[Any]] = {
    **{
        name: values
        for name, values in CONFIGS.items()
        if name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "architectures", "model_type")
    },
    "vocab_size": [0, "73", 74],
    "intermediate_size": [-1, "32", 10**30],
    "id2label": [3, {"a": "b"}],
    "hidden_act": ["evil", 5],
    "max_position_embeddings": [0, 2**20, "64"],
    "type_vocab_size": ["2", 10**30],
}


def plan_cases() -> dict[str, str]:
    """{name: a plan as JSON}."""
    plain = {"version": 1, "source": SOURCE}
    made = {
        f"{name[:20]} {at} {json.dumps(value)[:30]}": json.dumps({**plain, name: value})
        for name, values in PLANS.items()
        for at, value in enumerate(values)
        if not (name == "digest" and value is None)
    }
    return {**made, **TEXTS}


def write(name: str, text: str) -> Callable[[Path], None]:
    """Puts a text into the case's folder."""
    return lambda here: (here / name).write_text(text, encoding="utf-8", errors="surrogatepass") and None


def tampered(place: str, file: str, name: str, value: Any) -> Callable[[dict[str, str], Path], str]:
    """A copy of a directory with one field of one file changed."""

    def make(places: dict[str, str], here: Path) -> str:
        shutil.copytree(places[place], here / "copy")
        path = here / "copy" / file
        fields = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**fields, name: value}), encoding="utf-8")
        return str(here / "copy")

    return make


def file_cases() -> Iterator[Case]:
    """Every file of the tables, given to what reads it."""
    for name, text in plan_cases().items():
        yield Case(f"plan show {name!a}", ("show", "{here}/plan.json"), make=write("plan.json", text))
    for name in ("layers 0 ", "heads 0 ", "digest 0 ", "deep lists", "components 3 "):
        text = next(text for key, text in plan_cases().items() if key.startswith(name))
        words = ("apply", "{sequence}", "--plan", "{here}/plan.json", "-o", "{here}/out")
        yield Case(f"plan apply {name!a}", words, make=write("plan.json", text))
    for name, text in RECIPES.items():
        words = ("compress", "{sequence}", "--data", "{rows}", "--recipe", "{here}/recipe.yaml", "-o", "{here}/out")
        # What is a recipe all the same is refused for what it asks.
        yield Case(f"recipe compress {name}", (*words, "--keep", "0%"), make=write("recipe.yaml", text))
    yield from _directories()
    yield from _binaries()


def _directories() -> Iterator[Case]:
    from tests.campaign.calls import changed

    commands = {
        "export": ("export", "{copy}", "-o", "{here}/out"),
        "compress": ("compress", "{copy}", "--data", "{rows}", "-o", "{here}/out"),
    }
    for command, words in commands.items():
        for name, values in CONFIGS.items():
            for at, value in enumerate(values):
                yield changed(f"config {command} {name} {at} {json.dumps(value)[:30]}", words, "sequence", "config.json", {name: value})
    for name, values in TOKENIZERS.items():
        for at, value in enumerate(values):
            yield changed(f"tokenizer export {name} {at}", commands["export"], "sequence", "tokenizer_config.json", {name: value})
    for file in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        for name, text in TEXTS.items():
            if not (file == "tokenizer_config.json" and name in ("twins", "control characters", "surrogate")):
                yield changed(f"text export {file} {name}", commands["export"], "sequence", file, text)
                yield changed(f"text bench {file} {name}", ("bench", "{copy}", "--data", "{rows}"), "exported", file, text)
    for place in ("slim", "readout"):
        for name, values in SLIM.items():
            for at, value in enumerate(values):
                yield changed(
                    f"slim export {place} {name} {at} {json.dumps(value)[:30]}", commands["export"], place, "config.json", {name: value}
                )
        for name, text in TEXTS.items():
            yield changed(f"slim text {place} {name}", commands["export"], place, "config.json", text)
            yield changed(f"slim plan {place} {name}", commands["export"], place, "plan.json", text)
    for value in (5, None, {}, [], {"model_type": "evil"}, {"model_type": "bert"}, {"model_type": "bert", "num_hidden_layers": 10**6}):
        yield changed(f"slim dense {json.dumps(value)}", commands["export"], "readout", "config.json", {"dense_config": value})


def _binaries() -> Iterator[Case]:
    from tests.campaign.binary import ONNX, STATISTICS
    from tests.campaign.calls import made

    for name, change in STATISTICS.items():
        words = ("plan", "{sequence}", "--data", "{rows}", "--keep", "20%", "--statistics", "{copy}", "-o", "{here}/plan.json", "--quiet")
        yield made(f"statistics plan {name}", words, "statistics", change)
    for name, change in ONNX.items():
        yield made(f"onnx bench {name}", ("bench", "{copy}", "--length", "5", "--time-budget", "0.001"), "onnx", change)
