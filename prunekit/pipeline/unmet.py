"""What was reached where a bound does not hold: the plan and the report are kept, the model is not."""

from __future__ import annotations

from pathlib import Path

from prunekit.errors import BudgetError
from prunekit.exporters.artefact import ArtefactWriter
from prunekit.pipeline.early import unmet_place
from prunekit.pipeline.reporting import write_reports
from prunekit.plan import Plan
from prunekit.report.model import Report


class UnmetError(BudgetError):
    """A bound that does not hold, and what was reached instead.

    Parameters
    ----------
    message : str
    plan : Plan
        Of the model that was judged.
    report : Report or None
        What was measured of it; None where it was judged in a search alone.
    """

    def __init__(self, message: str, plan: Plan, report: Report | None = None) -> None:
        super().__init__(message)
        self.message, self.plan, self.report = message, plan, report

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.plan, self.report)


def keep_reached(unmet: UnmetError, out: str | Path) -> BudgetError:
    """Write plan and report, in the place of those of an earlier failure, and say where."""
    place = unmet_place(out)
    with ArtefactWriter(place, overwrite=True) as folder:
        unmet.plan.save(folder / "plan.json")
        if unmet.report is not None:
            write_reports(unmet.report, folder)
    what = "The plan of what was reached is" if unmet.report is None else "The plan and the report of what was reached are"
    return BudgetError(f"{unmet.message} {what} in {str(place)!r}.")
