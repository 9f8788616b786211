from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.kg.facts import Role, Split, Statement
from knowsub.kg.options import RoleAssignment, VerbalizeOptions
from knowsub.kg.readers import RELATIONS
from knowsub.kg.templates import (
    TEMPLATES,
    Template,
    Templates,
    article,
    load_templates,
    needed_templates,
    statements,
    write_templates,
)
from knowsub.kg.verbalize import (
    family_roles,
    likeliest_wordings,
    roles_by_likelihood,
    verbalize,
)
from tests.kg.setting import FIXTURES, ROOT, fact, verbalize_options

PLAIN = verbalize_options()
ALL_FORMS = verbalize_options(bare=True, leading_space=True)
WORDNET = (
    "isa",
    "kind",
    "type",
    "sort",
    "form",
    "variety",
    "hyponym",
    "example",
    "counts",
    "class",
)


@pytest.fixture(scope="module")
def shipped() -> Templates:
    return load_templates(ROOT / TEMPLATES)


def texts(
    templates: Templates,
    forms: VerbalizeOptions,
    subject: str = "ziggurat",
    answer: str = "temple",
) -> list[str]:
    roles = dict.fromkeys(WORDNET, Role.TRAIN)
    stated = statements(fact(subject, answer), Split.TARGET, templates, roles, forms)
    return [each.text for each in stated]


def test_wordnet_has_ten_families(shipped: Templates) -> None:
    assert [template.family for template in shipped["hypernym"]] == list(WORDNET)


def test_every_relation_of_conceptnet_has_its_families(shipped: Templates) -> None:
    assert set(RELATIONS) <= set(shipped)
    assert all(len(shipped[relation]) >= 5 for relation in RELATIONS)
    assert len(shipped["AtLocation"]) >= 10


def test_no_relation_has_a_wording_twice(shipped: Templates) -> None:
    for families in shipped.values():
        wordings = [text for template in families for text in template.texts]
        assert len(set(wordings)) == len(wordings)


def test_statements_have_articles_and_capitals(shipped: Templates) -> None:
    assert texts(shipped, PLAIN)[:3] == [
        "A ziggurat is a temple",
        "A ziggurat is a kind of temple",
        "A ziggurat is a type of temple",
    ]
    assert texts(shipped, PLAIN, "igloo", "abode")[0] == "An igloo is an abode"


def test_forms_multiply_the_statements(shipped: Templates) -> None:
    assert len(texts(shipped, PLAIN)) == 10
    assert len(texts(shipped, ALL_FORMS)) == 40
    assert texts(shipped, ALL_FORMS)[:4] == [
        "A ziggurat is a temple",
        " A ziggurat is a temple",
        "Ziggurat is a temple",
        " Ziggurat is a temple",
    ]


def test_names_take_no_article(shipped: Templates) -> None:
    assert texts(shipped, PLAIN, "Earth", "location")[0] == "Earth is a location"


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z]{2,9}( [a-z]{2,9})?", fullmatch=True), st.booleans())
def test_the_object_ends_every_statement(shipped: Templates, words: str, space: bool) -> None:
    forms = verbalize_options(bare=True, leading_space=space)
    for relation in ("hypernym", "CausesDesire", "UsedFor"):
        stated = fact("thing", words, relation)
        roles = {template.family: Role.TEST for template in shipped[relation]}
        for statement in statements(stated, Split.TARGET, shipped, roles, forms):
            assert statement.object == f" {words}"
            assert statement.text.endswith(f" {words}")
            assert statement.prompt == statement.prompt.rstrip()
            assert statement.prompt.lstrip()[0].isupper()
            assert "{" not in statement.prompt


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("hour", "an"),
        ("honest man", "an"),
        ("house", "a"),
        ("university", "a"),
        ("unit", "a"),
        ("uninvited guest", "an"),
        ("umbrella", "an"),
        ("European", "a"),
        ("one-liner", "a"),
        ("use", "a"),
        ("usher", "an"),
        ("igloo", "an"),
        ("temple", "a"),
    ],
)
def test_articles_follow_the_sound(words: str, expected: str) -> None:
    assert article(words) == expected


def test_families_without_a_role_are_left_out(shipped: Templates) -> None:
    stated = statements(fact("hut", "house"), Split.TARGET, shipped, {"kind": Role.TEST}, PLAIN)
    assert [(each.family, each.role) for each in stated] == [("kind", Role.TEST)]


def test_a_users_templates_are_read() -> None:
    templates = load_templates(FIXTURES / "table/templates.yaml")
    roles = {"path": Role.TRAIN}
    stated = statements(fact("Io", "Jupiter", "orbits"), Split.TARGET, templates, roles, PLAIN)
    assert [each.text for each in stated] == [
        "The path of Io leads round Jupiter",
        "What Io circles is Jupiter",
    ]


def test_a_relation_without_templates_is_named(shipped: Templates) -> None:
    with pytest.raises(ValueError, match=r"no wording for relation 'orbits'.*hypernym"):
        statements(fact("Io", "Jupiter", "orbits"), Split.TARGET, shipped, {}, PLAIN)


def test_families_of_another_relation_are_refused(shipped: Templates) -> None:
    with pytest.raises(ValueError, match=r"none named for relation 'MadeOf'; allowed: made, "):
        statements(
            fact("cup", "clay", "MadeOf"), Split.TARGET, shipped, {"kind": Role.TRAIN}, PLAIN
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IsA:\n  isa: '{subject} is {object}.'\n", r"IsA\.isa: wording '{subject} is {object}\.'"),
        ("IsA:\n  isa: '{object} is {subject}'\n", r"IsA\.isa: wording"),
        ("IsA:\n  isa: 'it is {object}'\n", r"IsA\.isa: wording"),
        ("IsA:\n  isa: '{subject} and {subject} is {object}'\n", r"IsA\.isa: wording"),
        ("IsA:\n  isa: '{a} {subject} is {object}'\n", r"IsA\.isa: wording"),
        ("IsA:\n  isa: '{subject} is {the} {object}'\n", r"IsA\.isa: wording"),
        ("IsA:\n  isa: ['{subject} is {object}', 3]\n", r"IsA\.isa: wording 3"),
        ("IsA:\n  isa: []\n", r"IsA\.isa: wording \[\]"),
        ("IsA: '{subject} is {object}'\n", r"IsA: '{subject} is {object}' is not allowed"),
        ("- IsA\n", "no relation found"),
        ("", "no relation found"),
        ("IsA: [", "not YAML"),
    ],
)
def test_a_wrong_templates_file_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"own\.yaml: {message}"):
        load_templates(tmp_path / "own.yaml")


FACTS = [
    (fact("ziggurat", "temple"), Split.TARGET),
    (fact("Earth", "location"), Split.CONTROL_TRAIN),
]


def by_length(wordings: Sequence[Statement]) -> list[float]:
    return [float(len(wording.text)) for wording in wordings]


def wording(family: str, prompt: str, nll: float | None = None) -> Statement:
    return Statement(FACTS[0][0], Split.TARGET, family, Role.TEST, prompt, " temple", nll)


def test_the_variant_of_lowest_nll_wins_in_each_family() -> None:
    given = [
        wording("isa", "longer"),
        wording("kind", "abc"),
        wording("isa", "short"),
        wording("isa", "shart"),
    ]
    chosen = likeliest_wordings(given, by_length)
    assert [(each.family, each.prompt, each.nll) for each in chosen] == [
        ("isa", "short", 12.0),
        ("kind", "abc", 10.0),
    ]


def test_a_scorer_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="returned 1 values for 2"):
        likeliest_wordings([wording("isa", "a"), wording("isa", "b")], lambda _: [1.0])


def test_nothing_is_chosen_of_nothing() -> None:
    assert likeliest_wordings([], by_length) == []


def test_every_fact_is_stated_once_per_family_in_its_role(shipped: Templates) -> None:
    chosen = verbalize(FACTS, shipped, verbalize_options(bare=True), by_length)
    assert Counter(each.role for each in chosen) == {
        Role.TRAIN: 8,
        Role.VALIDATION: 2,
        Role.TEST: 6,
    }
    assert chosen[0].text == "Ziggurat is a temple"
    assert {each.split for each in chosen if each.fact == FACTS[1][0]} == {Split.CONTROL_TRAIN}


def test_prompts_of_one_role_are_used_for_no_other(shipped: Templates) -> None:
    chosen = verbalize(FACTS, shipped, verbalize_options(), by_length)
    roles: dict[str, set[Role]] = {}
    for each in chosen:
        roles.setdefault(each.prompt, set()).add(each.role)
    assert all(len(given) == 1 for given in roles.values())


def test_the_papers_rule_trains_on_the_best_and_keeps_the_others_unseen(
    shipped: Templates,
) -> None:
    options = verbalize_options(role_assignment=RoleAssignment.best, bare=True, leading_space=True)
    chosen = verbalize(FACTS, shipped, options, by_length)
    ziggurat = [each for each in chosen if each.fact == FACTS[0][0]]
    assert [each.family for each in ziggurat if each.role == Role.TRAIN] == ["isa"]
    ranked = sorted(ziggurat, key=lambda each: each.nll or 0.0)
    assert [each.role for each in ranked] == [Role.TRAIN, Role.VALIDATION] + [Role.TEST] * 8


def test_the_papers_rule_needs_three_families() -> None:
    with pytest.raises(ValueError, match="statements of 2 families"):
        roles_by_likelihood([wording("isa", "a", 1.0), wording("kind", "b", 2.0)])


def test_an_unknown_family_is_named_with_the_known_ones(shipped: Templates) -> None:
    options = verbalize_options(test_families=["breed"])
    with pytest.raises(ValueError, match=r"verbalize.test_families: value 'breed' .*class"):
        verbalize(FACTS, shipped, options, by_length)


def test_a_relation_whose_families_leave_a_role_empty_is_named(shipped: Templates) -> None:
    facts = [*FACTS, (fact("ring", "gold", "MadeOf"), Split.TARGET)]
    options = verbalize_options(train_families=["kind", "made"])
    with pytest.raises(ValueError, match=r"verbalize.validation_families: none .* 'MadeOf'"):
        verbalize(facts, shipped, options, by_length)


def test_roles_come_from_the_options() -> None:
    known = [*["kind", "type", "sort", "form", "variety", "isa", "hyponym", "example", "class"]]
    roles = family_roles(verbalize_options(), known)
    assert (roles["kind"], roles["variety"], roles["isa"]) == tuple(Role)
    assert "class" not in roles


def test_the_templates_of_the_relations_at_hand_are_written_as_they_are_read(
    shipped: Templates, tmp_path: Path
) -> None:
    needed = needed_templates([fact("ziggurat", "temple")], shipped, PLAIN)
    assert needed == {"hypernym": shipped["hypernym"]}
    write_templates(tmp_path / "templates.json", needed)
    assert load_templates(tmp_path / "templates.json") == needed


def test_everything_that_keeps_facts_from_being_worded_is_named_at_once(
    shipped: Templates,
) -> None:
    facts = [
        fact("Oslo", "Norway", "capital"),
        fact("ziggurat", "temple"),
        fact("a", "b", "orbits"),
    ]
    facts.append(fact("table", "wood", "MadeOf"))
    with pytest.raises(ValueError, match=r"templates\.yaml") as refused:
        needed_templates(facts, shipped, verbalize_options(train_families=["knd", "kind"]))
    said = str(refused.value).split("; ")
    assert [each.partition(" has no wording")[0] for each in said if "no wording" in each] == [
        "data/raw/templates.yaml: relation 'capital' of 'Oslo|capital|Norway'",
        "data/raw/templates.yaml: relation 'orbits' of 'a|orbits|b'",
    ]
    assert 'add `capital: {kind: "{subject} ... {object}"}` with a family for each role' in said
    assert any(each.startswith("verbalize.train_families: value 'knd' is not") for each in said)
    assert any(
        "validation_families: relation 'MadeOf' has none of variety" in each for each in said
    )


def test_the_papers_rule_names_the_relations_with_too_few_families(shipped: Templates) -> None:
    options = verbalize_options(role_assignment=RoleAssignment.best)
    few = {"hypernym": shipped["hypernym"][:2]}
    with pytest.raises(ValueError, match=r"'hypernym' has 2 families; .* 'best' needs 3"):
        needed_templates([fact("ziggurat", "temple")], few, options)


def test_all_wordings_that_break_a_rule_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        'capital:\n  kind: "{object} is the capital of {subject}"\n  check: 3\n'
        '  isa: "the capital of {subject} is {object}"\ncolor: []\n'
    )
    with pytest.raises(ValueError, match=r"mine\.yaml") as refused:
        load_templates(path)
    said = [each.split(" is not allowed")[0] for each in str(refused.value).split("; " + str(path))]
    assert said == [
        f"{path}: capital.kind: wording '{{object}} is the capital of {{subject}}'",
        ": capital.check: wording 3",
        ": color: []",
    ]


def test_a_relation_worded_without_article_has_none() -> None:
    wordings = {"color": (Template("kind", ("{bare} is {object}",)),)}
    stated = statements(
        fact("grass", "green", "color"), Split.TARGET, wordings, {"kind": Role.TRAIN},
        verbalize_options(),
    )  # fmt: skip
    assert [statement.text for statement in stated] == ["Grass is green"]
