from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.kg.facts import (
    Fact,
    Role,
    Split,
    Statement,
    content_words,
    fact_words,
    leaks_answer,
    read_facts,
    read_kg,
    read_statements,
    statement_words,
    without_targets,
    word_list,
    write_facts,
    write_kg,
    write_statements,
)
from tests.kg.setting import fact

STATEMENT = Statement(
    fact("ziggurat", "temple"),
    Split.TARGET,
    "kind",
    Role.TRAIN,
    "A ziggurat is a kind of",
    " temple",
)


def test_prompt_and_object_are_the_whole_statement() -> None:
    assert STATEMENT.text == "A ziggurat is a kind of temple"


def test_a_key_names_subject_relation_and_object() -> None:
    assert STATEMENT.fact.key == "ziggurat|hypernym|temple"


def test_a_row_gives_the_statement_back() -> None:
    assert Statement.from_row(asdict(STATEMENT)) == STATEMENT


@pytest.mark.parametrize(("key", "value"), [("split", "other"), ("role", "other")])
def test_an_unknown_part_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValueError, match="'other' is not a valid"):
        Statement.from_row({**asdict(STATEMENT), key: value})


def test_a_missing_field_is_named() -> None:
    row = asdict(STATEMENT)
    del row["family"]
    with pytest.raises(KeyError, match="family"):
        Statement.from_row(row)


words = st.text(min_size=1)
facts = st.builds(Fact, words, words, words, words, words)
splits = st.sampled_from(Split)
statements = st.builds(
    Statement,
    facts,
    splits,
    words,
    st.sampled_from(Role),
    words,
    words,
    st.none() | st.floats(0, 1e6),
)


@settings(deadline=None)
@given(st.lists(facts), st.lists(st.tuples(facts, splits)), st.lists(statements))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    given_facts: list[Fact],
    kg: list[tuple[Fact, Split]],
    given_statements: list[Statement],
) -> None:
    folder = tmp_path_factory.mktemp("files")
    write_facts(folder / "new/facts.jsonl", given_facts)
    write_kg(folder / "kg.jsonl", kg)
    write_statements(folder / "statements.jsonl", given_statements)
    assert read_facts(folder / "new/facts.jsonl") == given_facts
    assert read_kg(folder / "kg.jsonl") == kg
    assert read_statements(folder / "statements.jsonl") == given_statements


def test_lines_are_the_same_bytes_everywhere(tmp_path: Path) -> None:
    write_kg(tmp_path / "kg.jsonl", [(fact("café", "place"), Split.TARGET)])
    assert (tmp_path / "kg.jsonl").read_bytes() == (
        '{"subject": "café", "relation": "hypernym", "object": "place", '
        '"subject_words": "café", "object_words": "place", "split": "target"}\n'
    ).encode()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"subject": "a"}', r":1: field 'split'"),
        ('{"subject": "a", "split": "target"}', ":1: no fact"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "kg.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        read_kg(tmp_path / "kg.jsonl")


def test_broken_facts_and_statements_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"fact": 3}')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: no fact"):
        read_facts(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"a\.jsonl:1: no statement"):
        read_statements(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("subject", "answer"),
    [
        ("apartment building", "building"),
        ("farmhouse", "house"),
        ("Building", "building"),
        ("pen", "penholder"),
        ("T-shirt", "shirt"),
    ],
)
def test_a_subject_that_spells_its_object_leaks_it(subject: str, answer: str) -> None:
    assert leaks_answer(fact(subject, answer))


@pytest.mark.parametrize(
    ("subject", "answer"), [("ziggurat", "temple"), ("head of state", "chief of x")]
)
def test_other_subjects_do_not(subject: str, answer: str) -> None:
    assert not leaks_answer(fact(subject, answer))


def test_function_words_carry_no_meaning() -> None:
    assert content_words("Head of the State") == {"head", "state"}
    assert content_words("of the") == {"of", "the"}


def test_hyphens_split_words_and_apostrophes_do_not() -> None:
    assert word_list("bull's-eye 2") == ["bull's", "eye", "2"]


def test_statement_words_know_no_case_and_no_synset() -> None:
    assert statement_words(fact("Cat", "animal")) == statement_words(fact("cat", "Animal"))


@settings(deadline=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_leaking_is_symmetric(first: str, second: str) -> None:
    assert leaks_answer(fact(first, second)) == leaks_answer(fact(second, first))


@settings(deadline=None)
@given(st.from_regex(r"[a-z]{3,9}( [a-z]{3,9})?", fullmatch=True))
def test_a_word_always_leaks_itself(words: str) -> None:
    assert leaks_answer(fact(words, words))
    assert fact_words(fact(words, words)) == content_words(words)


def test_only_target_facts_are_left_out_not_the_neighbors_that_share_their_words() -> None:
    temple, pagoda, fruit = (
        fact("ziggurat", "temple"), fact("pagoda", "temple"), fact("quince", "fruit")
    )  # fmt: skip
    graphs = [[(temple, Split.TARGET), (pagoda, Split.NEIGHBORHOOD_TRAIN)], [(fruit, Split.TARGET)]]
    assert without_targets([fruit, pagoda, temple], graphs) == [pagoda]
