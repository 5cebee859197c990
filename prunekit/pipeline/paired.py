"""Paired comparison of the classifiers of a run on the same test rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from prunekit.metrics import Judged, compare
from prunekit.pipeline.records import Answers
from prunekit.report.base import BASELINES, REFERENCES, RowName
from prunekit.report.model import Paired
from prunekit.tasks import Task


def paired(task: Task, test: Mapping[str, Answers], *, seed: int, alike: bool = False) -> tuple[Paired, ...]:
    """Return shares of the dense model and the oracle, differences from baselines and a bag of words, with paired 95% intervals by rows.

    By metrics reported beside the task's own, the files that ship are compared with the dense model alone.

    Where the slim model was trained and baselines were not, they are compared with what it was before. A share of a reference that
    is not above 0 is not meaningful and is left out.

    Parameters
    ----------
    task : Task
    test : {name: Answers}
        Of the same rows in the same order; "slim" among them.
    seed : int
        Of the resamples.
    alike : bool
        Whether baselines were trained as the slim model was.
    """
    judged = {name: task.judged(*answers) for name, answers in test.items()}
    comparisons = (*_shares(judged, seed), *_differences(judged, seed, alike))
    deployed = {name: answers for name, answers in test.items() if name in ("slim", "slim-low", "dense")}
    for metric in task.beside:
        scores = {name: replace(task, metric=metric).judged(*answers) for name, answers in deployed.items()}
        comparisons += tuple(share.model_copy(update={"metric": metric}) for share in _shares(scores, seed))
    return comparisons


def _shares(judged: Mapping[str, Judged], seed: int) -> Iterator[Paired]:
    names: tuple[RowName, ...] = ("slim", "slim-low", "untrained", *BASELINES)
    references: tuple[RowName, ...] = (*REFERENCES, "tuned")
    for against in references:
        if against not in judged or judged[against].value <= 0:
            continue
        for name in names:
            if name in judged:
                share = compare(judged[name], judged[against], seed=seed)
                if not math.isfinite(share.high):
                    # The reference is so weak that its share has no upper bound.
                    continue
                yield Paired(name=name, against=against, by="share", **share._asdict())


def _differences(judged: Mapping[str, Judged], seed: int, alike: bool) -> Iterator[Paired]:
    ours: RowName = "untrained" if "untrained" in judged and not alike else "slim"
    for against in BASELINES:
        if against in judged:
            difference = compare(judged[ours], judged[against], by="difference", seed=seed)
            yield Paired(name=ours, against=against, by="difference", **difference._asdict())
    if {"slim-low", "dense-low"} <= judged.keys():
        difference = compare(judged["slim-low"], judged["dense-low"], by="difference", seed=seed)
        yield Paired(name="slim-low", against="dense-low", by="difference", **difference._asdict())
    if "bag" in judged:
        # The file that ships is compared with a baseline that costs nothing.
        difference = compare(judged["slim"], judged["bag"], by="difference", seed=seed)
        yield Paired(name="slim", against="bag", by="difference", **difference._asdict())
