from __future__ import annotations

import pytest

from knowsub.analysis.options import AnalyzeOptions, ReportOptions

ANALYZE = {"function": True, "statements": 8, "shares": [0.5], "baselines": True, "alpha": 0.05,
           "seed": 0}  # fmt: skip
REPORT = {"title": "x", "facts": 10, "dpi": 100, "bars": {"sparsity": ">= 0.98"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statements": 0}, r"analyze\.statements: value 0 is not allowed; use an integer >= 1"),
        ({"shares": [0.5, 0.0]}, r"analyze\.shares: value \[0\.0\] is not allowed"),
        ({"alpha": 1.0}, r"analyze\.alpha: value 1\.0 is not allowed"),
        ({"seed": -1}, r"analyze\.seed: value -1 is not allowed"),
    ],
)
def test_an_impossible_analysis_is_refused_with_its_key(change, message):
    AnalyzeOptions(**ANALYZE)
    with pytest.raises(ValueError, match=message):
        AnalyzeOptions(**ANALYZE | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": " "}, r"report\.title"),
        ({"facts": -1}, r"report\.facts: value -1"),
        ({"dpi": 10}, r"report\.dpi: value 10"),
        ({"bars": {"sparsity": "0.98"}}, r"report\.bars: value \{'sparsity': '0\.98'\}"),
    ],
)
def test_an_impossible_report_is_refused_with_its_key(change, message):
    ReportOptions(**REPORT)
    with pytest.raises(ValueError, match=message):
        ReportOptions(**REPORT | change)
