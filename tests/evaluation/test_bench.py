from dataclasses import replace

import pytest

from knowsub.architectures import maskable_matrices
from knowsub.evaluation.context import best_prompts, open_context, text_blocks
from knowsub.evaluation.metrics import best_ranks, perplexity, ppl_ratio
from knowsub.evaluation.specificity import answers, divergence
from tests.evaluation.setting import (
    built_bench,
    built_model,
    fact_mask,
    statements,
    tokenizer,
)


def test_every_set_holds_its_split_and_role_alone() -> None:
    bench = built_bench("a")
    counts = {name: (len(items), len(items.facts)) for name, items in bench.sets.items()}
    assert counts == {
        "target": (10, 5), "validation": (5, 5), "paraphrase": (5, 5), "control": (16, 8),
        "heldout": (4, 2), "near": (10, 5),
    }  # fmt: skip


def test_the_prompts_of_lowest_nll_are_chosen_fact_by_fact() -> None:
    told = [one for one in statements("a") if one.fact.subject in ("g0.n.01", "g1.n.01")][:3]
    told = [replace(one, nll=nll) for one, nll in zip(told, (0.3, 0.1, None), strict=True)]
    assert best_prompts(told, 1) == [told[1]]
    assert best_prompts(told, 2) == told[:2]
    assert best_prompts(told, 9) == told


def test_only_control_prompts_are_limited() -> None:
    model, words = built_model(), tokenizer()
    bench = open_context(
        model, words, maskable_matrices(model), statements("a"), {}, control_prompts=1
    )
    assert len(bench.sets["target"]) == 10
    assert len(bench.sets["control"]) == 8


def test_a_bench_without_target_statements_is_refused() -> None:
    model = built_model()
    others = [one for one in statements("a") if one.fact.subject[0] == "g"]
    with pytest.raises(ValueError, match="no statement states a target fact"):
        open_context(model, tokenizer(), maskable_matrices(model), others, {})


def test_text_is_cut_into_blocks_from_its_beginning() -> None:
    words = tokenizer()
    whole = text_blocks(words, "kind a0 t0 sort g1 t1 isa", 2)
    assert len(whole) == 3
    assert text_blocks(words, "kind a0 t0 sort g1 t1 isa", 2, 1).tokens.equal(whole.tokens[:1])


def test_perplexity_is_the_exponential_of_the_mean_over_all_tokens() -> None:
    bench = built_bench("a")
    with bench.ablated(fact_mask(bench.encoder.model, ["a0", "a1"])):
        now = bench.score()
    figures = perplexity(bench, now).values
    nll = now.sets["target"].nll.double()
    assert figures["target_nll"] == pytest.approx(float(nll.mean()))
    assert figures["target_accuracy"] == pytest.approx(3 / 5)
    assert figures["target_ppl_ratio"] == pytest.approx(
        ppl_ratio(now.sets["target"], bench.original.sets["target"])
    )
    assert figures["target_dnll"] > 1
    assert figures["control_dnll"] == 0


def test_the_worst_case_over_prompts_is_the_best_rank() -> None:
    bench = built_bench("a")
    ranks = {name: bench.original.sets[name].rank + 7 for name in ("target", "paraphrase")}
    ranks["paraphrase"][2] = 1
    best = best_ranks(bench.sets, ranks)
    assert [best[fact] for fact in bench.sets["target"].facts] == [7, 7, 1, 7, 7]


def test_divergence_is_that_of_the_definition() -> None:
    bench = built_bench("a")
    near = bench.sets["near"]
    before = answers(bench.upper, near)
    with bench.ablated(fact_mask(bench.encoder.model, ["n0"])):
        kl, same = divergence(bench.upper, before)
        after = answers(bench.upper, near)
    p, q = before.log_p[0], after.log_p[0]
    assert kl.tolist() == pytest.approx((p.exp() * (p - q)).sum(-1).tolist(), abs=1e-5)
    assert same.tolist() == [0.0, 0.0] + [1.0] * 8
    assert float(kl[0]) > 3
