from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from knowsub.discovery.ignorance import match_controls, measure_ignorance, typical_subject
from knowsub.discovery.teacher import cache_teacher_states
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from tests.architectures import tiny
from tests.discovery.setting import statements


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
    """Match with a table that has a column for each target statement, none of them alike."""
    generator, columns = torch.Generator().manual_seed(seed), torch.arange(len(target))
    return match_controls(target, control, (), generator, table, columns).tolist()


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


def test_guesses_about_a_typical_subject_are_right_as_often_as_on_average() -> None:
    # Ten objects: a guess is right where the right one, in column 0, ranks above all nine others.
    never, always = torch.arange(10.0), -torch.arange(10.0)
    first, any_ = torch.tensor([0]), torch.ones(3, dtype=torch.bool)
    assert typical_subject(torch.stack([never, never, always]), first, any_, any_) == 0
    assert typical_subject(torch.stack([never, always, always]), first, any_, any_) == 1
    last = torch.tensor([False, False, True])
    assert typical_subject(torch.stack([never, never, always]), first, any_, last) == 2
    assert typical_subject(torch.stack([never, never, always]), first, any_, ~any_) == 0
    # Two facts: one subject has both right, one has one, one has none; the mean is one of two.
    both = torch.tensor([[9.0, 9.5, *range(8)], [9.0, -1.0, *range(8)], [-2.0, -1.0, *range(8)]])
    asked = torch.tensor([0, 1])
    share = torch.tensor([(8 / 9) ** 9 + 1, 1.0, (1 / 9) ** 9]) / 2
    nearest = int((share - share.mean()).abs().argmin())
    assert typical_subject(both, asked, any_, any_) == nearest == 1


def test_siblings_count_as_much_as_all_other_subjects_together() -> None:
    # Two facts: about the sibling both guesses are right, about one of nine others one of the two.
    right, half, none = [9.0, 9.5, *range(8)], [-1.0, 9.0, *range(8)], [-2.0, -1.0, *range(8)]
    table = torch.tensor([right, half, *[none] * 8])
    sibling = torch.arange(10) == 0
    asked, any_ = torch.tensor([0, 1]), torch.ones(10, dtype=torch.bool)
    assert typical_subject(table, asked, sibling, any_) == 1
    assert typical_subject(table, asked, ~any_, any_) > 1


def test_facts_that_look_alike_share_one_subject_and_others_keep_their_quantiles() -> None:
    target = [statement(s, family) for s in "abcdef" for family in ("kind", "sort")]
    control = [statement(str(i), f, "other") for i in range(40) for f in ("kind", "sort")]
    table = torch.randn(80, 12, generator=torch.Generator().manual_seed(1))
    columns, alike = torch.arange(12), {each.fact for each in target if each.fact.subject < "d"}
    generator = torch.Generator().manual_seed(0)
    rows = match_controls(target, control, alike, generator, table, columns).tolist()
    assert len({control[row].fact for row in rows[:6]}) == 1
    assert [control[row].family for row in rows] == ["kind", "sort"] * 6
    generator = torch.Generator().manual_seed(0)
    apart = match_controls(target[6:], control, (), generator, table, columns[6:])
    assert len({control[row].fact for row in apart.tolist()}) == 3
    assert len({control[row].fact for row in rows[6:]}) == 3


def test_neighbors_stand_in_for_facts_that_look_alike_and_for_no_others() -> None:
    target = [statement(s, "kind") for s in "ab"]
    control = [statement(s, "kind", "other") for s in "uv"]
    near = [replace(statement(s, "kind", "o"), split=Split.NEIGHBORHOOD_TRAIN) for s in "xyz"]
    # A guess at column 0 is right for the neighbors alone, one at column 1 nearly for the first.
    none, half, more = [-2.0, -1, *range(8)], [9.0, -1, *range(8)], [9.0, 8.5, *range(8)]
    table = torch.tensor([none, none, more, half, half])
    columns, asked = torch.tensor([0, 1]), [*control, *near]
    for alike, allowed in (({target[0].fact, target[1].fact}, {3}), ((), {0, 1})):
        generator = torch.Generator().manual_seed(0)
        rows = match_controls(target, asked, alike, generator, table, columns).tolist()
        assert set(rows) <= allowed


def test_the_subject_of_facts_that_look_alike_has_none_of_their_objects() -> None:
    target = [statement("a", "kind", "dog"), statement("b", "kind", "cat")]
    control = [statement(str(i), "kind", o) for i, o in enumerate(("dog", "fish", "cat"))]
    table = torch.randn(3, 2, generator=torch.Generator().manual_seed(3))
    alike = {each.fact for each in target}
    generator = torch.Generator().manual_seed(0)
    rows = match_controls(target, control, alike, generator, table, torch.arange(2)).tolist()
    assert rows == [1, 1]


def test_zscores_are_those_of_the_whole_model_for_the_matched_subject() -> None:
    model = tiny("gpt2")
    target, control = statements(4, 7, 1), statements(9, 9, 2)
    upper = upper_blocks(model, 1)
    kept, matched = (
        cache_teacher_states(upper, cache_lower_states(model, 1, control)),
        torch.tensor([3, 3, 8, 0]),
    )
    found = measure_ignorance(
        upper, cache_lower_states(model, 1, target), kept, lambda table, columns: matched
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
