from __future__ import annotations

import pytest

from knowsub.report.options import ReportOptions

REPORT = {"title": "x", "max_control_facts": 10, "dpi": 100, "thresholds": {"sparsity": ">= 0.98"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": " "}, r"report\.title"),
        ({"max_control_facts": -1}, r"report\.max_control_facts: value -1"),
        ({"dpi": 10}, r"report\.dpi: value 10"),
        (
            {"thresholds": {"sparsity": "0.98"}},
            r"report\.thresholds: value \{'sparsity': '0\.98'\}",
        ),
    ],
)
def test_an_impossible_report_is_refused_with_its_key(change, message):
    ReportOptions(**REPORT)
    with pytest.raises(ValueError, match=message):
        ReportOptions(**REPORT | change)
