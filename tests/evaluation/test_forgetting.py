import math

import pytest
import torch

from knowsub.evaluation.metrics import KnownFacts, forgetting, forgotten_share, prior_over_objects
from knowsub.kg.facts import Role
from knowsub.lm.score import Scores
from tests.evaluation.setting import built_bench


def test_forgetting_runs_from_the_original_to_the_prior_and_is_clipped() -> None:
    changed = torch.tensor([0.0, 1.0, 2.0, 4.0, 9.0]).double()
    found = forgotten_share(changed, torch.full((5,), 1.0), torch.full((5,), 3.0))
    assert found.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_the_prior_is_the_mean_probability_over_other_heads() -> None:
    """Tail i of a belongs to g_i and n_i too: 2 of the 21 other heads answer it almost surely."""
    bench = built_bench("a")
    pool = [one for one in bench.statements if one.role == Role.TRAIN]
    found = prior_over_objects(
        bench.encoder, bench.upper, bench.sets["target"], pool, 0, torch.Generator()
    )
    sharing = torch.tensor([3, 3, 2, 2, 2])  # v0 and v1 share t0 and t1
    assert found.tolist() == pytest.approx((-(sharing / 21).log()).tolist(), abs=1e-3)


def test_a_sample_of_heads_is_drawn_where_one_is_asked_for() -> None:
    bench = built_bench("a")
    pool = [
        one for one in bench.statements if one.fact.subject[0] in "ag" and one.role == Role.TRAIN
    ]
    found = prior_over_objects(
        bench.encoder, bench.upper, bench.sets["target"], pool, 1, torch.Generator()
    )
    assert (found > 5).sum() >= 4


def test_facts_that_were_never_known_are_counted_and_left_out() -> None:
    bench = built_bench("a")
    items = bench.sets["target"]
    prior = torch.tensor([3.0, 3.0, 3.0, 0.05, 0.0]).double()
    known = KnownFacts(items, torch.zeros(5).double(), prior)
    nll = torch.full((10,), 1.5)
    scores = Scores(nll, torch.ones(10).long(), torch.zeros(10).long(), torch.ones(10).bool())
    finding = forgetting("forgetting", known, scores)
    assert finding.values == {"forgetting": 0.5, "forgetting_unknown": 2.0}
    assert "2 facts" in finding.skipped["forgetting_facts"]
    assert len(finding.per_fact["forgetting"].values) == 3


def test_a_set_without_a_known_fact_has_no_figure_but_a_reason() -> None:
    bench = built_bench("a")
    known = KnownFacts(bench.sets["target"], torch.ones(5).double(), torch.zeros(5).double())
    finding = forgetting("forgetting", known, bench.original.sets["target"])
    assert finding.values == {"forgetting_unknown": 5.0}
    assert "no fact was known" in finding.skipped["forgetting"]
    assert math.isfinite(finding.values["forgetting_unknown"])
