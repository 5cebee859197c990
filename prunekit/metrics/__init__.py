"""How answers are judged: metrics, values and confidence intervals.

The names of the metrics are in `metric`, their values in `values`, intervals in `intervals`. Entities, label sets,
ranked lists and answers to questions have a module each.
"""

from prunekit.metrics.intervals import LEVEL, RESAMPLES, Interval, compare, draws, influence, interval
from prunekit.metrics.metric import Metric
from prunekit.metrics.values import Floats, Ints, Judged, cosines, judged, judged_means, judged_spans, of_counts

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "Floats",
    "Interval",
    "Ints",
    "Judged",
    "Metric",
    "compare",
    "cosines",
    "draws",
    "influence",
    "interval",
    "judged",
    "judged_means",
    "judged_spans",
    "of_counts",
]
