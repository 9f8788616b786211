from __future__ import annotations

import pytest
import torch

from knowsub.discovery.data import refer
from knowsub.discovery.ignorance import asked_instead, ignorance
from knowsub.kg.triple import Fact, Role, Split, Statement
from knowsub.lm.trunk import push, upper_blocks
from tests.architectures import tiny
from tests.discovery.setting import statements


def told(head: str, family: str) -> Statement:
    fact = Fact(head, "hypernym", "thing", head, "thing")
    return Statement(fact, Split.TARGET, family, Role.TRAIN, f"A {head} is a {family} of", " thing")


def test_all_prompts_of_a_fact_are_answered_by_one_other_head_in_the_same_family() -> None:
    target = [told(head, family) for head in "ab" for family in ("kind", "sort")]
    control = [told(head, family) for head in "uvwxyz" for family in ("sort", "kind")]
    asked = asked_instead(target, control, torch.Generator().manual_seed(0))
    chosen = [control[row] for row in asked.tolist()]
    assert [one.family for one in chosen] == ["kind", "sort", "kind", "sort"]
    assert chosen[0].fact == chosen[1].fact
    assert chosen[2].fact == chosen[3].fact


def test_a_family_that_the_other_head_lacks_is_answered_in_another() -> None:
    target, control = [told("a", "form")], [told("u", "sort"), told("u", "kind")]
    asked = asked_instead(target, control, torch.Generator().manual_seed(0))
    assert asked.tolist() == [0]


def test_every_control_head_is_drawn_alike() -> None:
    target, control = [told(str(i), "kind") for i in range(3000)], [told(h, "kind") for h in "xyz"]
    asked = asked_instead(target, control, torch.Generator().manual_seed(1))
    assert asked.bincount().tolist() == pytest.approx([1000] * 3, rel=0.1)


def test_the_standing_is_that_in_the_whole_model_asked_about_the_other_head() -> None:
    model = tiny("gpt2")
    target, control = statements(4, 7, 1), statements(9, 9, 2)
    upper = upper_blocks(model, 1)
    kept = refer(upper, push(model, 1, control))
    asked = torch.tensor([3, 3, 8, 0])
    found = ignorance(upper, push(model, 1, target), kept.batch, kept.states, asked)
    with torch.no_grad():
        logits = model(control.tokens).logits[control.first_reads]
    own = target.labels[target.first_reads]
    assert found.targets.tolist() == sorted(set(own.tolist()))
    tails = sorted({*own.tolist(), *control.labels[control.first_reads].tolist()})
    assert found.tails.tolist() == tails
    for row, (other, label) in enumerate(zip(asked.tolist(), own.tolist(), strict=True)):
        among = logits[other, tails]
        expected = (logits[other, label] - among.mean()) / among.std()
        assert found.standing[row].item() == pytest.approx(expected.item(), abs=1e-5)
    prior = logits.double().softmax(-1).mean(0).log()
    assert torch.allclose(found.prior.double(), prior, atol=1e-5)
