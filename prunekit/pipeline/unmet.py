"""Output of a run whose bound does not hold: the plan and the report are kept, the model is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prunekit.errors import BudgetError
from prunekit.exporters.artefact import ArtefactWriter
from prunekit.pipeline.early import unmet_place
from prunekit.pipeline.records import FRONTIER
from prunekit.pipeline.reporting import write_reports
from prunekit.plan import Plan
from prunekit.report.model import Report


class UnmetError(BudgetError):
    """A bound that does not hold, with the plan and the report that were reached.

    Parameters
    ----------
    message : str
    plan : Plan
        Of the model that was judged.
    report : Report or None
        Measurements of it; None where it was judged in a search alone.
    frontier : {name: Plan}
        Plans of the points that the report names.
    """

    def __init__(self, message: str, plan: Plan, report: Report | None = None, frontier: Mapping[str, Plan] | None = None) -> None:
        super().__init__(message)
        self.message, self.plan, self.report, self.frontier = message, plan, report, dict(frontier or {})

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.plan, self.report, self.frontier)


def keep_reached(unmet: UnmetError, out: str | Path) -> BudgetError:
    """Write plan and report, replacing those of an earlier failure, and return an error that names their directory."""
    place = unmet_place(out)
    with ArtefactWriter(place, overwrite=True) as folder:
        unmet.plan.save(folder / "plan.json")
        if unmet.report is not None:
            write_reports(unmet.report, folder)
        for name, plan in unmet.frontier.items():
            (folder / FRONTIER).mkdir(exist_ok=True)
            plan.save(folder / FRONTIER / f"{name}.json")
    subject = "The plan of what was reached is" if unmet.report is None else "The plan and the report of what was reached are"
    return BudgetError(f"{unmet.message} {subject} in {str(place)!r}.")
