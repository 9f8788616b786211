"""What a group of figures returns, the same for every group."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """The values per fact that a figure is the mean of, for its interval."""

    values: tuple[float, ...]
    """One value per fact."""
    exponential: bool = False
    """True if the figure is the exponential of the mean (a PPL ratio)."""

    def scaled(self, mean: float) -> float:
        """Return a mean of such values, such as the end of an interval, as the figure shows it."""
        return math.exp(mean) if self.exponential else mean


@dataclass
class Finding:
    """Figures by name, what their intervals are computed from, and what could not be computed."""

    figures: dict[str, float] = field(default_factory=dict)
    """Name -> value; units stand in the docstring of the function that computes it."""
    samples: dict[str, Sample] = field(default_factory=dict)
    """Figure name -> its values per fact."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Figure or group name -> why it is missing, or how many facts it leaves out."""

    def add(self, name: str, values: Tensor, exponential: bool = False) -> None:
        """Add a figure that is a mean over facts, with its sample.

        Args:
            name: Name of the figure.
            values: One value per fact, at least one.
            exponential: True if the figure is exp of the mean.
        """
        mean = values.double().mean()
        self.figures[name] = float(mean.exp() if exponential else mean)
        self.samples[name] = Sample(tuple(values.double().tolist()), exponential)

    def __or__(self, other: Finding) -> Finding:
        """Return both findings as one; the other's entries win."""
        return Finding(
            self.figures | other.figures, self.samples | other.samples, self.skipped | other.skipped
        )


def gather(findings: Iterable[Finding]) -> Finding:
    """Return several findings as one; later entries win.

    Args:
        findings: The findings.

    Returns:
        Their union.
    """
    result = Finding()
    for finding in findings:
        result = result | finding
    return result
