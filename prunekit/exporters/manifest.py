"""manifest.json: every file that prunekit wrote into a directory, to distinguish them from all others."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prunekit import __version__
from prunekit.errors import ExportError
from prunekit.plan import Plan
from prunekit.validation.limits import PLAN_BYTES
from prunekit.validation.reading import ReadError, parse_json, read_bytes, read_json

MANIFEST = "manifest.json"
PLAN = "plan.json"
EXPORT = "export.json"
VERSION = 1
_BYTES = 2**24
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

#: Files that were written before there were manifests.
_KNOWN = frozenset(
    (
        *("plan.json", "report.json", "report.md", "report.html", "README.md", "recipe.yaml", "export.json"),
        *("analysis.json", "analysis.html", "statistics.safetensors"),
        *("config.json", "model.safetensors", "pruned.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt"),
        *("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model"),
        *(f"onnx/{name}.onnx{data}" for name in ("model", "model_quantized", "model_fp16") for data in ("", "_data")),
    )
)


class File(BaseModel):
    """One file: its size in bytes and its SHA-256."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: _Digest

    @classmethod
    def of(cls, path: Path) -> File:
        """Return size and digest of a regular file, read in chunks."""
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
                size += len(chunk)
        return cls(bytes=size, sha256=digest.hexdigest())


class Manifest(BaseModel):
    """Files that prunekit wrote into a directory.

    Attributes
    ----------
    version : int
        Version of the format.
    prunekit : str
        Version of prunekit that wrote it.
    plan : str or None
        Digest of the plan.
    data : str or None
        SHA-256 of the data that it was made on.
    files : {relative path: File}
        All but the manifest.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    version: int = VERSION
    prunekit: str = __version__
    plan: _Digest | None = None
    data: str | None = None
    files: dict[str, File]

    def to_bytes(self) -> bytes:
        """Return indented JSON with a digest of its own content."""
        body = self.model_dump(mode="json")
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        return (json.dumps({**body, "digest": digest}, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest of a directory.

        Raises
        ------
        ReadError
            If there is none, or any byte differs from what was written.
        """
        raw = read_bytes(folder / MANIFEST, _BYTES)
        try:
            body = parse_json(raw.decode("utf-8"), unique=True)
        except UnicodeDecodeError:
            raise ReadError("it is not UTF-8 text") from None
        if not isinstance(body, dict):
            raise ReadError("it is no manifest")
        try:
            manifest = cls.model_validate({name: value for name, value in body.items() if name != "digest"})
        except ValidationError as error:
            raise ReadError(f"it is no manifest: {error.errors()[0]['msg']}") from None
        if manifest.to_bytes() != raw:
            raise ReadError("its content is not that of its digest")
        return manifest


def write_manifest(folder: Path, data: str | None = None) -> None:
    """Write the manifest of a complete directory; `data` is the fingerprint of the data that it was made on."""
    files = {name: File.of(path) for name, path, _ in _walk(folder, regular=True)}
    plan = Plan.load(folder / PLAN).digest if PLAN in files else None
    (folder / MANIFEST).write_bytes(Manifest(plan=plan, data=data, files=files).to_bytes())


@dataclass(frozen=True)
class Foreign:
    """Entry of a directory that prunekit did not write, or that was changed since."""

    path: str
    why: str


def foreign(folder: Path) -> Foreign | None:
    """Return the first entry of a directory that may not be removed; None where prunekit wrote all of it."""
    try:
        manifest = Manifest.load(folder)
    except ReadError as error:
        if (folder / MANIFEST).exists() or (folder / MANIFEST).is_symlink():
            return Foreign(MANIFEST, str(error))
        return _unlisted(folder)
    parents = {str(parent) for name in manifest.files for parent in Path(name).parents}
    for name, path, kind in _walk(folder):
        if kind == "directory":
            # An empty one may be removed.
            if name not in parents and any(path.iterdir()):
                return Foreign(name, "prunekit did not write it")
        elif name != MANIFEST and (kind != "file" or name not in manifest.files):
            return Foreign(name, "prunekit did not write it")
        elif name != MANIFEST and (path.stat().st_size != manifest.files[name].bytes or File.of(path) != manifest.files[name]):
            return Foreign(name, "it was changed since prunekit wrote it")
    return None


def _unlisted(folder: Path) -> Foreign | None:
    """Return the same for a directory without a manifest: only known names, and files that belong together, are prunekit's."""
    for name, _, kind in _walk(folder):
        if (kind == "directory" and name != "onnx") or (kind != "directory" and (kind != "file" or name not in _KNOWN)):
            return Foreign(name, "prunekit did not write it")
    plan, report, export, analysis = (_fields(folder / name) for name in (PLAN, "report.json", EXPORT, "analysis.json"))
    pairs = (
        plan.get("digest") is not None and plan["digest"] == report.get("plan_digest"),
        {"version", "head", "parity"} <= export.keys(),
        {"version", "model", "analyzers"} <= analysis.keys() and (folder / "analysis.html").is_file(),
    )
    if any(pairs):
        return None
    first = next((name for name, _, _ in _walk(folder)), MANIFEST)
    return Foreign(first, "there is no manifest.json that says that prunekit wrote it")


def _fields(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, PLAN_BYTES)
    except ReadError:
        return {}
    return content if isinstance(content, dict) else {}


def _walk(folder: Path, *, regular: bool = False) -> Iterator[tuple[str, Path, str]]:
    """Yield (relative path, path, kind) of all entries, sorted; follow no link. With `regular`, yield only files."""
    pending = [folder]
    while pending:
        for entry in sorted(os.scandir(pending.pop()), key=lambda entry: entry.name):
            mode = entry.stat(follow_symlinks=False).st_mode
            kind = "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
            path = Path(entry.path)
            if kind == "directory":
                pending.append(path)
            if not regular or kind == "file":
                yield path.relative_to(folder).as_posix(), path, kind
            elif kind == "other":
                raise ExportError(f"{path.name!r} is no regular file.")
