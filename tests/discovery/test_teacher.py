from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from knowsub.discovery.options import Precision
from knowsub.discovery.teacher import (
    Teacher,
    cache_teacher,
    cache_teacher_mean_rows,
    cache_teacher_states,
    match_controls,
    measure_ignorance,
)
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm import head_loss
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import cache_lower_states, last_hidden, upper_blocks
from knowsub.lm.head import LMHead, lm_head
from tests.architectures import CONFIGS, tiny
from tests.discovery.setting import statements, text

ROWS = torch.tensor([5, 0, 3, 3])


def cases() -> list[Batch]:
    return [
        statements(9, 9, 2),
        statements(9, 9, 2, n_targets=3),
        statements(9, 9, 2).unshifted(),
        text(6, 8, 3),
    ]


def setting(kind: str, batch: Batch) -> tuple[PreTrainedModel, Batch]:
    model = tiny(kind)
    return upper_blocks(model, 2), cache_lower_states(model, 2, batch)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("index", range(4))
def test_cached_states_and_mean_rows_give_the_divergence_and_gradient_of_the_logits(
    kind: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_loss, "CACHE_LOGITS", 100)
    upper, batch = setting(kind, cases()[index])
    head = lm_head(upper)
    some = batch[ROWS]
    original = last_hidden(upper, some)[some.target_mask].detach()
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    states = (original + 0.3 * noise).requires_grad_()
    log_p, log_q = head(original).log_softmax(-1), head(states).log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q)).sum()
    (expected_grad,) = torch.autograd.grad(3 * expected, states)
    teachers: list[Teacher] = [cache_teacher_states(upper, batch)]
    if head.cap is None:  # else its logits are not linear in the states
        teachers.append(cache_teacher_mean_rows(upper, batch))
    assert type(cache_teacher(upper, batch, Precision.FLOAT32)) is type(teachers[-1])
    for teacher in teachers:
        found = teacher.divergence(head, states, ROWS)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        (gradient,) = torch.autograd.grad(3 * found, states)
        torch.testing.assert_close(gradient, expected_grad, rtol=1e-4, atol=1e-5)


def test_mean_rows_include_the_bias_of_the_head() -> None:
    upper, batch = setting("gpt2", statements(9, 9, 2))
    head = nn.Linear(16, 30).requires_grad_(False)
    head.weight = nn.Parameter(torch.randn(30, upper.config.hidden_size), requires_grad=False)
    upper.set_output_embeddings(head)
    states = torch.randn(4, upper.config.hidden_size, generator=torch.Generator().manual_seed(1))
    left, right = (
        teacher.divergence(LMHead(head), states, ROWS)
        for teacher in (cache_teacher_states(upper, batch), cache_teacher_mean_rows(upper, batch))
    )
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_the_divergence_of_the_original_model_and_its_gradient_are_zero() -> None:
    upper, batch = setting("gpt2", text(6, 8, 3))
    states = last_hidden(upper, batch)[batch.target_mask].detach().requires_grad_()
    total = cache_teacher_mean_rows(upper, batch).divergence(
        lm_head(upper), states, torch.arange(6)
    )
    (gradient,) = torch.autograd.grad(total, states)
    assert abs(total.item()) < 1e-5 * len(states)
    assert gradient.abs().max().item() < 1e-6


def statement(
    subject: str, family: str, object_: str = "thing", relation: str = "hypernym"
) -> Statement:
    fact = Fact(subject, relation, object_, subject, object_)
    return Statement(
        fact, Split.TARGET, family, Role.TRAIN, f"A {subject} is a {family} of", " " + object_
    )


def match(
    target: list[Statement], control: list[Statement], table: torch.Tensor, seed: int = 0
) -> list[int]:
    return match_controls(target, control, torch.Generator().manual_seed(seed), table).tolist()


def test_all_prompts_of_a_fact_are_matched_with_one_subject_in_the_same_family() -> None:
    target = [statement(subject, family) for subject in "ab" for family in ("kind", "sort")]
    control = [statement(subject, family) for subject in "uvwxyz" for family in ("sort", "kind")]
    matched = match(target, control, torch.randn(12, 4, generator=torch.Generator().manual_seed(1)))
    chosen = [control[row] for row in matched]
    assert [each.family for each in chosen] == ["kind", "sort", "kind", "sort"]
    assert chosen[0].fact == chosen[1].fact
    assert chosen[2].fact == chosen[3].fact


def test_a_fact_is_matched_with_a_subject_of_the_same_relation() -> None:
    relations = ("capital", "currency", "language")
    target = [statement(c, "kind", relation=r) for r in relations for c in "abcd"]
    control = [statement(c, "kind", relation=r) for c in "uvwxyz" for r in relations[:2]]
    table = torch.randn(12, 12, generator=torch.Generator().manual_seed(2))
    chosen = [control[row].fact.relation for row in match(target, control, table)]
    assert chosen[:8] == ["capital"] * 4 + ["currency"] * 4
    assert len(chosen) == 12  # no control fact states a language: any of them stands in


def test_a_family_that_the_matched_subject_lacks_is_replaced_by_another() -> None:
    target, control = [statement("a", "form")], [statement("u", "sort"), statement("u", "kind")]
    assert match(target, control, torch.zeros(2, 1)) == [0]


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_are_spread_evenly_over_all_facts_and_over_those_of_one_object(seed: int) -> None:
    target = [statement(f"{object_}{i}", "kind", object_) for object_ in "abc" for i in range(20)]
    control = [statement(str(i), "kind", "other") for i in range(200)]
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(200, 60, generator=generator)
    matched = match(target, control, table, seed)
    rank = table.argsort(dim=0).argsort(dim=0)
    quantiles = [(int(rank[row, i]) + 0.5) / 200 for i, row in enumerate(matched)]
    for some, steps in [
        (quantiles, 0.2),
        *((quantiles[start : start + 20], 2.1) for start in (0, 20, 40)),
    ]:
        ordered = torch.tensor(sorted(some))
        even = (torch.arange(len(some)) + 0.5) / len(some)
        assert float((ordered - even).abs().max()) < steps / len(some)


def test_which_fact_gets_which_quantile_depends_on_the_seed() -> None:
    target = [statement(str(i), "kind") for i in range(20)]
    control = [statement(str(i), "kind", "other") for i in range(50)]
    table = torch.arange(50.0)[:, None].expand(50, 20)
    assert match(target, control, table, 0) == match(target, control, table, 0)
    assert match(target, control, table, 0) != match(target, control, table, 1)


def test_a_subject_is_ranked_by_the_mean_over_its_prompts() -> None:
    target, control = (
        [statement("a", "kind")],
        [statement(h, f) for h in "uv" for f in ("kind", "sort")],
    )
    assert match(target, control, torch.tensor([[1.0], [-9.0], [0.0], [0.0]])) == [2]
    assert match(target, control, torch.tensor([[-1.0], [9.0], [0.0], [0.0]])) == [0]


def test_zscores_are_those_of_the_whole_model_for_the_matched_subject() -> None:
    model = tiny("gpt2")
    target, control = statements(4, 7, 1), statements(9, 9, 2)
    upper = upper_blocks(model, 1)
    kept, matched = (
        cache_teacher_states(upper, cache_lower_states(model, 1, control)),
        torch.tensor([3, 3, 8, 0]),
    )
    found = measure_ignorance(
        upper, cache_lower_states(model, 1, target), kept, lambda table: matched
    )
    with torch.no_grad():
        logits = model(control.tokens).logits[control.first_targets]
    own = target.labels[target.first_targets]
    assert found.targets.tolist() == sorted(set(own.tolist()))
    objects = sorted({*own.tolist(), *control.labels[control.first_targets].tolist()})
    assert found.objects.tolist() == objects
    for row, other in enumerate(matched.tolist()):
        answer = int(control.labels[control.first_targets][other])
        among = logits[other, [object_ for object_ in objects if object_ != answer]]
        expected = (logits[other, found.targets] - among.mean()) / among.std()
        torch.testing.assert_close(found.object_zscores[row], expected, rtol=0, atol=1e-5)
    prior = logits.double().softmax(-1).mean(0).log()
    assert torch.allclose(found.prior.double(), prior, atol=1e-5)
