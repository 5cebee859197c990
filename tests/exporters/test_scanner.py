"""What a scanner of model directories finds in an artefact: no pickle, in any of its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from picklescan.scanner import scan_directory_path

from tests.lines import line

pytestmark = pytest.mark.needs("onnxruntime")


@pytest.mark.parametrize("case", ["base", "sequence"])
def test_an_artefact_holds_no_pickle(case: str) -> None:
    scan = scan_directory_path(str(line(case).path), strict=True)
    assert (scan.scanned_files, scan.issues_count, scan.suspicious_count, scan.scan_err) == (0, 0, 0, False)


def test_the_scanner_sees_one_that_is_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "slim"
    shutil.copytree(line("base").path, folder)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert scan_directory_path(str(folder)).infected_files == 1
