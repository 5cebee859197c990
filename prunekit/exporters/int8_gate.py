"""Tolerance that decides which weights become int8."""

from __future__ import annotations

from dataclasses import dataclass

from prunekit.runtime.records import Fidelity


@dataclass(frozen=True)
class Int8Gate:
    """Tolerance of an int8 file with respect to the float32 file.

    Attributes
    ----------
    error : float
        Largest mean squared error of the outputs, as a share of their variance.
    agreement : float
        Smallest share of equal predictions, where outputs predict classes.
    """

    error: float = 0.0025
    agreement: float = 0.98

    def passes(self, found: Fidelity) -> bool:
        """Return whether a file is within the tolerance."""
        return found.error <= self.error and (found.agreement is None or found.agreement >= self.agreement)


INT8_GATE = Int8Gate()
