"""Directories of models with one file changed: configs, tokenizers, weights, poolings, and files that are no files."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.campaign.binary import closed, opened
from tests.campaign.calls import Change, made
from tests.campaign.case import Case

#: Fields of config.json that no size follows from.
_CONFIGS: dict[str, list[Any]] = {
    "attention_probs_dropout_prob": ["evil", [], -1, 1e308],
    "layer_norm_eps": [1e308, -1, 0, None, True],
    "position_embedding_type": ["evil", 5, [], "relative_key"],
    "chunk_size_feed_forward": [10**9, -1, "x", 1],
    "is_decoder": [True, "yes", 5],
    "add_cross_attention": [True],
    "tie_word_embeddings": ["no", []],
    "output_hidden_states": [True, "yes"],
    "output_attentions": [True],
    "return_dict": [False, "no"],
    "use_return_dict": [False],
    "torchscript": [True],
    "pruned_heads": [{"0": [0, 1, 2, 3]}, {"0": [99]}, {"evil": [0]}, 5, {"0": [0]}],
    "quantization_config": [{}, {"quant_method": "evil"}, {"quant_method": "bitsandbytes", "load_in_8bit": True}, 5, []],
    "auto_map": [{"AutoConfig": "../../evil--x.Y"}, 5, {"AutoModel": ["a", "b"]}],
    "transformers_version": [5, "99.0.0", "x" * 10**5],
    "_attn_implementation": ["evil", "kernels-community/evil", 5],
    "attn_implementation": ["flash_attention_2", "evil/evil:x"],
    "classifier_dropout": [2, "evil", -1],
    "gradient_checkpointing": [True],
    "tokenizer_class": ["Evil", 5, "BertTokenizer"],
    "torch_dtype": ["evil", "float8_e4m3fn", "bfloat16", "int8", 5],
    "dtype": ["evil", "complex64"],
    "name_or_path": ["../../../etc/passwd", "x\n---\nevil: 1"],
    "finetuning_task": ["x" * 10**6],
    "task_specific_params": [5, {"a": {"b": 1}}],
    "id2label": [
        {"0": "a", "1": "a"},
        {"0": "\u202e<script>", "1": "\x1b[31m\n# x"},
        {"0": "x" * 10**6, "1": "b"},
        {"0": "", "1": " "},
        {"00": "a", "1": "b"},
        {"0": "a", "1": "b", "2": "c"},
        {"0": "\ud800", "1": "b"},
    ],
    "pad_token_id": [72, 73, -5, True],
    "base_model_tp_plan": ["evil"],
    "loss_type": ["evil", 5],
    "sep_token_id": [10**30, "x"],
    "forced_bos_token_id": [5],
    "experts_implementation": ["evil"],
    "per_layer_config": [{"0": {"hidden_size": 1}}],
    "__class__": ["evil"],
    "to_dict": ["evil"],
    "save_pretrained": [5],
    "\x1b[31m": [1],
}


def _json(file: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def edit(folder: Path) -> None:
        path = folder / file
        fields = json.loads(path.read_text(encoding="utf-8"))
        change(fields)
        path.write_text(json.dumps(fields), encoding="utf-8")

    return edit


def _field(file: str, *way: str, value: Any) -> Change:
    """A JSON file with another value at the end of a way of keys."""

    def edit(fields: dict[str, Any]) -> None:
        for name in way[:-1]:
            fields = fields[name]
        fields[way[-1]] = value

    return _json(file, edit)


def _put(name: str, content: str | bytes) -> Change:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)

    return write


def _instead(name: str, make: Callable[[Path], object]) -> Change:
    def replace(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return replace


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have a hundred bytes only
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path.name)
    os.chdir(here)


#: What is no regular file, or leads to something else.
NO_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a directory": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "random": lambda path: path.symlink_to("/dev/urandom"),
    "the terminal": lambda path: path.symlink_to("/dev/tty"),
    "the answers": lambda path: path.symlink_to("/dev/stdin"),
    "a loop": lambda path: path.symlink_to(path.name),
    "a dangling link": lambda path: path.symlink_to("nowhere/at/all"),
    "a process": lambda path: path.symlink_to("/proc/self/mem"),
    "a disk's list": lambda path: path.symlink_to("/proc/kcore"),
}


def _vocab(change: Callable[[dict[str, Any]], object]) -> Change:
    return _json("tokenizer.json", lambda fields: change(fields["model"]["vocab"]))


def _added(**changes: Any) -> Change:
    def edit(fields: dict[str, Any]) -> None:
        fields["added_tokens"][0] = {**fields["added_tokens"][0], **changes}

    return _json("tokenizer.json", edit)


_SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
_FIXED = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]", "pad_to_multiple_of": None}
_CUT = {"direction": "Right", "strategy": "LongestFirst", "stride": 0}
TOKENIZERS: dict[str, Change] = {
    "a vocabulary of texts": _vocab(lambda vocab: vocab.update(a="5")),
    "a negative id": _vocab(lambda vocab: vocab.update(a=-1)),
    "an id of 2**32 - 1": _vocab(lambda vocab: vocab.update(a=2**32 - 1)),
    "an id of 10**30": _vocab(lambda vocab: vocab.update(a=10**30)),
    "an id of 1e3": _vocab(lambda vocab: vocab.update(a=1e3)),
    "two of an id": _vocab(lambda vocab: vocab.update(a=6)),
    "no unknown": _vocab(lambda vocab: vocab.pop("[UNK]")),
    "no words": _vocab(lambda vocab: vocab.clear()),
    "an empty word": _vocab(lambda vocab: vocab.update({"": 70})),
    "a word of a megabyte": _vocab(lambda vocab: vocab.update({"x" * 10**6: 70})),
    "a vocabulary that is a list": _field("tokenizer.json", "model", "vocab", value=[["a", 0.5]]),
    "an evil model": _field("tokenizer.json", "model", "type", value="Evil"),
    "a model that is a list": _field("tokenizer.json", "model", value=[]),
    "long words": _field("tokenizer.json", "model", "max_input_chars_per_word", value=10**18),
    "words of a negative length": _field("tokenizer.json", "model", "max_input_chars_per_word", value=-1),
    "fixed padding": _field("tokenizer.json", "padding", value={**_FIXED, "strategy": {"Fixed": 10**9}}),
    "padding to a multiple": _field("tokenizer.json", "padding", value={**_FIXED, "strategy": "BatchLongest", "pad_to_multiple_of": 10**8}),
    "padding of multiple 0": _field("tokenizer.json", "padding", value={**_FIXED, "strategy": "BatchLongest", "pad_to_multiple_of": 0}),
    "padding with an id": _field("tokenizer.json", "padding", value={**_FIXED, "strategy": "BatchLongest", "pad_id": 10**6}),
    "truncation to nothing": _field("tokenizer.json", "truncation", value={**_CUT, "max_length": 0}),
    "truncation of 2**63": _field("tokenizer.json", "truncation", value={**_CUT, "max_length": 2**63}),
    "a large stride": _field("tokenizer.json", "truncation", value={**_CUT, "max_length": 8, "stride": 7}),
    "a slow pattern": _field("tokenizer.json", "pre_tokenizer", value={**_SPLIT, "pattern": {"Regex": "(a+)+$"}}),
    "a broken pattern": _field("tokenizer.json", "pre_tokenizer", value={**_SPLIT, "pattern": {"Regex": "(("}}),
    "a long pattern": _field("tokenizer.json", "pre_tokenizer", value={**_SPLIT, "pattern": {"Regex": "(a|b)*" * 10**5}}),
    "a pattern of nothing": _field("tokenizer.json", "pre_tokenizer", value={**_SPLIT, "pattern": {"Regex": ""}}),
    "a normalizer that grows": _field(
        "tokenizer.json", "normalizer", value={"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 10**6}
    ),
    "a normalizer of nothing": _field("tokenizer.json", "normalizer", value={"type": "Replace", "pattern": {"Regex": "."}, "content": ""}),
    "normalizers in each other": _field(
        "tokenizer.json", "normalizer", value={"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}] * 1000}
    ),
    "a broken charsmap": _field("tokenizer.json", "normalizer", value={"type": "Precompiled", "precompiled_charsmap": "AAAA/////w=="}),
    "a template of other tokens": _field(
        "tokenizer.json", "post_processor", "special_tokens", "[CLS]", value={"id": "[CLS]", "ids": [10**6], "tokens": ["[CLS]"]}
    ),
    "a template without a sequence": _field(
        "tokenizer.json", "post_processor", "single", value=[{"SpecialToken": {"id": "[CLS]", "type_id": 0}}]
    ),
    "a template of types": _field("tokenizer.json", "post_processor", "single", value=[{"Sequence": {"id": "A", "type_id": 9}}]),
    "a template of many tokens": _field(
        "tokenizer.json", "post_processor", "single",
        value=[{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 1000 + [{"Sequence": {"id": "A", "type_id": 0}}],
    ),
    "no processor": _field("tokenizer.json", "post_processor", value=None),
    "no splitting": _field("tokenizer.json", "pre_tokenizer", value=None),
    "an added id": _added(id=2**32 - 1),
    "an added id of another": _added(id=7),
    "an added text": _added(content=""),
    "an added text of a megabyte": _added(content="y" * 10**6),
    "an added line": _added(content="a\n\x1b[31m"),
    "added a list": _field("tokenizer.json", "added_tokens", value={"a": 1}),
    "added many": _json("tokenizer.json", lambda fields: fields["added_tokens"].extend(
        {"id": 73 + at, "content": f"<{at}>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for at in range(5000)
    )),
    "version": _field("tokenizer.json", "version", value="9.0"),
    "special tokens map": _put("special_tokens_map.json", '{"pad_token": {"content": 5}}'),
    "special tokens map of files": _put("special_tokens_map.json", '{"pad_token": "../../etc/passwd"}'),
    "added tokens": _put("added_tokens.json", '{"a": "b"}'),
    "added tokens of ids": _put("added_tokens.json", '{"evil": 4294967295}'),
    "a chat template": _put("chat_template.jinja", "{% for a in range(10**9) %}x{% endfor %}"),
    **{
        f"config {name} {at}": _field("tokenizer_config.json", name, value=value)
        for name, values in {
            "chat_template": ["{{ ''.__class__ }}", 5, [{"name": "x"}]],
            "model_input_names": [["evil"], "input_ids", 5, [], ["input_ids"]],
            "extra_special_tokens": [5, ["<a>"], {"x": "<y>"}],
            "additional_special_tokens": [5, [5], ["<a>"] * 2],
            "auto_map": [{"AutoTokenizer": ["../evil.X", None]}, 5],
            "tokenizer_file": ["../../etc/passwd", 5],
            "vocab_file": ["/etc/passwd", 5],
            "name_or_path": ["evil/evil"],
            "clean_up_tokenization_spaces": ["x"],
            "pad_token": ["nope", "[UNK]", "", None],
            "unk_token": [None, "nope"],
            "truncation_side": ["evil"],
            "padding_side": ["left"],
            "stride": [10**9],
            "max_length": [3, "x"],
            "truncation": ["x"],
            "processor_class": ["Evil"],
            "backend": ["evil", 5],
            "is_local": ["x"],
            "add_prefix_space": ["x"],
            "do_lower_case": ["x", None],
            "from_slow": [True],
            "use_fast": [False],
            "__init__": [5],
        }.items()
        for at, value in enumerate(values)
    },
}  # fmt: skip


def _header(change: Callable[[dict[str, Any]], object]) -> Change:
    def edit(folder: Path) -> None:
        header, body = opened(folder / "model.safetensors")
        change(header)
        closed(folder / "model.safetensors", header, body)

    return edit


_WORDS = "bert.embeddings.word_embeddings.weight"


def _twice(header: dict[str, Any]) -> None:
    header["classifier.weight"] = header[_WORDS]


def _overlap(header: dict[str, Any]) -> None:
    start, end = header["classifier.weight"]["data_offsets"]
    header["classifier.weight"]["data_offsets"] = [start - 4, end - 4]


def _dtype(name: str) -> Change:
    return _header(lambda header: header["classifier.bias"].update(dtype=name))


def _raw(text: str, pad: int = 0) -> Change:
    data = text.encode()
    return lambda folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + bytes(pad)) and None


def _filled(value: bytes) -> Change:
    """One weight that is no number."""

    def edit(folder: Path) -> None:
        header, body = opened(folder / "model.safetensors")
        start, _ = header[_WORDS]["data_offsets"]
        closed(folder / "model.safetensors", header, body[:start] + value + body[start + 4 :])

    return edit


def _index(target: str, **more: Any) -> Change:
    """Weights that an index says are elsewhere."""

    def edit(folder: Path) -> None:
        header, _ = opened(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        names = {name: target for name in header if name != "__metadata__"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names, **more}), encoding="utf-8")

    return edit


def _version(text: str) -> Change:
    """A config that says that another file is read in its place."""

    def edit(folder: Path) -> None:
        _field("config.json", "configuration_files", value=["config.4.0.0.json"])(folder)
        _put("config.4.0.0.json", text)(folder)

    return edit


WEIGHTS: dict[str, Change] = {
    "one name more": _header(lambda header: header.update(evil={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})),
    "two of the same bytes": _header(_twice),
    "bytes that overlap": _header(_overlap),
    "a name less": _header(lambda header: header.pop(_WORDS)),
    "a name with control characters": _header(lambda header: header.update({"\x1b[31m\n": header.pop("classifier.bias")})),
    "a name of a megabyte": _header(lambda header: header.update({"x" * 10**6: header.pop("classifier.bias")})),
    "metadata of numbers": _header(lambda header: header.update(__metadata__={"format": 5})),
    "metadata of another format": _header(lambda header: header.update(__metadata__={"format": "evil"})),
    "no metadata": _header(lambda header: header.pop("__metadata__")),
    "a shape turned": _header(lambda header: header[_WORDS].update(shape=header[_WORDS]["shape"][::-1])),
    "a shape of many": _header(lambda header: header[_WORDS].update(shape=[1] * 5000 + header[_WORDS]["shape"])),
    "whole numbers": _dtype("I32"),
    "an evil dtype": _dtype("EVIL"),
    "dtype null": _header(lambda header: header[_WORDS].update(dtype=None)),
    "not a number": _filled(struct.pack("<f", float("nan"))),
    "infinite": _filled(struct.pack("<f", float("inf"))),
    "a header of a list": _raw("[]"),
    "a header of nothing": _raw("{}"),
    "a header of blanks": _raw(" " * 10**6),
    "a header that is deep": _raw('{"a":' * 10**5 + "1" + "}" * 10**5),
    "a header of names twice": _raw("{" + ",".join(['"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'] * 2) + "}", 4),
    "an index outside": _index("../outside.safetensors"),
    "an absolute index": _index("/etc/passwd"),
    "an index of a list": _index("model-1.safetensors", weight_map=[]),
    "an index of numbers": _index("model-1.safetensors", weight_map={_WORDS: 5}),
    "an index of a device": _index("/dev/zero"),
    "an index of nothing": _index(""),
    "an index of itself": _index("model.safetensors.index.json"),
    "an index of NUL": _index("a\0.safetensors"),
    "an index of a pickle": _index("pytorch_model.bin"),
    "a pickle beside": _put("pytorch_model.bin", b"\x80\x04N."),
    "a pickle alone": _instead("model.safetensors", lambda path: path.with_name("pytorch_model.bin").write_bytes(b"\x80\x04N.")),
    "flax": _instead("model.safetensors", lambda path: path.with_name("flax_model.msgpack").write_bytes(b"\xc0")),
    "an adapter": _put("adapter_config.json", '{"base_model_name_or_path": "evil", "peft_type": "LORA"}'),
    "code": _put("modeling_evil.py", "raise SystemExit(7)"),
    "code of a tokenizer": _put("tokenization_bert.py", "raise SystemExit(7)"),
    "generation config": _put("generation_config.json", "[]"),
    "other configs": _field("config.json", "configuration_files", value=["config.4.0.0.json", "../x"]),
    "a config of a version": _version("[" * 10**5),
    "a config of a version, of code": _version('{"model_type": "bert", "_attn_implementation": "kernels-community/evil"}'),
}  # fmt: skip

#: Files of sentence-transformers.
SENTENCES: dict[str, Change] = {
    **{
        f"modules {name}": _put("modules.json", text if isinstance(text, str) else json.dumps(text))
        for name, text in {
            "deep": "[" * 200_000,
            "an object": {},
            "numbers": [1, 2],
            "outside": [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "../../../etc", "type": "sentence_transformers.models.Pooling"},
            ],
            "absolute": [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "/etc", "type": "sentence_transformers.models.Pooling"},
            ],
            "of code": [{"idx": 0, "name": "0", "path": "", "type": "os.system"}],
            "of paths that are numbers": [{"idx": 0, "name": "0", "path": 5, "type": "sentence_transformers.models.Pooling"}],
            "of types that are numbers": [{"idx": 0, "name": "0", "path": "", "type": 5}],
            "of NUL": [{"idx": 0, "name": "0", "path": "a\0b", "type": "sentence_transformers.models.Pooling"}],
            "many": [{"idx": at, "name": "0", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"} for at in range(1000)],
            "dense": [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
            ],
        }.items()
    },
    **{
        f"pooling {name}": _put("1_Pooling/config.json", text)
        for name, text in {
            "a list": "[]",
            "deep": "[" * 200_000,
            "nothing": "{}",
            "texts": '{"pooling_mode_cls_token": "no", "pooling_mode_mean_tokens": "yes"}',
            "two": '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true, "word_embedding_dimension": 16}',
            "unknown": '{"pooling_mode_lasttoken": true, "word_embedding_dimension": 16}',
            "a size": '{"pooling_mode_mean_tokens": true, "word_embedding_dimension": 1e308}',
            "prompts": '{"pooling_mode_mean_tokens": true, "word_embedding_dimension": 16, "include_prompt": false}',
        }.items()
    },
    **{
        f"{file} {name}": _put(file, text)
        for file in ("sentence_bert_config.json", "config_sentence_transformers.json")
        for name, text in {
            "a list": "[]",
            "deep": "[" * 200_000,
            "a length": '{"max_seq_length": -1}',
            "a long length": '{"max_seq_length": 1000000}',
            "a text": '{"max_seq_length": "x"}',
            "prompts": '{"prompts": 5, "default_prompt_name": "evil"}',
            "prompts of numbers": '{"prompts": {"query": 5}, "default_prompt_name": "query"}',
            "a function": '{"similarity_fn_name": "os.system"}',
        }.items()
    },
}


def model_cases() -> Iterator[Case]:
    """Every directory, given to `export`, which reads all of it."""
    out = ("-o", "{here}/out", "--quiet")
    words = ("export", "{copy}", *out)
    short = ("--rows", "40", "--analyzers", "neurons", *out)
    for name, values in _CONFIGS.items():
        for at, value in enumerate(values):
            yield made(f"field export {name!a} {at}", words, "sequence", _field("config.json", name, value=value), may=True)
    for name, change in TOKENIZERS.items():
        yield made(f"pieces analyze {name}", ("analyze", "{copy}", "--data", "{rows}", *short), "sequence", change, may=True)
        yield made(f"pieces export {name}", words, "sequence", change, may=True)
    for name, change in WEIGHTS.items():
        yield made(f"weights export {name}", words, "sequence", change, may=True)
    for name, change in SENTENCES.items():
        yield made(f"sentences export {name}", words, "embedder", change, may=True)
    optional = ("tokenizer_config.json", "special_tokens_map.json", "manifest.json")
    for file in ("config.json", "model.safetensors", "tokenizer.json", *optional[:2]):
        for name, make in NO_FILES.items():
            yield made(f"file export {file} {name}", words, "sequence", _instead(file, make), may=file in optional)
    for file in ("config.json", "pruned.safetensors", "plan.json", "manifest.json", "tokenizer.json"):
        for name, make in NO_FILES.items():
            yield made(f"file slim {file} {name}", words, "readout", _instead(file, make), may=file in optional)
    for file in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        for name, make in NO_FILES.items():
            yield made(f"file embedder {file} {name}", words, "embedder", _instead(file, make), may=True)
    for name, make in NO_FILES.items():
        timed, read = ("bench", "{copy}", "--length", "5", "--time-budget", "0.001"), ("analyze", "{sequence}", "--data", "{copy}", *short)
        yield made(f"file onnx {name}", timed, "exported", _instead("onnx/model.onnx", make))
        yield made(f"file data {name}", read, "rows", _instead("train.jsonl", make))
        yield made(f"file test {name}", read, "rows", _instead("validation.jsonl", make), may=True)
