"""Draws the picture of the README: what slim models keep of the dense metric, against how fast they are, on several tasks.

    python benchmarks/picture.py SST-2=out/sst2/report.json TREC=out/trec/report.json --out docs/tradeoff.svg

Each NAME=FILE is the report.json of a run of `prunekit compress`; dense and slim are drawn in every precision that the run measured.
Nothing is measured here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prunekit.report.model import Report
from prunekit.report.tradeoff import tradeoff


def main() -> None:
    """Read the reports and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--out", type=Path, default=Path("docs/tradeoff.svg"))
    given = parser.parse_args()
    reports = {}
    for each in given.reports:
        name, _, file = each.partition("=")
        reports[name] = Report.from_json(Path(file).read_text(encoding="utf-8"), name=file)
    tradeoff(reports).save(given.out)


if __name__ == "__main__":
    main()
