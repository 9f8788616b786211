from __future__ import annotations

from dataclasses import replace

import pytest

from knowsub.report.collect import MaskResult
from knowsub.report.page import recovery, relearned


def test_recovery_is_a_mean_over_runs_and_a_run_that_stopped_keeps_its_last_value(results):
    def row(seed, step, accuracy):
        return {"adaptation": "lora", "model": "remaining", "seed": seed, "step": str(step),
                "split": "target", "accuracy": str(accuracy)}  # fmt: skip

    curve = [row("0", 0, 0.2), row("0", 10, 0.4), row("1", 0, 0.4), row("1", 20, 0.8)]
    assert recovery([replace(results[0], finetune_curve=curve)]) == {
        "lora": {"remaining": [(0.0, 30.0), (10.0, 40.0), (20.0, 60.0)]}
    }


def test_relearning_is_a_mean_over_masks_with_the_retain_model_by_its_plain_name(
    results: list[MaskResult],
) -> None:
    def curves(end: float) -> MaskResult:
        points = [{"step": 0, "accuracy": 0.0}, {"step": 5, "accuracy": end}]
        models = {"remaining": points, "retain": points}
        return replace(results[0], relearning={"control lora 0.001": models})

    assert relearned([curves(0.2), curves(0.4)]) == {
        "on control facts alone\nlora 0.001": {
            "remaining": [(0.0, 0.0), (5.0, pytest.approx(30.0))],
            "never taught": [(0.0, 0.0), (5.0, pytest.approx(30.0))],
        }
    }
