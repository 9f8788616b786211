import pytest
import torch

from knowsub.evaluation.metrics import Metrics
from knowsub.evaluation.records import against_methods, answer_changes, intervals
from knowsub.lm.score import Scores


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


def test_changes_are_remaining_minus_original_statement_by_statement() -> None:
    def scores(nll: list[float], rank: list[int]) -> Scores:
        ranks, tokens = torch.tensor(rank), torch.tensor([1, 2, 1])
        return Scores(torch.tensor(nll), tokens, ranks, ranks == 0)

    original, remaining = scores([0.5, 1.0, 0.25], [0, 0, 3]), scores([4.5, 5.0, 0.125], [40, 9, 1])
    changes = answer_changes(original, remaining)
    assert changes["rank"] == pytest.approx([47 / 3, -2, 40])
    assert changes["log_probability"] == pytest.approx([(-4 - 2 + 0.125) / 3, -4, 0.125])
