"""Importance of heads and FFN neurons (Michel et al. 2019; Kwon et al. 2022; Park et al. 2024), with labels and without."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, final

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.stats import spearmanr

from prunekit.analyzers.base import Analyzer, AnalyzerResult, Need, Observations
from prunekit.analyzers.figures import Curves, Figure, Heatmap, Series
from prunekit.errors import StatisticsError
from prunekit.stats.collected import UnitScores

Units = Float64[NDArray[np.float64], " units"]

#: Share of the output's variance that cheap units may cost together.
CHEAP = 0.01
_UNIT_NAMES = {"heads": "heads", "ffn": "FFN neurons"}
_SCORES = {"fisher": "Fisher", "fisher_labels": "Fisher, labels", "energy": "activation energy", "removal": "removal cost"}


@final
@dataclass(frozen=True, eq=False)
class Importance(AnalyzerResult):
    """Importance of every unit, by four measures.

    Attributes
    ----------
    sites : tuple of UnitScores
    agreement : {"heads" or "ffn": {"first / second": Spearman correlation over all units}}
    cheap : {"heads" or "ffn": float}
        Share of the units that could each be expressed by the others at less than 1% of a fair share of the output's variance.
    """

    sites: tuple[UnitScores, ...]
    agreement: dict[str, dict[str, float]]
    cheap: dict[str, float]

    def summary(self) -> tuple[str, ...]:
        """Summarise the share of cheap units, and the least and most important layers."""
        cheap = ", ".join(f"{share:.0%} of the {_UNIT_NAMES[role]}" for role, share in self.cheap.items())
        lines = [f"units that the others of their site express almost fully: {cheap}"]
        for role in self.cheap:
            totals = [(float(site.fisher.mean()), site.block + 1) for site in self._sites_of(role)]
            lines.append(f"{_UNIT_NAMES[role]} matter least in layer {min(totals)[1]} and most in layer {max(totals)[1]} (mean Fisher)")
        return tuple(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Return a heatmap of the heads, FFN neurons as sorted curves, and the agreement of the measures."""
        figures: list[Figure] = []
        if "heads" in self.cheap:
            figures.append(self._heads())
        if "ffn" in self.cheap:
            figures += [self._neurons("fisher", "Fisher (label-free)"), self._neurons("removal", "least-squares removal cost")]
        return (*figures, *(self._agreement(role) for role in self.cheap))

    def _sites_of(self, role: str) -> tuple[UnitScores, ...]:
        return tuple(site for site in self.sites if site.role == role)

    def _heads(self) -> Figure:
        sites = self._sites_of("heads")
        most = max(len(site.fisher) for site in sites)
        values = np.full((len(sites), most), np.nan)
        for at, site in enumerate(sites):
            values[at, : len(site.fisher)] = np.sqrt(site.fisher)
        values /= max(float(np.nanmax(values)), 1e-300)
        layer, head = np.unravel_index(int(np.nanargmin(values)), values.shape)
        note = (
            "How strongly the answer moves if a head is scaled: root of the label-free Fisher, the strongest head is 1; "
            f"head {head + 1} of layer {sites[layer].block + 1} moves it least."
        )
        rows = tuple(str(site.block + 1) for site in sites)
        columns = tuple(str(head + 1) for head in range(most))
        return Heatmap("Heads", values, rows, columns, "layer", "head", "relative to the strongest", note)

    def _neurons(self, name: Literal["fisher", "removal"], measure: str) -> Figure:
        sites = self._sites_of("ffn")
        scores = np.concatenate([getattr(site, name) for site in sites])
        chosen = sites if len(sites) <= 4 else [sites[at] for at in np.linspace(0, len(sites) - 1, 4).astype(np.int64)]
        series = (
            _cumulative_shares("all layers", scores),
            *(_cumulative_shares(f"layer {site.block + 1}", getattr(site, name)) for site in chosen),
        )
        half = np.searchsorted(np.cumsum(np.sort(scores)[::-1]), 0.5 * scores.sum()) + 1
        note = (
            "Neurons are taken from the most to the least important: the steeper a curve begins, the fewer matter; "
            f"{half / len(scores):.1%} of all FFN neurons hold half of the total."
        )
        return Curves(f"FFN neurons by {measure}", series, "share of the neurons", "share of the total that they hold", note, percent=True)

    def _agreement(self, role: str) -> Figure:
        measures = [name for name in _SCORES if all(getattr(site, name) is not None for site in self._sites_of(role))]
        matrix = np.array([[1.0 if a == b else self.agreement[role][_pair(a, b)] for b in measures] for a in measures])
        names = tuple(_SCORES[name] for name in measures)
        short = tuple(str(at + 1) for at in range(len(measures)))
        rows = tuple(f"{name} ({number})" for name, number in zip(names, short, strict=True))
        note = (
            f"Do the measures rank the {_UNIT_NAMES[role]} alike? Spearman correlation over all units; "
            f"label-free Fisher and removal cost agree at {self.agreement[role][_pair('fisher', 'removal')]:.2f}."
        )
        return Heatmap(f"Agreement of the measures, {_UNIT_NAMES[role]}", matrix, rows, short, "", "measure", "Spearman correlation", note)


def _cumulative_shares(name: str, values: Units) -> Series:
    """Return the share of the total that the most important neurons hold."""
    total = np.concatenate([[0.0], np.cumsum(np.sort(values)[::-1])])
    at = np.unique(np.linspace(0, len(values), 60).astype(np.int64))
    return Series(name, tuple(map(float, at / len(values))), tuple(map(float, total[at] / max(total[-1], 1e-300))))


def _pair(a: str, b: str) -> str:
    first, second = sorted((a, b), key=list(_SCORES).index)
    return f"{first} / {second}"


def run(inputs: Observations) -> Importance:
    """Combine the scores of all sites; raises StatisticsError where the model has no units left."""
    sites = inputs.units
    assert sites is not None
    if not sites:
        raise StatisticsError("The model has neither heads nor FFN neurons.")
    agreement: dict[str, dict[str, float]] = {}
    cheap: dict[str, float] = {}
    for role in ("heads", "ffn"):
        chosen = [site for site in sites if site.role == role]
        if not chosen:
            continue
        scores = {name: np.concatenate([getattr(site, name) for site in chosen]) for name in _available(chosen)}
        agreement[role] = {_pair(a, b): _spearman(scores[a], scores[b]) for a in scores for b in scores if _precedes(a, b)}
        fair = np.concatenate([np.full(len(site.removal), site.output / len(site.removal)) for site in chosen])
        cheap[role] = float((scores["removal"] <= CHEAP * fair).mean())
    return Importance(sites, agreement, cheap)


def _available(sites: list[UnitScores]) -> list[str]:
    names = [field.name for field in fields(UnitScores) if field.name in _SCORES]
    return [name for name in names if all(getattr(site, name) is not None for site in sites)]


def _precedes(a: str, b: str) -> bool:
    order = list(_SCORES)
    return order.index(a) < order.index(b)


def _spearman(a: Units, b: Units) -> float:
    """Return the Spearman correlation; 0 where one does not vary."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


ANALYZER = Analyzer("importance", "Heads and FFN neurons", frozenset({Need.UNITS}), run)
