from __future__ import annotations

from dataclasses import replace

from knowsub.report.page import recovery


def test_recovery_is_a_mean_over_runs_and_a_run_that_stopped_keeps_its_last_value(results):
    def row(seed, step, accuracy):
        return {"adaptation": "lora", "model": "remaining", "seed": seed, "step": str(step),
                "split": "target", "accuracy": str(accuracy)}  # fmt: skip

    curve = [row("0", 0, 0.2), row("0", 10, 0.4), row("1", 0, 0.4), row("1", 20, 0.8)]
    assert recovery([replace(results[0], finetune_curve=curve)]) == {
        "lora": {"remaining": [(0.0, 30.0), (10.0, 40.0), (20.0, 60.0)]}
    }
