from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.kg.facts import Role, Split
from knowsub.kg.readers import RELATIONS
from knowsub.kg.templates import (
    TEMPLATES,
    SurfaceForms,
    Templates,
    article,
    load_templates,
    statements,
)
from tests.kg.setting import FIXTURES, ROOT, fact

PLAIN = SurfaceForms(article=True, bare=False, leading_space=False)
WHOLE = SurfaceForms(article=True, bare=True, leading_space=True)
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


def told(
    templates: Templates, grid: SurfaceForms, head: str = "ziggurat", tail: str = "temple"
) -> list[str]:
    roles = dict.fromkeys(WORDNET, Role.TRAIN)
    found = statements(fact(head, tail), Split.TARGET, templates, roles, grid)
    return [one.text for one in found]


def test_wordnet_has_ten_families(shipped: Templates) -> None:
    assert [template.family for template in shipped["hypernym"]] == list(WORDNET)


def test_every_relation_of_conceptnet_has_its_families(shipped: Templates) -> None:
    assert set(RELATIONS) <= set(shipped)
    assert all(len(shipped[relation]) >= 5 for relation in RELATIONS)
    assert len(shipped["AtLocation"]) >= 10


def test_no_relation_has_a_wording_twice(shipped: Templates) -> None:
    for families in shipped.values():
        texts = [text for template in families for text in template.texts]
        assert len(set(texts)) == len(texts)


def test_statements_have_articles_and_capitals(shipped: Templates) -> None:
    assert told(shipped, PLAIN)[:3] == [
        "A ziggurat is a temple",
        "A ziggurat is a kind of temple",
        "A ziggurat is a type of temple",
    ]
    assert told(shipped, PLAIN, "igloo", "abode")[0] == "An igloo is an abode"


def test_the_grid_multiplies_the_statements(shipped: Templates) -> None:
    assert len(told(shipped, PLAIN)) == 10
    assert len(told(shipped, WHOLE)) == 40
    assert told(shipped, WHOLE)[:4] == [
        "A ziggurat is a temple",
        " A ziggurat is a temple",
        "Ziggurat is a temple",
        " Ziggurat is a temple",
    ]


def test_names_take_no_article(shipped: Templates) -> None:
    assert told(shipped, PLAIN, "Earth", "location")[0] == "Earth is a location"


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z]{2,9}( [a-z]{2,9})?", fullmatch=True), st.booleans())
def test_the_tail_ends_every_statement(shipped: Templates, words: str, space: bool) -> None:
    grid = SurfaceForms(article=True, bare=True, leading_space=space)
    for relation in ("hypernym", "CausesDesire", "UsedFor"):
        one = fact("thing", words, relation)
        roles = {template.family: Role.TEST for template in shipped[relation]}
        for statement in statements(one, Split.TARGET, shipped, roles, grid):
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
    found = statements(fact("hut", "house"), Split.TARGET, shipped, {"kind": Role.TEST}, PLAIN)
    assert [(one.family, one.role) for one in found] == [("kind", Role.TEST)]


def test_a_users_templates_are_read() -> None:
    templates = load_templates(FIXTURES / "table/templates.yaml")
    roles = {"path": Role.TRAIN}
    found = statements(fact("Io", "Jupiter", "orbits"), Split.TARGET, templates, roles, PLAIN)
    assert [one.text for one in found] == [
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
