import json
from dataclasses import replace

import pytest
import torch

from knowsub.evaluation.evaluate import Evidence, compare_masks, compute_references, evaluate_mask
from knowsub.evaluation.records import fact_rows
from knowsub.evaluation.specificity import diagonal_dominance
from knowsub.hypotheses import permutation_p
from knowsub.lm.load import fingerprint
from knowsub.masks.mask import random_masks
from tests.evaluation.setting import HEADS, built_bench, built_model, fact_mask, options, statements

A = [head for head in HEADS if head[0] == "a"]


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """The evidence for the mask that is known to hold the five facts of a, and nothing else."""
    bench, chosen, generator = built_bench("a"), options(), torch.Generator().manual_seed(0)
    mask = fact_mask(bench.encoder.model, A)
    exam = compute_references(bench, chosen, {"b": statements("b")}, generator)
    randoms = random_masks(mask, 9, generator)
    return evaluate_mask(bench, mask, randoms, chosen, exam, generator)


def test_removing_the_weights_that_hold_the_facts_forgets_them(evidence: Evidence) -> None:
    figures = evidence.metrics.values
    assert figures["forgetting"] == 1.0
    assert figures["paraphrase_forgetting"] == 1.0
    assert figures["forgetting_unknown"] == 0
    assert figures["target_original_accuracy"] == 1.0
    assert figures["target_accuracy"] == 0.0
    assert figures["paraphrase_ratio"] == pytest.approx(1.0)


def test_finetuning_on_other_facts_recovers_nothing(evidence: Evidence) -> None:
    figures = evidence.metrics.values
    assert figures["relearning_recovery"] == 0.0
    assert figures["relearning_original_after"] == 1.0
    assert figures["relearning_random_after"] > 0.5


def test_no_random_mask_does_as_much(evidence: Evidence) -> None:
    p = permutation_p(evidence.metrics.values["target_dnll"], evidence.random)
    assert p.pvalue == 1 / (1 + 9)


def test_diagonal_dominance_is_large(evidence: Evidence) -> None:
    own = evidence.metrics.values["target_dnll"]
    matrix = {"a": {"a": own, "b": evidence.cross["b"]}, "b": {"a": evidence.cross["b"], "b": own}}
    assert evidence.cross.keys() == {"b"}
    assert diagonal_dominance(matrix) > 1000


def test_facts_outside_the_target_do_not_move(evidence: Evidence) -> None:
    figures = evidence.metrics.values
    for name in ("control", "heldout", "near"):
        assert figures[f"{name}_ppl_ratio"] == pytest.approx(1.0, abs=1e-6)
        assert figures[f"{name}_accuracy"] == 1.0
    assert figures["neighborhood_kl"] == pytest.approx(0.0, abs=1e-6)
    assert figures["far_agreement"] == 1.0


def test_all_knowledge_is_in_the_maskable_weights(evidence: Evidence) -> None:
    figures = evidence.metrics.values
    assert figures["all_removed_target_ppl_ratio"] > 30
    assert figures["all_removed_target_accuracy"] == 0


def test_what_is_left_is_no_better_than_guessing(evidence: Evidence) -> None:
    figures = evidence.metrics.values
    assert figures["choice_original"] == 1.0
    assert figures["choice_accuracy"] == pytest.approx(1 / 5)
    assert figures["target_median_rank"] == figures["random_object_rank"]
    assert figures["subject_identifiability_original"] == 1.0
    assert figures["subject_identifiability_chance"] == pytest.approx(1 / 5)
    assert figures["logit_lens_original"] == 1.0


def test_growing_keeps_the_effect_and_shrinking_takes_its_share(evidence: Evidence) -> None:
    figures = evidence.metrics.values
    whole = figures["target_dnll"]
    assert figures["grown40_target_dnll"] == pytest.approx(whole, rel=0.2)
    assert figures["shrunk40_target_dnll"] == pytest.approx(0.6 * whole, rel=1e-3)


def test_rounding_to_eight_bits_changes_nothing_here(evidence: Evidence) -> None:
    figures = evidence.metrics.values
    assert figures["int8_forgetting"] == figures["int4_forgetting"] == 1.0
    assert figures["int8_original_accuracy"] == 1.0


def test_everything_can_be_written_as_json(evidence: Evidence) -> None:
    assert json.dumps(evidence.metrics.values, allow_nan=False)


def test_the_model_is_left_as_it_was() -> None:
    model = built_model()
    before, bench, chosen = fingerprint(model), built_bench("a", model), options(random_masks=1)
    generator = torch.Generator().manual_seed(0)
    mask = fact_mask(model, A)
    exam = compute_references(bench, chosen, {}, generator)
    evaluate_mask(bench, mask, random_masks(mask, 1, generator), chosen, exam, generator)
    assert fingerprint(model) == before


def test_an_empty_mask_changes_nothing() -> None:
    bench, chosen = built_bench("a"), options()
    exam = compute_references(bench, chosen, {}, torch.Generator())
    found = compare_masks(bench, {"nothing": fact_mask(bench.encoder.model, [])}, chosen, exam)[
        "nothing"
    ]
    assert found.values["target_dnll"] == 0
    assert found.values["forgetting"] == 0
    assert found.values["neighborhood_kl"] == 0
    assert found.values["text_ppl_ratio"] == 1
    assert "paraphrase_ratio" in found.skipped


def test_groups_that_are_off_leave_no_figures() -> None:
    names = (
        "recall", "forgetting", "paraphrase", "specificity", "located", "residual", "relearning",
        "quantise", "minimality", "cross_target",
    )  # fmt: skip
    bench, generator = built_bench("a"), torch.Generator().manual_seed(0)
    chosen = replace(options(random_masks=1), **dict.fromkeys(names, False))
    mask = fact_mask(bench.encoder.model, A)
    exam = compute_references(bench, chosen, {}, generator)
    found = evaluate_mask(bench, mask, random_masks(mask, 1, generator), chosen, exam, generator)
    stems = {name.partition("_")[0] for name in found.metrics.values}
    sets = {"target", "validation", "paraphrase", "control", "heldout", "near", "text"}
    assert stems == sets | {"sparsity", "removed", "random"}


def test_records_tell_each_fact_under_each_view(evidence: Evidence) -> None:
    rows = list(fact_rows(built_bench("a"), evidence.views, evidence.answers))
    mine = [row for row in rows if row["head"] == "a3" and row["role"] == "train"]
    assert {row["view"] for row in mine} == {"original", "remaining", "random"}
    known = {row["view"]: row for row in mine}
    assert known["original"]["top5"][0][0] == "t3"
    assert known["original"]["correct"] == 1
    assert known["remaining"]["correct"] == 0
    assert known["remaining"]["nll"] > 3
    assert len(known["remaining"]["top5"]) == 5
