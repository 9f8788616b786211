from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.kg.facts import content_words, fact_words, leaks_answer, statement_words, word_list
from tests.kg.setting import fact


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ("apartment building", "building"),
        ("farmhouse", "house"),
        ("Building", "building"),
        ("pen", "penholder"),
        ("T-shirt", "shirt"),
    ],
)
def test_a_head_that_spells_its_tail_gives_it_away(head: str, tail: str) -> None:
    assert leaks_answer(fact(head, tail))


@pytest.mark.parametrize(
    ("head", "tail"), [("ziggurat", "temple"), ("head of state", "chief of x")]
)
def test_other_heads_do_not(head: str, tail: str) -> None:
    assert not leaks_answer(fact(head, tail))


def test_function_words_carry_no_meaning() -> None:
    assert content_words("Head of the State") == {"head", "state"}
    assert content_words("of the") == {"of", "the"}


def test_hyphens_part_words_and_apostrophes_do_not() -> None:
    assert word_list("bull's-eye 2") == ["bull's", "eye", "2"]


def test_statement_words_know_no_case_and_no_synset() -> None:
    assert statement_words(fact("Cat", "animal")) == statement_words(fact("cat", "Animal"))


@settings(deadline=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_giving_away_is_symmetric(one: str, other: str) -> None:
    assert leaks_answer(fact(one, other)) == leaks_answer(fact(other, one))


@settings(deadline=None)
@given(st.from_regex(r"[a-z]{3,9}( [a-z]{3,9})?", fullmatch=True))
def test_a_word_always_gives_itself_away(words: str) -> None:
    assert leaks_answer(fact(words, words))
    assert fact_words(fact(words, words)) == content_words(words)
