"""An embedder from the command line to the directory that sentence-transformers and plain onnxruntime read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr
from transformers import AutoTokenizer

import prunekit
from prunekit import cli
from prunekit.arch.embedding import Embedding, EmbeddingModel, embedder, embedding_of, save_modules
from prunekit.arch.view import ModelView
from prunekit.benchmark.batches import encode_for
from prunekit.benchmark.candidates import parse
from prunekit.data.rows import Rows
from prunekit.errors import ModelError, UnsupportedError
from prunekit.exporters.rows import judge_of
from prunekit.exporters.source import load_source
from prunekit.metrics import cosines
from prunekit.pipeline.inputs import load_inputs
from prunekit.pipeline.observations import load_base
from prunekit.pipeline.records import Answers, Run
from prunekit.pipeline.vectors import nearest, nearness, overlap
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.model import Report
from prunekit.report.progress import Stages
from prunekit.runtime.session import OnnxSession
from prunekit.stats.blocks import Site
from prunekit.stats.sensitivity import sensitivity
from tests.lines import data as data_of
from tests.lines import model_of, quick, save, sentences, tokenizer_of, write_rows
from tests.models import batch_of, build

needs_onnx = pytest.mark.needs("onnxruntime")


def texts(rows: int, seed: int) -> list[dict[str, Any]]:
    return [{"text": " ".join(words)} for words in sentences(rows, seed)]


def pairs(rows: int, seed: int) -> list[dict[str, Any]]:
    """Pairs whose score is how many words they share, on a scale of 5."""
    both = zip(sentences(rows, seed), sentences(rows, seed + 50), strict=True)
    return [{"sentence1": " ".join(a), "sentence2": " ".join(b), "score": 5.0 * len({*a} & {*b}) / len({*a} | {*b})} for a, b in both]


def dense(folder: Path, embedding: Embedding | None = None, *, dense: int = 0) -> Path:
    """A tiny embedder as sentence-transformers keeps it."""
    body = model_of()
    save(body, folder)
    project = torch.nn.Linear(body.config.hidden_size, dense) if dense else None
    save_modules(EmbeddingModel(body, embedding or Embedding(max_length=20), project), folder)
    return folder


def run(*arguments: object) -> int:
    with quick():
        return cli.main([*map(str, arguments), "--quiet"])


@needs_onnx
def test_a_scored_embedder_from_the_command_line(tmp_path: Path) -> None:
    model = dense(tmp_path / "dense", Embedding("cls", max_length=12, prompts={"query": "ba"}))
    data = write_rows(tmp_path / "data", {"train": texts(200, 0), "test": pairs(40, 1)})
    out = tmp_path / "slim"
    assert run("compress", model, "--task", "embedding", "--data", data, "--keep", "60% params", "--recover", "none", "--out", out) == 0
    report = Report.from_json((out / "report.json").read_text())
    assert (report.kind.value, report.metric.value) == ("sentence-similarity", "spearman")
    assert report.slim.params_layers <= 0.6 * report.dense.params_layers
    assert {each.name for each in report.vectors} >= {"slim", "random", "magnitude"}
    assert any("no labels were learned from" in note for note in report.notes)
    stated = embedding_of(out, None)
    assert (stated.pooling, stated.normalize, stated.max_length, stated.prompts) == ("cls", True, 12, {"query": "ba"})

    rows = pairs(40, 1)
    tokenizer, slim = AutoTokenizer.from_pretrained(out), prunekit.load(out)
    assert isinstance(slim, EmbeddingModel)
    given = [text for row in rows for text in (row["sentence1"], row["sentence2"])]
    batch = tokenizer(given, padding=True, truncation=True, max_length=12, return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        vectors = slim(**batch).sentence_embedding.numpy()
    file = OnnxSession(out / "onnx" / "model.onnx")
    assert file.outputs == ("last_hidden_state", "sentence_embedding")
    found = file({name: tensor.numpy() for name, tensor in batch.items()})["sentence_embedding"]
    assert np.abs(found - vectors).max() < 1e-5
    alike = cosines(found[0::2], found[1::2])
    slim_row = report.row("slim")
    assert slim_row is not None
    assert slim_row.n == len(rows)
    assert slim_row.value == pytest.approx(spearmanr(alike, [row["score"] for row in rows]).statistic, abs=5e-3)
    assert "ORTModelFor" not in (out / "README.md").read_text()
    assert "pipeline_tag: sentence-similarity" in (out / "README.md").read_text()


@needs_onnx
def test_a_plan_is_carried_out_with_data_and_without(tmp_path: Path) -> None:
    model = dense(tmp_path / "dense")
    data = write_rows(tmp_path / "data", {"train": texts(260, 0)}) / "train.jsonl"
    plan, out, bare = tmp_path / "plan.json", tmp_path / "slim", tmp_path / "bare"
    named = ("--task", "sentence-similarity", "--data", data)
    assert run("plan", model, *named, "--keep", "60%", "--out", plan) == 0
    assert Plan.load(plan).readout is None
    assert run("apply", model, "--plan", plan, *named, "--recover", "1epochs", "--out", out) == 0
    assert run("apply", model, "--plan", plan, "--task", "embedding", "--out", bare) == 0
    report = Report.from_json((out / "report.json").read_text())
    assert report.metric.value == "cosine"
    near = {each.name: each for each in report.vectors}
    slim, untrained = near["slim"], near["untrained"]
    assert slim.cosine is not None
    assert untrained.cosine is not None
    assert slim.lowest is not None
    assert slim.lowest <= slim.cosine <= 1
    assert slim.cosine >= untrained.cosine - 1e-3
    assert "a mean cosine of" in report.verdict
    assert isinstance(prunekit.load(bare), EmbeddingModel)
    assert run("apply", model, "--plan", plan, "--task", "embedding", "--retrieval", "absent", "--out", tmp_path / "none") == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ([{"text": "ba"}] * 30 + [{"text": " "}], [], "'text' of train is empty in 1 row, first in row 31"),
        ([{"text": "banal du"}], [], "too few"),
        ([{"text": "banal du"}] * 40, [], "too few"),
        ([{"text": "ba"}] * 40, ["--keep", "10% neurons"], "no classifier to read neurons"),
        (texts(60, 0), ["--metric", "spearman"], "has no scores"),
        ([{"text": "ba"}] * 40, ["--metric", "f1"], "one of cosine, spearman, pearson"),
        ([{"text": "ba"}] * 40, ["--label", "score"], "'label' parameter"),
        (texts(60, 0), ["--prompt", "query"], "one of the model's prompts (none)"),
        ([{"text": "ba"}] * 40, ["--method", "dalvi2020"], "'method' parameter"),
        ([{"text": "a", "text_pair": "b", "score": "much"}] * 9, [], "score column 'score' of train must hold a number"),
        ([{"text": "a", "text_pair": "b", "score": float("nan")}] * 9, [], "must hold"),
        ([{"text": "a", "text_pair": "b", "score": 1e300}] * 9, [], "between -1e+12 and 1e+12"),
        ([{"text": 3}] * 40, [], "holds no text"),
        ([{"number": 3}] * 40, [], "No column is named as a text column is"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], rows: list[dict[str, Any]], options: list[str], says: str
) -> None:
    model = dense(tmp_path / "dense")
    data = write_rows(tmp_path / "data", {"train": rows}) / "train.jsonl"
    out = tmp_path / "out"
    assert run("compress", model, "--task", "embedding", "--data", data, "--out", out, *options) == 2
    said = capfd.readouterr().err.strip()
    assert says in said
    assert said.count("\n") == 0
    assert not out.exists()


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("modules.json", "{", "cannot be read"),
        ("modules.json", "[]", "must hold a list of modules"),
        ("modules.json", '[{"type": "a.Transformer", "path": "0_Transformer"}]', "must stand in the directory itself"),
        ("modules.json", '[{"type": "a.Transformer", "path": ""}, {"type": "a.CNN", "path": ""}]', "module CNN"),
        ("modules.json", '[{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "../other"}]', "a path outside the model"),
        ("modules.json", '[{"type": "a.Pooling", "path": "1_Pooling"}, {"type": "a.Transformer", "path": ""}]', "in this order"),
        ("1_Pooling/config.json", '{"pooling_mode_weightedmean_tokens": true}', "pooling pooling_mode_weightedmean_tokens"),
        ("1_Pooling/config.json", "[]", "must hold a JSON object"),
        ("sentence_bert_config.json", '{"max_seq_length": -3}', "max_seq_length"),
        ("sentence_bert_config.json", '{"do_lower_case": true}', "lower-cases texts"),
        ("modules.json", '[{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": ""}]', "names no folder of the module Dense"),
        ("modules.json", '[{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": "1_Dense"}]', "a vector for each token"),
        ("config_sentence_transformers.json", '{"prompts": {"query": 3}}', "must be texts"),
        ("config_sentence_transformers.json", '{"default_prompt_name": "query"}', "is not among its prompts"),
    ],
)
def test_broken_directories_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], file: str, text: str, says: str) -> None:
    model = dense(tmp_path / "dense")
    (model / file).write_text(text)
    data = write_rows(tmp_path / "data", {"train": texts(40, 0)})
    assert run("compress", model, "--task", "embedding", "--data", data, "--out", tmp_path / "out") == 2
    said = capfd.readouterr().err.strip()
    assert says in said
    assert said.count("\n") == 0


def test_what_is_for_embedders_is_refused_elsewhere() -> None:
    for option in ({"prompt": "query"}, {"space": "own"}, {"pooling": "max"}):
        with pytest.raises(prunekit.errors.ParameterError, match="for an embedder only"):
            prunekit.Recipe(**option)


def test_a_directory_round_trips_with_its_projection(tmp_path: Path) -> None:
    folder = dense(tmp_path, Embedding("max", normalize=False, max_length=9), dense=5)
    body, batch = model_of(), {name: tensor for name, tensor in batch_of().items() if name != "labels"}
    first = embedder(body, folder, None)
    (tmp_path / "again").mkdir()
    save_modules(first, tmp_path / "again")
    second = embedder(body, tmp_path / "again", None)
    with torch.no_grad():
        one, two = first(**batch).sentence_embedding, second(**batch).sentence_embedding
    assert one.shape[1] == 5
    assert torch.equal(one, two)
    with torch.no_grad():
        states = first(**batch).last_hidden_state
    real = states[0][batch["attention_mask"][0].bool()].amax(dim=0)
    assert first.project is not None
    assert torch.allclose(one[0], first.project(real), atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls"])
def test_what_a_vector_feels_is_its_squared_distance(pooling: Any) -> None:
    """The metric of a site is the mean of J^T J, J the derivative of the normalised vector, summed over the tokens."""
    model = EmbeddingModel(build("bert"), Embedding(pooling)).eval()
    view = ModelView.of(model)
    batch = {name: tensor for name, tensor in batch_of(3).items() if name in view.inputs}
    site = Site(view.num_layers - 1, "ffn")
    found = sensitivity(view, [batch] * 150, seed=1)[site].metric
    kept: list[torch.Tensor] = []
    tap = site.sum_tap(view)
    module = dict(view.blocks[site.block].named_modules())[tap[1]]
    handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0].retain_grad() or args[0]))
    vectors = model(**batch).sentence_embedding
    handle.remove()
    width = vectors.shape[1]
    exact = torch.zeros(width, width, dtype=torch.float64)
    for at in range(width):
        (grad,) = torch.autograd.grad(vectors[:, at].sum(), kept[0], retain_graph=True)
        flat = grad[batch["attention_mask"].bool()].double()
        exact += flat.T @ flat
    exact /= width * len(vectors)
    assert (found - exact).norm() < 0.25 * exact.norm()


def test_neighbours_are_those_of_a_full_sort() -> None:
    generator = np.random.default_rng(0)
    index = generator.normal(size=(40, 6))
    found = nearest(index, index, 5, without=np.arange(40))
    for row in range(40):
        products = index @ index[row]
        products[row] = -np.inf
        assert found[row].tolist() == np.argsort(-products)[:5].tolist()
    assert overlap(found, found[:, ::-1]) == 1
    assert overlap(found, found + 100) == 0


def test_a_rotated_space_is_near_only_in_its_own_index() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(60, 8))
    turn, _ = np.linalg.qr(generator.normal(size=(8, 8)))
    rows = Rows(labels=np.full(60, np.nan), texts=tuple(f"text {at}" for at in range(60)))
    answers = {"dense": Answers(vectors, rows.labels), "slim": Answers(vectors @ turn, rows.labels)}
    (same,) = nearness(rows, answers, own_space=True, seed=0)
    (other,) = nearness(rows, answers, own_space=False, seed=0)
    assert same.overlap == 1
    assert same.cosine is None
    assert other.overlap < 0.6
    assert other.cosine is not None


def test_a_model_to_compare_with_reads_the_texts_of_pairs_one_by_one_too(tmp_path: Path) -> None:
    model = str(dense(tmp_path / "dense"))
    recipe = Recipe(model=model, data=str(write_rows(tmp_path / "data", {"train": pairs(60, 0)})), task="embedding")
    inputs = load_inputs(recipe, None, Stages())
    base = load_base(Run(recipe, inputs, tmp_path, Stages()), model)
    assert len(base.encoded["train"]) == 2 * len(inputs.data.train)
    assert np.array_equal(base.encoded["train"].ids, inputs.encoded["train"].ids)


@pytest.mark.parametrize(
    ("sizes", "weight", "says"),
    [
        ({"out_features": 1_000_000}, torch.zeros(4, 16), "not of the sizes that its config.json states"),
        ({}, torch.full((4, 16), float("nan")), "NaN or infinity"),
    ],
)
def test_a_projection_is_looked_at_before_it_is_made(tmp_path: Path, sizes: dict[str, int], weight: torch.Tensor, says: str) -> None:
    folder = dense(tmp_path / "dense", dense=4) / "2_Dense"
    fields = {**json.loads((folder / "config.json").read_text()), "bias": False, **sizes}
    (folder / "config.json").write_text(json.dumps(fields))
    save_file({"linear.weight": weight}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=says):
        prunekit.export(folder.parent, out=tmp_path / "out")


def test_lower_case_is_the_tokenizers_own(tmp_path: Path) -> None:
    folder = dense(tmp_path / "dense")
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true, "max_seq_length": 20}')
    with pytest.raises(UnsupportedError, match="lower-cases texts outside of its tokenizer"):
        embedding_of(folder, None)
    fields = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**fields, "do_lower_case": True}))
    assert embedding_of(folder, None).max_length == 20


@needs_onnx
def test_prompts_keep_their_tokens_and_the_example_has_them(tmp_path: Path) -> None:
    embedding = Embedding("mean", False, {"query": "motef "}, "query", max_length=20)
    folder, rows = dense(tmp_path / "dense", embedding), write_rows(tmp_path / "data", {"train": texts(120, 0)})
    asked = {"task": "embedding", "keep": "70% params", "recover": "none", "dtype": "fp32"}
    with quick():
        found = prunekit.compress(folder, rows, vocabulary="data", out=tmp_path / "slim", **asked)
    assert tokenizer_of().get_vocab()["motef"] in (found.plan.vocabulary or ())
    card = (tmp_path / "slim" / "README.md").read_text()
    assert 'texts = ["motef " + text for text in texts]' in card or "texts = ['motef ' + text for text in texts]" in card
    assert "sentence_embedding /= np.linalg.norm" in card
    assert "Vectors have length 1" not in card


def test_prompts_without_pooling_are_refused_where_one_is_used_alone(tmp_path: Path) -> None:
    model = dense(tmp_path / "dense", Embedding(prompts={"query": "ba "}, include_prompt=False, max_length=20))
    asked: dict[str, Any] = {"model": str(model), "data": str(write_rows(tmp_path / "data", {"train": texts(60, 0)})), "task": "embedding"}
    assert load_inputs(Recipe(**asked), None, Stages()).prompts == {}
    with pytest.raises(UnsupportedError, match="leaves the tokens of its prompt out of the pooling"):
        load_inputs(Recipe(**asked, prompt="query"), None, Stages())


@needs_onnx
def test_export_reads_texts_without_labels_one_by_one(tmp_path: Path) -> None:
    model = dense(tmp_path / "dense")
    data = write_rows(tmp_path / "data", {"train": texts(100, 0), "test": pairs(40, 1)})
    done = prunekit.export(model, tmp_path / "out", dtype="int8", data=data)
    assert (done.report.metric, done.report.scores) == (None, {})
    assert done.report.fidelity is not None
    source = load_source(model)
    judge = judge_of(source, str(data), {}, seed=0)
    assert len(judge.test) == 80
    # Words with tags are read as before.
    assert judge_of(source, str(data_of("tokens")), {}, seed=0).test.words is not None


def test_bench_reads_the_texts_of_pairs_one_by_one(tmp_path: Path) -> None:
    model = dense(tmp_path / "dense")
    data = write_rows(tmp_path / "data", {"train": texts(60, 0), "test": pairs(40, 1)})
    found = encode_for(parse([str(model)], ["ort"]), data, max_length=None, columns={})
    assert len(found["dense"]) == 80


def test_bench_reads_a_bare_encoder_beside_an_embedder_as_one(tmp_path: Path) -> None:
    models = [str(dense(tmp_path / "slim")), str(save(model_of(), tmp_path / "bare"))]
    data = write_rows(tmp_path / "data", {"train": texts(60, 0), "test": pairs(40, 1)})
    found = encode_for(parse(models, ["ort"]), data, max_length=None, columns={"label": "score"})
    assert [len(rows) for rows in found.values()] == [80, 80]
