from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prunekit.budget import Budget, Effort, Unit
from prunekit.errors import ParameterError
from prunekit.metrics import Metric
from prunekit.recipe import Recipe
from prunekit.tasks import TaskKind


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


FULL = Recipe(
    model="some/model",
    revision="1234567",
    data=Path("rows.jsonl"),
    text="yes",
    label="no",
    task="text-classification",
    metric="f1",
    keep=["10%", "8 MB", "40% params"],
    layers="0-2,4",
    vocabulary="data",
    uniform=True,
    multiple_of=16,
    max_drop="1.5%",
    method="dalvi2020",
    pooling="mean",
    layer_delta="3%",
    neuron_delta="0%",
    threshold=0.5,
    max_length=64,
    seed=7,
    threads=2,
    trust_remote_code=True,
)


@pytest.mark.parametrize("recipe", [Recipe(), FULL], ids=["default", "full"])
def test_round_trip(recipe: Recipe, tmp_path: Path) -> None:
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
    assert recipe.replace() == recipe


@given(st.integers(0, 99_999).map(lambda n: f"{n / 1000}%"))
def test_percentages_round_trip_exactly(text: str) -> None:
    recipe = Recipe(max_drop=text)
    assert recipe.max_drop == float(text[:-1]) / 100
    assert Recipe(**yaml.safe_load(recipe.to_yaml())) == recipe


def test_values_are_ready_to_use() -> None:
    assert FULL.max_drop == 0.015
    assert FULL.task is TaskKind.CLASSIFICATION
    assert FULL.metric is Metric.F1
    assert FULL.data == "rows.jsonl"
    assert FULL.budgets == (Budget(Unit.MODEL, 0.1), Budget(Unit.BYTES, 8e6), Budget(Unit.PARAMS, 0.4))
    assert FULL.layers == (0, 1, 2, 4) == Recipe(layers=[0, 1, 2, 4]).layers
    assert Recipe(layers=3).layers == (3,)
    assert Recipe(keep="10%").keep == ("10%",)


def test_yaml_names_every_default_and_leaves_out_what_is_unset() -> None:
    body = yaml.safe_load(Recipe().to_yaml())
    assert body["version"] == 3
    assert body["layer_delta"] == "1%"
    assert body["keep"] == ["10%"]
    assert "model" not in body


@pytest.mark.parametrize("named", [{"layers": "0-1"}, {"vocabulary": "data"}, {"plan": "plan.json"}], ids=str)
def test_what_is_named_takes_the_place_of_the_default_budget(named: dict[str, Any]) -> None:
    recipe = Recipe(**named)
    assert recipe.keep == recipe.budgets == ()
    assert recipe == Recipe(**named, keep="none") == Recipe(**named, keep=[])
    assert yaml.safe_load(recipe.to_yaml())["keep"] == "none"
    assert Recipe(**yaml.safe_load(recipe.to_yaml())) == recipe
    # A default that nobody chose does not stay when something else is named later; one that was chosen does.
    assert Recipe(seed=1).replace(**named).keep == ()
    if "plan" not in named:
        assert Recipe(keep="10%").replace(**named).keep == ("10%",)


def test_replace_checks_again() -> None:
    assert FULL.replace(seed=1).seed == 1
    assert FULL.replace(seed=1).replace(seed=7) == FULL
    with pytest.raises(ParameterError, match="'seed'"):
        FULL.replace(seed=-1)


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FULL.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"kep": "10%"}, "The 'kep' parameter of compress must be one that exists. Got '10%' instead. Did you mean 'keep'?"),
        ({"max-drop": "1%"}, "Did you mean 'max_drop'?"),
        ({"zzz": 1}, "The parameters are version, model,"),
        ({"keep": "ten"}, "The 'keep' parameter of compress must be a percentage in"),
        ({"keep": 10}, "The 'keep' parameter of compress must be text such as '10%'"),
        ({"keep": [10]}, "The 'keep' parameter of compress must be text such as '10%'"),
        ({"keep": []}, "must be given where nothing else says what to remove. Got 'none' instead."),
        ({"keep": "none"}, "must be given where nothing else says what to remove. Got 'none' instead."),
        ({"speedup": "3%"}, "The 'speedup' parameter of compress must be a factor above 1x, such as '3x'. Got '3%' instead."),
        ({"speedup": "1x"}, "must be a factor above 1x"),
        ({"speedup": "0x"}, "must be a factor above 1x"),
        ({"speedup": "3x", "batch": 1}, "The 'batch' parameter of compress must be greater than or equal to 2"),
        ({"p95": "5"}, "The 'p95' parameter of compress must be a time from 0.001ms to 3600s, such as '5ms' or '0.2s'. Got '5' instead."),
        ({"p95": "0ms"}, "must be a time from 0.001ms to 3600s, such as '5ms' or '0.2s'. Got '0ms' instead."),
        ({"plan": "plan.json", "p95": "5ms"}, "The 'p95' parameter of compress must be left out where a plan is given"),
        ({"keep": "5 ms"}, "Did you mean --p95 5ms?"),
        ({"batch": 8}, "The 'batch' parameter of compress must be left out without a budget of latency"),
        ({"plan": "plan.json", "speedup": "3x"}, "The 'speedup' parameter of compress must be left out where a plan is given"),
        ({"keep": "0% latency"}, "The 'keep' parameter of compress must be a percentage in (0%, 100%]"),
        ({"layers": "1-0"}, "The 'layers' parameter of compress must be blocks to keep, increasing, such as '0-3' or '0,2,4'. Got '1-0'"),
        ({"layers": "one"}, "Got 'one' instead"),
        ({"layers": [0, 0]}, "Got [0, 0] instead"),
        ({"layers": [True]}, "Got [True] instead"),
        ({"vocabulary": "some"}, "one of 'all', 'data'"),
        ({"uniform": True, "keep": "10% neurons"}, "The 'uniform' parameter of compress must be left out where only neurons are counted"),
        (
            {"multiple_of": 8, "keep": "9% neurons"},
            "The 'multiple_of' parameter of compress must be left out where only neurons are counted",
        ),
        ({"multiple_of": 7, "keep": "50% params"}, "one of 1, 8, 16, 32"),
        ({"plan": "plan.json", "keep": "10%"}, "The 'keep' parameter of compress must be left out where a plan is given"),
        ({"plan": "plan.json", "layers": "0"}, "The 'layers' parameter of compress must be left out where a plan is given"),
        ({"keep": ["10%", "20%"]}, "model came twice"),
        ({"keep": "25% latency", "speedup": "3x"}, "'speedup' parameter of compress must be left out beside a budget of latency"),
        ({"keep": ()}, "The 'keep' parameter of compress must be given where nothing else says what to remove. Got 'none'"),
        ({"keep": ""}, "The 'keep' parameter of compress must be a percentage in (0%, 100%]"),
        ({"keep": "0 MB"}, "or a file size such as '20 MB'. Got '0 MB'"),
        ({"max_drop": "1"}, "must be a percentage in [0%, 100%), such as '1%'. Got '1' instead."),
        ({"layer_delta": 0.01}, "must be a percentage in [0%, 100%), such as '1%'. Got 0.01 instead."),
        ({"neuron_delta": "100%"}, "must be a percentage in [0%, 100%)"),
        ({"neuron_delta": "-1%"}, "must be a percentage in [0%, 100%)"),
        ({"method": "magic"}, "The 'method' parameter of compress must be one of 'prunekit', 'dalvi2020'. Got 'magic' instead."),
        ({"pooling": "sum"}, "one of 'cls', 'mean', 'last', 'max'"),
        ({"task": "translation"}, "one of 'text-classification', 'regression', 'token-classification'"),
        ({"task": "regression", "metric": "f1"}, "one of pearson, spearman"),
        ({"task": "token-classification", "metric": "pearson"}, "one of accuracy, f1, matthews"),
        ({"threshold": 2}, "The 'threshold' parameter of compress must be less than or equal to 1. Got 2 instead."),
        ({"threshold": "0.3"}, "must be a number"),
        ({"threshold": float("nan")}, "must be a finite number"),
        ({"seed": True}, "must be an integer"),
        ({"seed": 0.5}, "must be an integer"),
        ({"max_length": 2}, "greater than or equal to 4"),
        ({"threads": 0}, "greater than or equal to 1"),
        ({"label": True}, "must be text (in YAML, put it in quotes). Got True instead."),
        ({"model": ""}, "The 'model' parameter of compress must"),
        ({"trust_remote_code": "yes"}, "must be true or false"),
        ({"text": "a", "tags": "b"}, "The 'tags' parameter of compress must be left out where 'text' is given"),
    ],
)
def test_a_wrong_value_is_one_line(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Recipe(**values)
    assert match in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.bool_(True), 1 + 0j, True, "1", b"1"], ids=repr)
@pytest.mark.parametrize("field", ["multiple_of", "threshold"])
def test_what_only_equals_a_number_is_none(field: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"The '{field}' parameter of compress must be a number. Got"):
        Recipe(**{field: value})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("kep: 10%", "Did you mean 'keep'?"),
        ("version: 4", "must be at most 3. Got 4 instead. Upgrade prunekit."),
        ("version: one", "The 'version' parameter of"),
        ("- a", "a YAML file of 'parameter: value' lines"),
        ("", "a YAML file of 'parameter: value' lines"),
        ("a: [", "must be a YAML file"),
        ("label: true", "put it in quotes"),
        ("1: 2", "The '1' parameter of"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(text: str, match: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ParameterError) as caught:
        Recipe.load(path)
    assert match in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="No such file"):
        Recipe.load(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ParameterError, match="not UTF-8"):
        Recipe.load(tmp_path / "binary.yaml")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_load(path: Path) -> None:
    assert Recipe.load(path).version == 3


def test_a_speedup_is_a_share_of_the_time() -> None:
    recipe = Recipe(speedup="4x", batch=8)
    assert Recipe(speedup="4", batch=8) == recipe
    (budget,) = recipe.budgets
    assert (budget.unit, budget.amount) == (Unit.LATENCY, 0.25)
    assert budget.option == "--speedup 4x"
    assert recipe.keep == ()
    assert recipe.batches == (1, 8)
    assert Recipe(keep="90% latency").budgets[0].option == "--keep '90% latency'"
    assert Recipe(**recipe.model_dump(mode="json", exclude={"keep"}, exclude_none=True)).speedup == 4.0


def test_a_time_in_milliseconds_is_one_more_budget() -> None:
    recipe = Recipe(p95="5ms", speedup="2x")
    assert Recipe(p95="0.005 s", speedup="2x") == recipe
    faster, budget = recipe.budgets
    assert (faster.unit, budget.unit, budget.amount) == (Unit.LATENCY, Unit.P95, 0.005)
    assert budget.option == "--p95 5ms"
    assert recipe.keep == ()
    assert Recipe(**recipe.model_dump(mode="json", exclude={"keep"}, exclude_none=True)).p95 == 0.005
    assert not Recipe(max_drop="1%", p95="5ms").searches


def test_what_says_how_far_to_go_takes_the_place_of_the_default() -> None:
    assert Recipe().keep == ("10%",)
    assert Recipe(max_drop="1%").searches
    assert not Recipe(max_drop="1%", speedup="2x").searches
    assert not Recipe(max_drop="1%", vocabulary="data").searches
    assert not Recipe(max_drop="1%", keep="10%").searches
    assert Recipe(max_drop="1%", method="dalvi2020").keep == ("10%",)
    assert Recipe(frontier=True).keep == ("50% latency",)
    assert Recipe(frontier=True, max_drop="1%").keep == ()


@pytest.mark.parametrize(
    ("text", "keep", "recover"),
    [
        ("version: 1", ("10% neurons",), "none"),
        ("version: 1\nkeep: 20%", ("20% neurons",), "none"),
        ("version: 1\nkeep: [20 %, 40% params]\nrecover: 3epochs", ("20 % neurons", "40% params"), "3epochs"),
        ("version: 1\nlayers: 0-1", (), "none"),
        ("version: 1\nmax_drop: 1%", (), "none"),
        ("version: 1\nmax_drop: 1%\nmethod: dalvi2020", ("10% neurons",), "none"),
        ("version: 1\nfrontier: true", ("50% latency",), "none"),
        ("version: 2\nkeep: 20%", ("20%",), "auto"),
        ("keep: 20%", ("20%",), "auto"),
    ],
)
def test_a_recipe_of_version_1_means_what_it_meant(text: str, keep: tuple[str, ...], recover: str, tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, text))
    assert (recipe.keep, recipe.recover, recipe.version) == (keep, recover, 3)


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("version: 1", "fp32"),
        ("version: 2", "fp32"),
        ("version: 2\ndtype: int8-static", "int8-static"),
        ("version: 1\ndtype: int8", "int8"),
        ("version: 3", "int8"),
        ("keep: 20%", "int8"),
        ("dtype: fp32", "fp32"),
    ],
)
def test_before_version_3_no_file_in_int8_came_by_itself(text: str, dtype: str, tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, text))
    assert (recipe.dtype, recipe.version) == (dtype, 3)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_training_is_a_matter_of_course_and_can_be_left_out() -> None:
    assert Recipe().recover == "auto"
    assert Recipe().effort == Effort("seconds", 300, passes=40)
    assert Recipe(recover="none").effort is Recipe(recover=None).effort is None
    assert Recipe(recover="90s").effort == Effort("seconds", 90)
