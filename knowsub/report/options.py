"""Options of the stage `report`, and the form that a threshold has."""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from knowsub.ranges import Limit, Text

THRESHOLD = re.compile(r"^(>=|<=) ?(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$")
"""A threshold: its direction and its value, such as `<= 1.05`."""


@dataclass
class ReportOptions:
    """Options of the stage `report`."""

    title: Text
    """Heading of the page."""
    max_control_facts: Limit
    """Control facts listed per mask at most; all target and neighborhood facts are [facts]."""
    dpi: Annotated[int, Field(ge=50, le=600)]
    """Resolution of the PNG pictures [dots per inch]."""
    thresholds: dict[str, Annotated[str, Field(pattern=THRESHOLD.pattern)]]
    """Metric -> `>= x` or `<= x`; the report marks every mask that misses it."""
