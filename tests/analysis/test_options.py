from __future__ import annotations

import pytest

from knowsub.analysis.options import AnalyzeOptions

ANALYZE = {"ablations": True, "max_facts": 8, "tradeoff_sizes": [0.5], "baselines": True, "alpha": 0.05,
           "seed": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_facts": 0}, r"analyze\.max_facts: value 0 is not allowed; use an integer >= 1"),
        ({"tradeoff_sizes": [0.5, 0.0]}, r"analyze\.tradeoff_sizes: value \[0\.0\] is not allowed"),
        ({"alpha": 1.0}, r"analyze\.alpha: value 1\.0 is not allowed"),
        ({"seed": -1}, r"analyze\.seed: value -1 is not allowed"),
    ],
)
def test_an_impossible_analysis_is_refused_with_its_key(change, message):
    AnalyzeOptions(**ANALYZE)
    with pytest.raises(ValueError, match=message):
        AnalyzeOptions(**ANALYZE | change)
