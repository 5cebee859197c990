"""The report as one HTML page, self-contained and printable, in the reader's light or dark mode."""

from __future__ import annotations

import re

from prunekit import __version__
from prunekit.report import figures, words
from prunekit.report.model import Report
from prunekit.report.tables import stages
from prunekit.validation.templates import render


def to_html(report: Report) -> str:
    """Render the report as a standalone page, with figures as inline SVG."""
    return render(
        "report/report.html.jinja",
        report=report,
        title=f"{report.model} on {report.data}",
        missed=words.NOT_MET,
        words=words,
        figures=figures,
        stages=stages,
        unbroken=_unbroken,
        version=__version__,
    )


def _unbroken(text: str) -> str:
    """Keep numbers and their units on one line."""
    return re.sub(r"(?<=[0-9]) (?=[kMGT]?B?\b|ms\b)", "\u00a0", text)
