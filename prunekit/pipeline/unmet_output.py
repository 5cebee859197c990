"""Output of a run whose bound does not hold: the plan and the report are kept, and the model where it was trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    save : callable, optional
        Writes the model's checkpoint into a directory: of a model that was trained, which the plan alone does not give again.
    """

    def __init__(
        self,
        message: str,
        plan: Plan,
        report: Report | None = None,
        frontier: Mapping[str, Plan] | None = None,
        save: Callable[[Path], object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.plan, self.report, self.frontier, self.save = message, plan, report, dict(frontier or {}), save

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.plan, self.report, self.frontier)


def keep_reached(unmet: UnmetError, out: str | Path) -> BudgetError:
    """Write what was reached, replacing what an earlier failure left, and return an error that names the directory."""
    place = unmet_place(out)
    with ArtefactWriter(place, overwrite=True) as folder:
        if unmet.save is not None:
            unmet.save(folder)
        unmet.plan.save(folder / "plan.json")
        if unmet.report is not None:
            write_reports(unmet.report, folder)
        for name, plan in unmet.frontier.items():
            (folder / FRONTIER).mkdir(exist_ok=True)
            plan.save(folder / FRONTIER / f"{name}.json")
    if unmet.report is None:
        subject = "The plan of what was reached is"
    elif unmet.save is None:
        subject = "The plan and the report of what was reached are"
    else:
        subject = "The plan, the report and the trained model of what was reached (prunekit export writes its files) are"
    return BudgetError(f"{unmet.message} {subject} in {str(place)!r}.")
