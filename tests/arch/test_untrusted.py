"""A checkpoint is data: nothing that it holds or names is run, and no pickle is opened."""

from __future__ import annotations

import ast
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import prunekit
from prunekit import cli
from prunekit.arch import SPECS
from prunekit.arch.classes import ATTENTION, TOKENIZERS, class_names_of
from prunekit.arch.load import load_model, load_tokenizer
from prunekit.errors import ModelError, UnsupportedError
from tests.lines import checkpoint, line

PACKAGE = Path(prunekit.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
#: The only modules that ask transformers for what a checkpoint names.
LOADING = {"arch/load.py", "arch/classes.py"}
#: What opens a pickle.
PICKLES = {("torch", "load"), ("pickle", "load"), ("pickle", "loads"), ("joblib", "load"), ("marshal", "loads"), ("pandas", "read_pickle")}

#: What the processes of one run send each other, over the connection that torch.distributed makes among them and trusts as well.
MESSAGES = {"data/messages.py"}


def calls(path: Path) -> list[tuple[ast.Call, str, str]]:
    """Every call of a file: (call, what the attribute is of, the attribute or the name)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                found.append((node, ast.unparse(node.func.value), node.func.attr))
            elif isinstance(node.func, ast.Name):
                found.append((node, "", node.func.id))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_place_loads_and_nothing_opens_a_pickle(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    for call, of, attribute in calls(path):
        where = f"{name}:{call.lineno}"
        if attribute in ("from_pretrained", "for_model", "get_class_from_dynamic_module") or (
            attribute == "getattr" and ast.unparse(call.args[0]) == "transformers"
        ):
            assert name in LOADING, f"{where}: load by prunekit.arch.load"
        assert (of, attribute) not in PICKLES or name in MESSAGES, f"{where}: opens a pickle"
        assert not any(
            keyword.arg == "allow_pickle" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            for keyword in call.keywords
        ), where
        assert attribute not in ("input", "eval", "exec") or of, f"{where}: reads stdin, or runs text"
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in ([*node.names] if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
    }
    assert not imported & {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}, name


def test_every_load_says_whether_code_may_run() -> None:
    found = [call for call, _, name in calls(PACKAGE / "arch" / "load.py") if name == "from_pretrained"]
    assert len(found) == 3
    for call in found:
        assert any(keyword.arg is None and ast.unparse(keyword.value) == "place" for keyword in call.keywords), call.lineno
    assert (PACKAGE / "arch" / "load.py").read_text(encoding="utf-8").count('"trust_remote_code": trust_remote_code') == 2


class Stdin(io.StringIO):
    """Says yes to everybody, and tells that it was asked."""

    asked = False

    def readline(self, *_: Any) -> str:
        self.asked = True
        return "y\n"

    read = readline


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def plant(folder: Path, ran: Path) -> None:
    """Code that leaves a file, under every name that a config may call."""
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\nConfig = Model = Tok = object\n", encoding="utf-8")


@pytest.mark.parametrize("where", ["config", "tokenizer", "tokenizer class", "both"])
@pytest.mark.parametrize("slim", [False, True])
@pytest.mark.parametrize("command", ["export", "bench", "analyze"])
def test_code_does_not_run_unasked(
    command: str, slim: bool, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(line("sequence").path if slim else checkpoint("sequence"), tmp_path / "model"))
    ran = tmp_path / "ran"
    plant(folder, ran)
    maps = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model", "AutoModelForSequenceClassification": "mine.Model"}
    if where in ("config", "both"):
        edit(folder / "config.json", model_type="mine", auto_map={**maps, "AutoTokenizer": ["mine.Tok", None]})
    if where in ("tokenizer", "both"):
        edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Tok", None]}, tokenizer_class="Tok")
    if where == "tokenizer class":
        edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Tok", None]})
    stdin = Stdin()
    monkeypatch.setattr(sys, "stdin", stdin)
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"banal duba,{'ab'[at % 2]}\n" for at in range(40)), encoding="utf-8")
    arguments = {
        "export": [str(folder), "-o", str(tmp_path / "out")],
        "bench": [str(folder), "--data", str(rows), "--time-budget", "1"],
        "analyze": [str(folder), "--data", str(rows), "-o", str(tmp_path / "out"), "--rows", "20", "--analyzers", "cka", "-q"],
    }
    code = cli.main([command, *arguments[command]])
    said = capsys.readouterr().err
    assert not ran.exists()
    assert not stdin.asked
    # A tokenizer whose class is transformers' own is loaded, and so is an ONNX file whatever the config says; nothing is refused there.
    assert code == 2 or where == "tokenizer class" or (command, slim, where) == ("bench", True, "config"), said
    if code == 2:
        assert said.count("\n") == 1
        assert said.startswith("error: ")


def pickled_index(folder: Path, file: str) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "evil.bin").write_bytes(b"")


class Evil:
    """A pickle that leaves a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("file", ["evil.bin", "pytorch_model.bin", "../other/model.safetensors", "evil.pt", 5, None])
def test_an_index_that_leads_elsewhere_is_refused(file: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("sequence"), tmp_path / "model"))
    pickled_index(folder, file)
    torch.save({"x": Evil(tmp_path / "ran")}, folder / "evil.bin")
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json of the model .* names .*never a pickle") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_an_index_of_safetensors_is_read(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("sequence"), tmp_path / "model"))
    want = load_model(checkpoint("sequence")).model.state_dict()
    state = load_file(folder / "model.safetensors")
    pickled_index(folder, "part-1.safetensors")
    save_file(state, folder / "part-1.safetensors", metadata={"format": "pt"})
    got = load_model(folder).model.state_dict()
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("sequence"), tmp_path / "model"))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/evil", "peft_type": "LORA"}))
    with pytest.raises(ModelError, match=r"is an adapter .*Merge it"):
        load_model(folder)


@pytest.mark.parametrize(
    "name", ["pipeline", "Trainer", "set_seed", "AutoModel", "BertTokenizer", "GPT2Model", "os", "__init__", 5, "", None]
)
@pytest.mark.parametrize("case", ["sequence", "uniform"])
def test_architectures_are_names_of_our_own_list(case: str, name: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(line(case).path, tmp_path / "slim"))
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for each in (fields, *(value for value in fields.values() if isinstance(value, dict) and "architectures" in value)):
        each["architectures"] = [name]
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    said = r"'architectures' must name a class of transformers for a supported model type|architectures\.0: Input should be a valid string"
    with pytest.raises(ModelError, match=said):
        prunekit.load(folder)


@pytest.mark.parametrize("model_type", ["pipeline", ["bert"], {"bert": 1}, 5, None])
def test_a_model_type_is_a_name_of_our_own_list(model_type: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(line("uniform").path, tmp_path / "slim"))
    edit(folder / "config.json", model_type=model_type)
    with pytest.raises(UnsupportedError, match="which prunekit does not know"):
        prunekit.load(folder)


@pytest.mark.parametrize("name", ["BertModel", "RagTokenizer", "AutoTokenizer", "pipeline", "TransfoXLTokenizer", "AutoModel", 5, ["x"]])
def test_a_tokenizer_class_is_of_our_own_list(name: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("sequence"), tmp_path / "model"))
    torch.save({"x": Evil(tmp_path / "ran")}, folder / "pytorch_model.bin")
    edit(folder / "tokenizer_config.json", tokenizer_class=name)
    with pytest.raises(ModelError, match=r"tokenizer of .* is of the class .*, which prunekit does not know"):
        load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_attention_is_not_fetched(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("sequence"), tmp_path / "model"))
    edit(folder / "config.json", attn_implementation="somebody/kernel")
    with pytest.raises(ModelError, match="asks for the attention 'somebody/kernel'"):
        load_model(folder)
    for name in ATTENTION:
        edit(folder / "config.json", attn_implementation=name)
        load_model(folder)


def test_the_lists_are_classes_of_their_kind() -> None:
    assert {name for name in TOKENIZERS if name.startswith(("Auto", "Rag"))} == set()
    for model_type in SPECS:
        for name in class_names_of(model_type):
            found = getattr(transformers, name)
            assert issubclass(found, transformers.PreTrainedModel)
            assert found.config_class.model_type == model_type


def test_what_may_not_be_read_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(line("uniform").path, tmp_path / "slim"))
    opened = Path.open

    def closed(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "model.safetensors":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    # The superuser may read anything, so the system's answer is made up.
    monkeypatch.setattr(Path, "open", closed)
    for read in (prunekit.load, load_model):
        with pytest.raises(ModelError, match=r"model\.safetensors' cannot be read: Permission denied"):
            read(folder)
