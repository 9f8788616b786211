import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from knowsub.architectures import maskable_matrices
from knowsub.evaluation.evaluate import (
    Evidence,
    MaskEvaluation,
    compare_masks,
    compute_references,
    evaluate_mask,
)
from knowsub.evaluation.metrics import perplexity
from knowsub.evaluation.records import fact_rows, to_json, write_evidence
from knowsub.hypotheses import permutation_p
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from knowsub.lm.identity import fingerprint
from knowsub.lm.score import score
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import Mask, random_masks, save_mask
from tests.architectures import VOCAB, tiny
from tests.evaluation.setting import (
    SUBJECTS,
    built_context,
    built_model,
    fact_mask,
    options,
    statements,
    tokenizer,
)

A_SUBJECTS = [subject for subject in SUBJECTS if subject[0] == "a"]


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """The evidence for the mask that is known to hold the five facts of a, and nothing else."""
    context, chosen, generator = built_context("a"), options(), torch.Generator().manual_seed(0)
    mask = fact_mask(context.encoder.model, A_SUBJECTS)
    references = compute_references(context, chosen, {"b": statements("b")}, generator)
    randoms = random_masks(mask, 9, generator)
    return evaluate_mask(context, mask, randoms, chosen, references, generator)


def test_removing_the_weights_that_hold_the_facts_forgets_them(evidence: Evidence) -> None:
    values = evidence.metrics.values
    assert values["forgetting"] == 1.0
    assert values["paraphrase_forgetting"] == 1.0
    assert values["forgetting_unknown"] == 0
    assert values["target_original_accuracy"] == 1.0
    assert values["target_accuracy"] == 0.0
    assert values["paraphrase_ratio"] == pytest.approx(1.0)


def test_finetuning_on_other_facts_recovers_nothing(evidence: Evidence) -> None:
    values = evidence.metrics.values
    assert values["relearning_recovery"] == 0.0
    assert values["relearning_original_after"] == 1.0
    assert values["relearning_random_after"] > 0.5


def test_no_random_mask_does_as_much(evidence: Evidence) -> None:
    p = permutation_p(evidence.metrics.values["target_dnll"], evidence.random)
    assert p == 1 / (1 + 9)


def test_diagonal_dominance_is_large(evidence: Evidence) -> None:
    assert evidence.cross.keys() == {"b"}
    assert evidence.metrics.values["diagonal_dominance"] > 1000


def test_facts_outside_the_target_do_not_move(evidence: Evidence) -> None:
    values = evidence.metrics.values
    for name in ("control", "heldout", "neighborhood"):
        assert values[f"{name}_ppl_ratio"] == pytest.approx(1.0, abs=1e-6)
        assert values[f"{name}_accuracy"] == 1.0
    assert values["neighborhood_kl"] == pytest.approx(0.0, abs=1e-6)
    assert values["far_agreement"] == 1.0


def test_all_knowledge_is_in_the_maskable_weights(evidence: Evidence) -> None:
    values = evidence.metrics.values
    assert values["all_removed_target_ppl_ratio"] > 30
    assert values["all_removed_target_accuracy"] == 0


def test_what_is_left_is_no_better_than_guessing(evidence: Evidence) -> None:
    values = evidence.metrics.values
    assert values["choice_original"] == 1.0
    assert values["choice_accuracy"] == pytest.approx(1 / 5)
    assert values["target_median_rank"] == values["random_object_rank"]
    assert values["subject_identifiability_original"] == 1.0
    assert values["subject_identifiability_chance"] == pytest.approx(1 / 5)
    assert values["logit_lens_original"] == 1.0


def test_growing_keeps_the_effect_and_shrinking_takes_its_share(evidence: Evidence) -> None:
    values = evidence.metrics.values
    whole = values["target_dnll"]
    assert values["grown40_target_dnll"] == pytest.approx(whole, rel=0.2)
    assert values["shrunk40_target_dnll"] == pytest.approx(0.6 * whole, rel=1e-3)


def test_rounding_to_eight_bits_changes_nothing_here(evidence: Evidence) -> None:
    values = evidence.metrics.values
    assert values["int8_forgetting"] == values["int4_forgetting"] == 1.0
    assert values["int8_original_accuracy"] == 1.0


def test_everything_can_be_written_as_json(evidence: Evidence) -> None:
    assert json.dumps(evidence.metrics.values, allow_nan=False)


def test_the_model_is_left_as_it_was() -> None:
    model, chosen = built_model(), options(random_masks=1)
    before, context = fingerprint(model), built_context("a", model)
    generator = torch.Generator().manual_seed(0)
    mask = fact_mask(model, A_SUBJECTS)
    references = compute_references(context, chosen, {}, generator)
    evaluate_mask(context, mask, random_masks(mask, 1, generator), chosen, references, generator)
    assert fingerprint(model) == before


def test_an_empty_mask_changes_nothing() -> None:
    context, chosen = built_context("a"), options()
    references = compute_references(context, chosen, {}, torch.Generator())
    masks = {"nothing": fact_mask(context.encoder.model, [])}
    metrics = compare_masks(context, masks, chosen, references)["nothing"]
    assert metrics.values["target_dnll"] == 0
    assert metrics.values["forgetting"] == 0
    assert metrics.values["neighborhood_kl"] == 0
    assert metrics.values["text_ppl_ratio"] == 1
    assert "paraphrase_ratio" in metrics.skipped


def test_groups_that_are_off_leave_no_metrics() -> None:
    groups = (
        "multiple_choice", "forgetting", "paraphrase", "specificity", "full_ablation",
        "logit_lens", "relearning", "quantization", "minimality", "cross_target",
        "relearning_curves", "forget_quality", "connectivity",
    )  # fmt: skip
    context, generator = built_context("a"), torch.Generator().manual_seed(0)
    chosen = replace(options(random_masks=1), **dict.fromkeys(groups, False))
    mask = fact_mask(context.encoder.model, A_SUBJECTS)
    references = compute_references(context, chosen, {}, generator)
    randoms = random_masks(mask, 1, generator)
    evidence = evaluate_mask(context, mask, randoms, chosen, references, generator)
    stems = {name.partition("_")[0] for name in evidence.metrics.values}
    sets = {"target", "validation", "paraphrase", "control", "heldout", "neighborhood", "text"}
    assert stems == sets | {"sparsity", "removed", "random"}


def test_folds_and_word_lengths_are_parameters() -> None:
    context, generator = built_context("a"), torch.Generator().manual_seed(0)
    chosen = options(relearning_folds=2, quantization_bits=[3], random_masks=1)
    mask = fact_mask(context.encoder.model, A_SUBJECTS)
    references = compute_references(context, chosen, {}, generator)
    randoms = random_masks(mask, 1, generator)
    values = evaluate_mask(context, mask, randoms, chosen, references, generator).metrics.values
    rounded = {name.partition("_")[0] for name in values if name.startswith("int")}
    assert rounded == {"int3"}
    assert values["relearning_original_before"] == 1.0


def test_without_a_random_mask_there_is_no_evidence() -> None:
    context, chosen = built_context("a"), options()
    mask = fact_mask(context.encoder.model, A_SUBJECTS)
    references = compute_references(context, chosen, {}, torch.Generator())
    with pytest.raises(ValueError, match="at least one random mask"):
        evaluate_mask(context, mask, [], chosen, references, torch.Generator())


def test_rows_have_each_fact_under_each_state_of_the_model(evidence: Evidence) -> None:
    rows = list(fact_rows(built_context("a"), evidence))
    of_one_fact = [row for row in rows if row["subject"] == "a3" and row["role"] == "train"]
    by_state = {row["view"]: row for row in of_one_fact}
    assert by_state.keys() == {"original", "remaining", "random"}
    assert by_state["original"]["top5"][0][0] == "t3"
    assert by_state["original"]["correct"] == 1
    assert by_state["remaining"]["correct"] == 0
    assert by_state["remaining"]["nll"] > 3
    assert len(by_state["remaining"]["top5"]) == 5


TEXT = "kind a0 t0 sort g1 t1 " * 8


@pytest.fixture(scope="module")
def evaluation() -> MaskEvaluation:
    model = built_model()
    mask = fact_mask(model, A_SUBJECTS)
    graphs = {"a": statements("a"), "b": statements("b")}
    texts = {"text": TEXT, "other": TEXT}
    chosen = options(relearning=False, quantization=False, text_blocks=2)
    return MaskEvaluation(model, tokenizer(), mask, "a", graphs, texts, chosen)


def test_text_is_cut_into_blocks_from_its_beginning(evaluation: MaskEvaluation) -> None:
    whole = built_context("a").texts["text"].tokens
    assert len(whole) > 2
    assert evaluation.context.texts["text"].tokens.equal(whole[:2])


def test_one_mask_from_files_to_files(evaluation: MaskEvaluation, tmp_path: Path) -> None:
    model = evaluation.context.encoder.model
    mask = fact_mask(model, A_SUBJECTS)
    weak = fact_mask(model, ["a0", "g8", "g9"])
    strong = fact_mask(model, ["a0", "a1", *SUBJECTS[10:20]])
    (tmp_path / "sizes").mkdir()
    save_mask(weak, tmp_path / "snip.safetensors")
    save_mask(strong, tmp_path / "sizes/snip-2.0.safetensors")
    randoms = random_masks(mask, 9, torch.Generator().manual_seed(0))
    evidence = evaluation.evaluate(mask, randoms)
    methods = evaluation.compare_methods(tmp_path, ["snip"], [2.0], evidence.metrics)
    record = to_json(evidence, methods, 0.95, 100)
    assert record["figures"]["random_p"] == 1 / 10
    assert record["figures"]["target_accuracy"] == 0
    assert record["methods"]["snip"]["target_accuracy"] == pytest.approx(4 / 5)
    assert record["methods"]["snip"]["heldout_accuracy"] == 0
    assert record["methods"]["snip"]["target_dnll_at_equal_control"] == pytest.approx(0)
    assert record["against_methods"]["snip"]["effect"] > 1
    assert record["cross"].keys() == {"b"}
    low, high = record["intervals"]["forgetting"]
    assert low == high == 1
    rows = fact_rows(evaluation.context, evidence)
    metrics, facts = write_evidence(tmp_path / "out", record, rows)
    assert metrics.stat().st_size > 1000
    assert facts.read_text().count("\n") == 3 * (5 * 3 + 8 + 2 + 5)


def test_a_missing_baseline_is_named(evaluation: MaskEvaluation, tmp_path: Path) -> None:
    original = perplexity(evaluation.context, evaluation.context.original)
    with pytest.raises(FileNotFoundError, match=r"wanda\.safetensors"):
        evaluation.compare_methods(tmp_path, ["wanda"], [], original)


def test_p_against_random_masks_is_uniform_if_the_mask_itself_is_random() -> None:
    model, generator = tiny("gpt2"), torch.Generator().manual_seed(0)
    tokens = torch.randint(1, VOCAB, (6, 5), generator=generator)
    target_mask = torch.zeros_like(tokens, dtype=torch.bool)
    target_mask[:, 3] = True
    batch = cache_lower_states(model, 2, Batch(tokens, target_mask))
    upper, matrices = upper_blocks(model, 2), maskable_matrices(model)
    bits = {m.name: (torch.arange(m.size) < m.size // 9).view(m.shape) for m in matrices}
    original, drawn = score(upper, batch), []
    for mask in random_masks(Mask(bits, "tiny"), 500, generator):
        with ablated(model, matrices, mask):
            drawn.append(float((score(upper, batch).nll - original.nll).mean()))
    repetitions = np.array(drawn).reshape(50, 10)
    p = [permutation_p(float(row[0]), row[1:].tolist()) for row in repetitions]
    counts = np.bincount(np.round(np.array(p) * 10).astype(int), minlength=11)[1:]
    assert stats.chisquare(counts).pvalue > 0.01
