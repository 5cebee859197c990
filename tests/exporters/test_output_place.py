from __future__ import annotations

from pathlib import Path

import pytest

from prunekit.errors import ParameterError
from prunekit.exporters.artefact import check_output


@pytest.mark.parametrize("out", ["https://example.invalid/model", "file:///etc/passwd", Path("s3://bucket/model")], ids=str)
def test_an_address_is_no_directory(out: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match="must be a directory of this machine"):
        check_output(out)
    assert check_output("a: model/b") == tmp_path / "a: model" / "b"
