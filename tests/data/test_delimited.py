"""Quotes in TSV files: those that enclose cells, and those that are characters."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunekit.data.files import read_source

QUOTED = {
    "header": ('"text"\t"label"\n', '"a{}"\t"x"\n', "a{}"),
    "doubled": ("text\tlabel\n", '"a ""b"" {}"\tx\n', 'a "b" {}'),
    "tab": ("text\tlabel\r\n", '"a\tb{}"\tx\r\n', "a\tb{}"),
    "lines": ("text\tlabel\n", '"a\nb{}"\tx\nplain\tx\n', "a\nb{}"),
}
UNQUOTED = {
    "all of it": '"a{}"\tx\n',
    "one side": '"a{}\tx\n',
    "over two lines": '"a{}\tx\nb"\tx\n',
    "doubled at the ends": '""a{}""\tx\n',
    "within": 'a "b" {}\tx\n"a ""b"" c"\tx\n',
}


@pytest.mark.parametrize("case", QUOTED)
def test_quotes_that_enclose_the_cells_of_a_tsv_are_not_read(case: str, tmp_path: Path) -> None:
    header, row, text = QUOTED[case]
    (tmp_path / "a.tsv").write_bytes((header + "".join(row.format(at) for at in range(4))).encode())
    found = read_source(tmp_path / "a.tsv", config=None, trust_remote_code=False).splits["train"]
    assert [each for each in found["text"] if each != "plain"] == [text.format(at) for at in range(4)]
    assert set(found["label"]) == {"x"}


@pytest.mark.parametrize("case", UNQUOTED)
def test_quotes_of_the_texts_of_a_tsv_are_kept(case: str, tmp_path: Path) -> None:
    rows = "".join(UNQUOTED[case].format(at) for at in range(4))
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + rows)
    found = read_source(tmp_path / "a.tsv", config=None, trust_remote_code=False).splits["train"]
    assert list(found["text"]) == [line.partition("\t")[0] for line in rows.splitlines()]
