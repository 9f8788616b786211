import pytest
import torch

from knowsub.evaluation.metrics import Metrics
from knowsub.evaluation.records import against_methods, intervals


def metrics_of(*values: float) -> Metrics:
    metrics = Metrics()
    metrics.add("target_dnll", torch.tensor(values))
    metrics.add("target_ppl_ratio", torch.tensor(values), exponential=True)
    return metrics


def test_intervals_hold_their_metric_in_its_own_unit() -> None:
    metrics = metrics_of(1.0, 2.0, 3.0, 4.0)
    ends = intervals(metrics, 0.95, 500)
    for name, (low, high) in ends.items():
        assert low < metrics.values[name] < high
    assert ends["target_ppl_ratio"][0] == pytest.approx(
        torch.tensor(ends["target_dnll"][0]).exp().item(), rel=1e-5
    )


def test_a_mask_beats_a_method_fact_by_fact() -> None:
    trained = metrics_of(4.0, 5.0, 6.0, 7.0, 8.5)
    result = against_methods(trained, {"weak": metrics_of(1.0, 1.0, 1.0, 1.0, 1.0)})
    assert result["weak"]["pvalue"] == pytest.approx(1 / 32)
    assert result["weak"]["effect"] == pytest.approx(5.0, abs=0.3)
