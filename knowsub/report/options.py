"""Options of the stage `report`, and the form that a threshold has."""

import difflib
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from knowsub.ranges import Limit, Text

THRESHOLD = re.compile(r"^(>=|<=) ?(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$")
"""A threshold: its direction and its value, such as `<= 1.05`."""


def _of_metrics(thresholds: dict[str, str]) -> dict[str, str]:
    """Refuse thresholds of what is no metric: every mask would miss them."""
    from knowsub.report.metrics import EVIDENCE, HEADLINE  # it needs `THRESHOLD`

    known = [spec.name for spec in (*HEADLINE, *EVIDENCE)]
    unknown = {
        name: difflib.get_close_matches(name, known, 1, 0.5)
        for name in thresholds
        if name not in known
    }
    if unknown:
        said = [
            f"{name}: is no metric{f' (did you mean {near[0]}?)' if near else ''}"
            for name, near in unknown.items()
        ]
        raise ValueError("; report.thresholds.".join(said))
    return thresholds


Thresholds = Annotated[
    dict[str, Annotated[str, Field(pattern=THRESHOLD.pattern)]], AfterValidator(_of_metrics)
]
"""Metric -> threshold."""


@dataclass
class ReportOptions:
    """Options of the stage `report`."""

    title: Text
    """Heading of the page."""
    max_control_facts: Limit
    """Control facts listed per mask at most; all target and neighborhood facts are [facts]."""
    dpi: Annotated[int, Field(ge=50, le=600)]
    """Resolution of the PNG pictures [dots per inch]."""
    thresholds: Thresholds
    """Metric -> `>= x` or `<= x`; the report marks every mask that misses it."""
