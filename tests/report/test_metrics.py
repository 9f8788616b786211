from __future__ import annotations

import json

import numpy as np
import pytest

from knowsub.report.cross import dominance
from knowsub.report.definitions import definition
from knowsub.report.metrics import (
    METRIC_SPECS,
    format_metric,
    mean_metrics,
    meets_threshold,
    worst_metrics,
)
from tests.report.setting import METHODS, SEEDS, TARGETS


def test_the_summary_has_one_object_per_mask_and_means_per_method(report):
    summary = json.loads((report / "summary.json").read_text())
    masks = summary["masks"]
    assert [(mask["target"], mask["seed"]) for mask in masks] == [
        (target, seed) for target in TARGETS for seed in SEEDS
    ]
    assert {"sparsity", "removed_share", "target_ppl_ratio", "all_removed_target_ppl_ratio",
            "head_target_accuracy", "random_p"} <= masks[0].keys()  # fmt: skip
    assert "text_vs_random" not in masks[0]
    assert masks[0]["diagonal_dominance"] == pytest.approx(7.5 / 0.3)
    assert [row["method"] for row in summary["baselines"]] == list(METHODS)
    assert summary["mean"]["head_target_accuracy"] == pytest.approx(0.33)


def test_means_of_ppl_ratios_are_geometric_and_the_worst_is_on_the_bad_side():
    rows = [{"target_ppl_ratio": 10.0, "random_p": 0.1}, {"target_ppl_ratio": 1000.0}]
    assert mean_metrics(rows) == pytest.approx({"target_ppl_ratio": 100.0, "random_p": 0.1})
    assert worst_metrics([{"neighborhood_ppl_ratio": 0.5}, {"neighborhood_ppl_ratio": 1.5}]) == {
        "neighborhood_ppl_ratio": 0.5
    }
    assert worst_metrics(rows)["target_ppl_ratio"] == 10.0


@pytest.mark.parametrize(
    ("value", "threshold", "expected"),
    [(0.98, ">= 0.98", True), (0.9799, ">= 0.98", False), (1.05, "<= 1.05", True),
     (1.06, "<=1.05", False), (1.0, None, None), (None, ">= 1", False),
     (float("nan"), "<= 1", False)],
)  # fmt: skip
def test_a_metric_meets_its_threshold_or_misses_it(value, threshold, expected):
    assert meets_threshold(value, threshold) is expected


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("sparsity", 0.98061, "98.06 %"), ("target_ppl_ratio", 1770.4, "1,770"),
     ("target_ppl_ratio", 6374000.0, "6.4e6"), ("control_ppl_ratio", 1.0123, "1.012"),
     ("random_p", 0.0001, "1e-4"), ("random_p", None, "–"), ("target_median_rank", 39.0, "39.0")],
)  # fmt: skip
def test_metrics_are_printed_with_the_digits_that_matter(name, value, text):
    assert format_metric(name, value) == text


def test_dominance_is_the_mean_diagonal_over_the_mean_absolute_rest():
    assert dominance(np.array([[4.0, -1.0], [3.0, 8.0]])) == pytest.approx(6.0 / 2.0)
    assert dominance(np.eye(2)) == pytest.approx(1.0 / 1e-3)


def test_no_two_metrics_have_the_same_label():
    labels = [spec.label for spec in METRIC_SPECS.values()]
    assert len(set(labels)) == len(labels)


NAMES = """
all_removed_target_accuracy alone_heldout_nll alone_heldout_ppl_ratio alone_target_accuracy
barrier_original_retain choice_frequency_accuracy choice_frequency_original
choice_uniform_reference choice_original control_accuracy control_dnll control_median_rank
control_original_nll distance_original_retain excess_recovery_0 excess_recovery_control_20
extraction_top1 far_absolute_dnll far_agreement far_kl forget_quality_distance
forget_quality_nll_distance forgetting_unknown full_neighborhood_accuracy grown50_heldout_dnll
head_neighborhood_accuracy heldout_original_median_rank int4_forgetting_unknown
int4_original_accuracy int8_target_ppl_ratio logit_lens_floor logit_lens_hit logit_lens_original
neighborhood_absolute_dnll original_forget_quality_nll original_full_other_accuracy other_nll
other_ppl_ratio paraphrase_forgetting_unknown paraphrase_original_nll paraphrase_ratio
random_excess_recovery_control random_forget_quality_nll_distance random_head_other_accuracy
random_other_ppl_ratio relearning_majority_baseline relearning_original_after
relearning_remaining_before retain_paraphrase_accuracy retain_target_nll shrunk50_target_dnll
steps_to_half_control subject_identifiability_original target_dnll text_nll text_original_nll
validation_ppl_ratio
"""
"""Metrics of the default run that have no line of their own."""


def test_every_metric_of_a_run_has_a_definition_of_one_line() -> None:
    said = {name: definition(name) for name in NAMES.split()}
    assert [name for name, meaning in said.items() if not meaning] == []
    assert not [
        meaning for meaning in said.values() if "{" in meaning or meaning != meaning.strip()
    ]
    expected = "held-out control facts: median 0-based rank of the object under the original model"
    assert said["heldout_original_median_rank"] == expected
    assert said["shrunk50_target_dnll"].startswith(
        "random ones taken out, 50 % of its size; target"
    )
    assert "LoRA finetuned" in definition("random_lora_other_accuracy")
    assert definition("figures_of_something_else") == ""
