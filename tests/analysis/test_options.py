from __future__ import annotations

import pytest

from knowsub.analysis.options import AnalyzeOptions

ANALYZE = {"ablations": True, "statements": 8, "shares": [0.5], "baselines": True, "alpha": 0.05,
           "seed": 0}  # fmt: skip


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
