"""Upload of a directory to the hub, with a model card that the hub can read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from prunekit.errors import OutputError, ParameterError
from prunekit.exporters.artefact import RECIPE
from prunekit.exporters.layout import CARD, HUB_ID, short_name
from prunekit.exporters.manifest import MANIFEST, PLAN, File, Manifest
from prunekit.metrics import Metric
from prunekit.pipeline.records import FRONTIER
from prunekit.pipeline.reporting import EMBEDDED_BASE
from prunekit.plan import Plan
from prunekit.recipe import Recipe
from prunekit.report.model import Report
from prunekit.validation.escape import reason
from prunekit.validation.fingerprint import digest_at
from prunekit.validation.reading import ReadError
from prunekit.validation.yaml_text import front_matter

#: Names of the metrics on the hub.
_METRICS = {
    Metric.MATTHEWS: "matthews_correlation",
    Metric.PEARSON: "pearsonr",
    Metric.SPEARMAN: "spearmanr",
    Metric.ENTITY_F1: "seqeval",
}
#: Metadata of the card of the embedded model.
_EMBEDDED = {"license": "apache-2.0", "language": "en"}
#: Fields of a recipe, and of a plan's provenance, that may be paths of this machine.
_PLACES = {"model", "data", "source", "plan", "retrieval"}


def push(
    folder: Path, report: Report, repo: str, stated: Mapping[str, Any], *, private: bool | None, token: str | None, message: str
) -> str:
    """Upload a directory: see `prunekit.Result.push_to_hub`."""
    if not HUB_ID.fullmatch(repo):
        raise ParameterError("repo_id", "push_to_hub", "'user/name', as the hub has it", repo)
    recipe = Recipe.load(folder / RECIPE)
    base = recipe.model or EMBEDDED_BASE
    defaults = _EMBEDDED if recipe.model is None else _card_metadata(base)
    metadata: dict[str, Any] = {name: value or defaults.get(name) for name, value in stated.items()}
    for name, value in metadata.items():
        if not value:
            must = "given, since the base model's card does not say it"
            raise ParameterError(name, "push_to_hub", must, None, "Such as 'apache-2.0'." if name == "license" else "Such as 'en'.")
    data = _on_hub(recipe.data)
    fields: dict[str, Any] = {
        "base_model": base if _on_hub(base) else None,
        "datasets": [data] if data else None,
        "pipeline_tag": report.kind.traits.pipeline,
        "tags": ["prunekit", "onnx", "pruned"],
        "metrics": [_metric(report)],
        "model_name": repo.rpartition("/")[2],
        "eval_results": _results(report, recipe, data),
    }
    card = ModelCardData(**{name: value for name, value in {**metadata, **fields}.items() if value})
    try:
        manifest = _rewrite(folder, card)
        public = _public(folder, manifest)
        # What somebody has put beside it stays here.
        written = [name for name in (*manifest.files, MANIFEST) if (folder / name).is_file()]
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=public.get(name, folder / name)) for name in written]
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.create_commit(repo, files, commit_message=message).commit_url)
    except (HfHubHTTPError, ReadError, OSError, ValueError) as error:
        raise OutputError(f"The repository {repo!r} cannot be written: {reason(error, 300)}") from None


def _on_hub(name: str | None) -> str | None:
    """Return a name if it is one of the hub, which a path on a local disk and a fingerprint are not; else None."""
    valid = name is not None and digest_at(name) is None and re.fullmatch(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?", name)
    return name if valid and not Path(str(name)).expanduser().exists() else None


def _card_metadata(base: str) -> dict[str, Any]:
    """Return license and language of the base model's card, as far as there is one."""
    if digest_at(base) is not None:
        return {}
    folder = Path(base).expanduser()
    try:
        if folder.is_dir():
            fields = ModelCard.load(folder / CARD).data if (folder / CARD).is_file() else ModelCardData()
        else:
            fields = ModelCard.load(base).data
    except (HfHubHTTPError, OSError, ValueError, yaml.YAMLError):
        # The user is asked for what is not known.
        return {}
    return {"license": fields.get("license"), "language": fields.get("language")}


def _metric(report: Report) -> str:
    return _METRICS.get(report.metric, report.metric.value)


def _results(report: Report, recipe: Recipe, data: str | None) -> list[EvalResult]:
    """Return each file's metric on the test split."""
    name = short_name(report.data)
    return [
        EvalResult(
            task_type=report.kind.traits.pipeline,
            dataset_type=data or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
            dataset_name=name,
            dataset_config=recipe.data_config,
            dataset_split="test",
            metric_type=_metric(report),
            metric_name=f"{report.metric.label}, {file.dtype}",
            metric_value=float(file.value),
        )
        for file in report.files
        if file.value is not None
    ]


def _rewrite(folder: Path, card: ModelCardData) -> Manifest:
    """Write metadata at the head of the directory's card; return the manifest, in which the card alone is entered anew.

    A card that somebody has changed stays in the manifest as it was written, like any other file.
    """
    path, manifest = folder / CARD, Manifest.load(folder)
    unchanged = path.is_file() and File.of(path) == manifest.files.get(CARD)
    body = path.read_text(encoding="utf-8").partition("---\n")[2].partition("---\n")[2]
    fields: dict[str, object] = card.to_dict()  # type: ignore[no-untyped-call]  # huggingface_hub does not annotate it
    path.write_text(f"{front_matter(fields)}\n{body}", encoding="utf-8")
    if unchanged:
        manifest = manifest.model_copy(update={"files": {**manifest.files, CARD: File.of(path)}})
        (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return manifest


def _public(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Return the files that differ on the hub: recipe and plans, which name paths of this machine, and the manifest that enters them.

    A file that somebody has changed stays in the manifest as it was written.
    """
    contents: dict[str, bytes] = {}
    for name, path in ((name, folder / name) for name in manifest.files if (folder / name).is_file()):
        if name == RECIPE:
            recipe = Recipe.load(path)
            contents[name] = recipe.model_copy(update=_without_paths(dict(recipe))).to_yaml().encode()
        elif name == PLAN or name.startswith(f"{FRONTIER}/"):
            plan = Plan.load(path)
            contents[name] = plan.model_copy(update={"provenance": _without_paths(plan.provenance)}).to_json().encode()
    entered = {name: _entry(content) for name, content in contents.items() if File.of(folder / name) == manifest.files[name]}
    return {**contents, MANIFEST: manifest.model_copy(update={"files": {**manifest.files, **entered}}).to_bytes()}


def _entry(content: bytes) -> File:
    return File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _without_paths(value: Any) -> Any:
    """Return fields in which absolute paths are cut to their last part: "./NAME", which is no name of the hub."""
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    if not isinstance(value, dict):
        return value
    paths = {name for name, each in value.items() if name in _PLACES and isinstance(each, str) and each.startswith(("/", "~"))}
    return {name: f"./{Path(each).name}" if name in paths else _without_paths(each) for name, each in value.items()}
