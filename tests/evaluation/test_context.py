from dataclasses import replace

import pytest

from knowsub.architectures import maskable_matrices
from knowsub.evaluation.context import best_prompts, open_context
from tests.evaluation.setting import built_context, built_model, statements, tokenizer


def test_every_set_holds_its_split_and_role_alone() -> None:
    context = built_context("a")
    counts = {name: (len(facts), len(facts.facts)) for name, facts in context.sets.items()}
    assert counts == {
        "target": (10, 5), "validation": (5, 5), "paraphrase": (5, 5), "control": (16, 8),
        "heldout": (4, 2), "neighborhood": (10, 5),
    }  # fmt: skip


def test_the_prompts_of_lowest_nll_are_chosen_fact_by_fact() -> None:
    three = [s for s in statements("a") if s.fact.subject in ("g0.n.01", "g1.n.01")][:3]
    three = [replace(s, nll=nll) for s, nll in zip(three, (0.3, 0.1, None), strict=True)]
    assert best_prompts(three, 1) == [three[1]]
    assert best_prompts(three, 2) == three[:2]
    assert best_prompts(three, 9) == three


def test_only_control_prompts_are_limited() -> None:
    model = built_model()
    context = open_context(
        model, tokenizer(), maskable_matrices(model), statements("a"), {}, control_prompts=1
    )
    assert len(context.sets["target"]) == 10
    assert len(context.sets["control"]) == 8


def test_a_context_without_target_statements_is_refused() -> None:
    model = built_model()
    others = [s for s in statements("a") if s.fact.subject[0] == "g"]
    with pytest.raises(ValueError, match="no statement states a target fact"):
        open_context(model, tokenizer(), maskable_matrices(model), others, {})
