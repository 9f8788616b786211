from __future__ import annotations

import pytest
import torch

from knowsub.discovery.ignorance import ignorance, match_controls
from knowsub.discovery.teacher import cache_teacher_states
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from tests.architectures import tiny
from tests.discovery.setting import statements


def told(head: str, family: str, tail: str = "thing") -> Statement:
    fact = Fact(head, "hypernym", tail, head, tail)
    return Statement(
        fact, Split.TARGET, family, Role.TRAIN, f"A {head} is a {family} of", " " + tail
    )


def ask(
    target: list[Statement], control: list[Statement], table: torch.Tensor, seed: int = 0
) -> list[int]:
    return match_controls(target, control, torch.Generator().manual_seed(seed), table).tolist()


def test_all_prompts_of_a_fact_are_answered_by_one_other_head_in_the_same_family() -> None:
    target = [told(head, family) for head in "ab" for family in ("kind", "sort")]
    control = [told(head, family) for head in "uvwxyz" for family in ("sort", "kind")]
    asked = ask(target, control, torch.randn(12, 4, generator=torch.Generator().manual_seed(1)))
    chosen = [control[row] for row in asked]
    assert [one.family for one in chosen] == ["kind", "sort", "kind", "sort"]
    assert chosen[0].fact == chosen[1].fact
    assert chosen[2].fact == chosen[3].fact


def test_a_family_that_the_other_head_lacks_is_answered_in_another() -> None:
    target, control = [told("a", "form")], [told("u", "sort"), told("u", "kind")]
    assert ask(target, control, torch.zeros(2, 1)) == [0]


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_are_spread_evenly_over_all_facts_and_over_those_of_one_tail(seed: int) -> None:
    target = [told(f"{tail}{i}", "kind", tail) for tail in "abc" for i in range(20)]
    control = [told(str(i), "kind", "other") for i in range(200)]
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(200, 60, generator=generator)
    asked = ask(target, control, table, seed)
    rank = table.argsort(dim=0).argsort(dim=0)
    quantiles = [(int(rank[row, i]) + 0.5) / 200 for i, row in enumerate(asked)]
    for some, steps in [
        (quantiles, 0.2),
        *((quantiles[start : start + 20], 2.1) for start in (0, 20, 40)),
    ]:
        ordered = torch.tensor(sorted(some))
        even = (torch.arange(len(some)) + 0.5) / len(some)
        assert float((ordered - even).abs().max()) < steps / len(some)


def test_which_fact_gets_which_quantile_depends_on_the_seed() -> None:
    target = [told(str(i), "kind") for i in range(20)]
    control = [told(str(i), "kind", "other") for i in range(50)]
    table = torch.arange(50.0)[:, None].expand(50, 20)
    assert ask(target, control, table, 0) == ask(target, control, table, 0)
    assert ask(target, control, table, 0) != ask(target, control, table, 1)


def test_a_heads_place_is_by_all_its_prompts() -> None:
    target, control = [told("a", "kind")], [told(h, f) for h in "uv" for f in ("kind", "sort")]
    assert ask(target, control, torch.tensor([[1.0], [-9.0], [0.0], [0.0]])) == [2]
    assert ask(target, control, torch.tensor([[-1.0], [9.0], [0.0], [0.0]])) == [0]


def test_the_standings_are_those_in_the_whole_model_asked_about_the_other_head() -> None:
    model = tiny("gpt2")
    target, control = statements(4, 7, 1), statements(9, 9, 2)
    upper = upper_blocks(model, 1)
    kept, asked = (
        cache_teacher_states(upper, cache_lower_states(model, 1, control)),
        torch.tensor([3, 3, 8, 0]),
    )
    found = ignorance(upper, cache_lower_states(model, 1, target), kept, lambda table: asked)
    with torch.no_grad():
        logits = model(control.tokens).logits[control.first_targets]
    own = target.labels[target.first_targets]
    assert found.targets.tolist() == sorted(set(own.tolist()))
    tails = sorted({*own.tolist(), *control.labels[control.first_targets].tolist()})
    assert found.objects.tolist() == tails
    for row, other in enumerate(asked.tolist()):
        answer = int(control.labels[control.first_targets][other])
        among = logits[other, [tail for tail in tails if tail != answer]]
        expected = (logits[other, found.targets] - among.mean()) / among.std()
        torch.testing.assert_close(found.object_zscores[row], expected, rtol=0, atol=1e-5)
    prior = logits.double().softmax(-1).mean(0).log()
    assert torch.allclose(found.prior.double(), prior, atol=1e-5)
