"""Options of the stage `report`, and the form that a threshold has."""

import re
from dataclasses import dataclass

THRESHOLD = re.compile(r"^(>=|<=) ?(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$")
"""A threshold: its direction and its value, such as `<= 1.05`."""


@dataclass
class ReportOptions:
    """Options of the stage `report`."""

    title: str
    """Heading of the page."""
    max_control_facts: int
    """Control facts listed on the page per mask at most; all target and neighborhood facts are."""
    dpi: int
    """Resolution of the PNG pictures [dots per inch]."""
    thresholds: dict[str, str]
    """Metric -> `>= x` or `<= x`; the report marks every mask that misses it."""

    def __post_init__(self) -> None:
        """Refuse values out of range (ValueError naming key, value and what is allowed)."""
        _require("title", self.title, bool(self.title.strip()), "a text")
        control = self.max_control_facts
        _require("max_control_facts", control, control >= 0, "an integer >= 0")
        _require("dpi", self.dpi, 50 <= self.dpi <= 600, "an integer from 50 to 600")
        wrong = {name: text for name, text in self.thresholds.items() if not THRESHOLD.match(text)}
        _require("thresholds", wrong, not wrong, "thresholds such as '>= 0.98' or '<= 1.05'")


def _require(key: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"report.{key}: value {value!r} is not allowed; use {allowed}")
