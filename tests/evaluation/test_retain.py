import copy
import math

import pytest
import torch
from scipy import stats

from knowsub.evaluation.choice import prepare_multiple_choice
from knowsub.evaluation.relearning import without
from knowsub.evaluation.retain import (
    connectivity,
    draw_false_objects,
    forget_quality,
    open_retain,
    truth_ratios,
)
from knowsub.lm.batch import encode_statements
from tests.evaluation.setting import WORDS, built_context, built_model, fact_mask, options

FACTS = [f"a{index}" for index in range(5)]


def test_the_truth_ratio_is_that_of_the_probabilities() -> None:
    context = built_context()
    offered = draw_false_objects(context, 3, torch.Generator().manual_seed(0))
    measured = truth_ratios(context, offered).measure(context.upper)
    facts, model = context.sets["paraphrase"], context.encoder.model
    for index, fact in enumerate(facts.facts):
        (prompt,) = [s for s in facts.statements if s.fact == fact]
        batch = encode_statements(context.encoder.tokenizer, [prompt], 16)
        logits = model(batch.tokens).logits[0, -2].double()
        words = [context.encoder.tokenizer(text)["input_ids"][0] for text in offered[fact.key]]
        true, *false = logits.softmax(dim=0)[words].tolist()
        assert len(false) == 3
        expected = math.log(sum(false) / 3 / true)
        assert float(measured[index]) == pytest.approx(expected, abs=1e-5)


def test_the_false_objects_are_false_and_the_first_is_the_true_one() -> None:
    context = built_context()
    offered = draw_false_objects(context, 3, torch.Generator().manual_seed(0))
    for statement in context.sets["target"].statements:
        true, *false = offered[statement.fact.key]
        assert true == statement.object
        assert true not in false
        assert len(set(false)) == 3


def test_a_model_is_not_told_apart_from_itself_but_from_the_original() -> None:
    context = built_context()
    mask = fact_mask(built_model(), FACTS)
    asked = options(distractors=4, reference_draws=1)
    questions = prepare_multiple_choice(context, asked, torch.Generator().manual_seed(0))
    retain = open_retain(context, without(context, mask), options(), questions)
    assert retain.metrics.values["retain_target_accuracy"] < 0.5
    assert retain.metrics.values["retain_choice_accuracy"] < 1.0
    with context.ablated(mask):
        same = forget_quality(context, retain, context.score(sets=("target",)))
    assert same["forget_quality"] == 1.0
    assert same["forget_quality_nll_distance"] == 0.0
    original = forget_quality(context, retain, context.original)
    assert original["forget_quality_distance"] == 1.0
    exact = stats.ks_2samp(range(5), range(10, 15)).pvalue
    assert original["forget_quality"] == pytest.approx(exact)


def test_without_a_retain_model_the_reason_is_given() -> None:
    with pytest.raises(ValueError, match="no model was trained without"):
        open_retain(built_context(), None, options(), None)


def test_distance_and_barrier_between_equal_models_are_zero() -> None:
    context = built_context()
    model = context.encoder.model
    values = connectivity(context, {"original": model, "remaining": copy.deepcopy(model)}).values
    assert values == {"distance_original_remaining": 0.0, "barrier_original_remaining": 0.0}


def test_two_models_that_say_the_same_in_other_ways_have_a_barrier_between_them() -> None:
    context = built_context()
    model = context.encoder.model
    other = copy.deepcopy(model)
    with torch.no_grad():  # what is written is negated, and so is what reads it
        for name in ("transformer.h.1.mlp.c_proj.weight", "lm_head.weight"):
            other.get_parameter(name).neg_()
    values = connectivity(context, {"original": model, "other": other}).values
    nll = float(context.original.sets["heldout"].mean_nll.mean())
    # halfway nothing is written and nothing read: every word is as likely
    assert values["barrier_original_other"] == pytest.approx(math.log(len(WORDS)) - nll, rel=1e-5)
    norm = sum(float(p.square().sum()) for p in model.parameters())
    moved = sum(
        float((2 * model.get_parameter(name)).square().sum())
        for name in ("transformer.h.1.mlp.c_proj.weight", "lm_head.weight")
    )
    assert values["distance_original_other"] == pytest.approx(math.sqrt(moved / norm))


def test_a_model_with_a_head_of_its_own_is_compared_with_one_that_shares_its_embedding() -> None:
    context = built_context()
    shared, own = copy.deepcopy(context.encoder.model), copy.deepcopy(context.encoder.model)
    embedding = shared.get_parameter("transformer.wte.weight")
    shared.lm_head.weight = embedding  # as an embedding that is masked leaves it in the other
    with torch.no_grad():
        own.lm_head.weight.copy_(embedding)
    models = {"original": shared, "remaining": own}
    assert set(connectivity(context, models).values.values()) == {0.0}
    with torch.no_grad():
        own.get_parameter("transformer.wte.weight")[3].zero_()
    moved = float(embedding[3].norm())
    norm = math.sqrt(sum(float(p.square().sum()) for p in context.encoder.model.parameters()))
    for pair in (models, dict(reversed(models.items()))):
        (distance,) = (v for k, v in connectivity(context, pair).values.items() if "dist" in k)
        assert distance == pytest.approx(moved / norm)
