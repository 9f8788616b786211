import math

import pytest
import torch

from knowsub.evaluation.metrics import (
    KnownFacts,
    best_ranks,
    forgetting,
    forgotten_share,
    perplexity,
    ppl_ratio,
    prior_over_objects,
)
from knowsub.kg.facts import Role
from knowsub.lm.score import Scores
from tests.evaluation.setting import built_context, fact_mask


def test_perplexity_is_the_exponential_of_the_mean_over_all_tokens() -> None:
    context = built_context("a")
    with context.ablated(fact_mask(context.encoder.model, ["a0", "a1"])):
        now = context.score()
    values = perplexity(context, now).values
    nll = now.sets["target"].nll.double()
    assert values["target_nll"] == pytest.approx(float(nll.mean()))
    assert values["target_accuracy"] == pytest.approx(3 / 5)
    assert values["target_ppl_ratio"] == pytest.approx(
        ppl_ratio(now.sets["target"], context.original.sets["target"])
    )
    assert values["target_dnll"] > 1
    assert values["control_dnll"] == 0


def test_the_worst_case_over_prompts_is_the_best_rank() -> None:
    context = built_context("a")
    ranks = {name: context.original.sets[name].rank + 7 for name in ("target", "paraphrase")}
    ranks["paraphrase"][2] = 1
    best = best_ranks(context.sets, ranks)
    assert [best[fact] for fact in context.sets["target"].facts] == [7, 7, 1, 7, 7]


def test_forgetting_runs_from_the_original_to_the_prior_and_is_clipped() -> None:
    changed = torch.tensor([0.0, 1.0, 2.0, 4.0, 9.0]).double()
    share = forgotten_share(changed, torch.full((5,), 1.0), torch.full((5,), 3.0))
    assert share.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_the_prior_is_the_mean_probability_over_other_subjects() -> None:
    """Object i of a belongs to g_i and n_i too: 2 of 21 other subjects give it almost surely."""
    context = built_context("a")
    trained = [s for s in context.statements if s.role == Role.TRAIN]
    prior = prior_over_objects(context, context.sets["target"], trained, 0, torch.Generator())
    sharing = torch.tensor([3, 3, 2, 2, 2])  # v0 and v1 share t0 and t1
    assert prior.tolist() == pytest.approx((-(sharing / 21).log()).tolist(), abs=1e-3)


def test_a_sample_of_subjects_is_drawn_where_fewer_are_wanted() -> None:
    context = built_context("a")
    trained = [s for s in context.statements if s.fact.subject[0] in "ag" and s.role == Role.TRAIN]
    prior = prior_over_objects(context, context.sets["target"], trained, 1, torch.Generator())
    assert (prior > 5).sum() >= 4


def test_facts_that_were_never_known_are_counted_and_left_out() -> None:
    context = built_context("a")
    prior = torch.tensor([3.0, 3.0, 3.0, 0.05, 0.0]).double()
    known = KnownFacts(context.sets["target"], torch.zeros(5).double(), prior)
    nll = torch.full((10,), 1.5)
    scores = Scores(nll, torch.ones(10).long(), torch.zeros(10).long(), torch.ones(10).bool())
    metrics = forgetting("forgetting", known, scores)
    assert metrics.values == {"forgetting": 0.5, "forgetting_unknown": 2.0}
    assert "2 facts" in metrics.skipped["forgetting_facts"]
    assert len(metrics.per_fact["forgetting"].values) == 3


def test_a_set_without_a_known_fact_has_no_metric_but_a_reason() -> None:
    context = built_context("a")
    known = KnownFacts(context.sets["target"], torch.ones(5).double(), torch.zeros(5).double())
    metrics = forgetting("forgetting", known, context.original.sets["target"])
    assert metrics.values == {"forgetting_unknown": 5.0}
    assert "no fact was known" in metrics.skipped["forgetting"]
    assert math.isfinite(metrics.values["forgetting_unknown"])
