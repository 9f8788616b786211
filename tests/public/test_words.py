"""The same word in other bytes is the same word: facts do not leak past a comparison of bytes.

Reported as: vshulcz/deja-vu #1098 (one word in NFC and NFD never matches), Tatoeba/tatoeba2 #2139
(a duplicate in another canonical form), sillsdev/TheCombine #3713 (duplicates that are not found).
"""

from __future__ import annotations

import unicodedata

import pytest
import torch

from knowsub.downstream.questions import Group, Question, mark_targets
from knowsub.evaluation.objects import has_other_subject, relation_objects
from knowsub.kg.build import find_overlaps
from knowsub.kg.facts import Fact, Role, Split, Statement, statement_words
from knowsub.kg.readers import SAME_WORDS, keep_facts
from knowsub.kg.words import comparable, words_of_name

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
SPELLINGS = [
    (NFC, NFD),
    ("baker's shop", "baker\u2019s shop"),
    ("zerowidth", "zero\u200bwidth"),
    ("softhyphen", "soft\u00adhyphen"),
    ("Straße", "STRASSE"),
    ("ﬁsh", "fish"),
    ("wine bar", "wine\u00a0bar"),
    ("Ａ４", "A4"),
]


def fact(subject: str, answer: str, relation: str = "hypernym") -> Fact:
    return Fact(subject, relation, answer, subject, answer)


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_spellings_of_one_text_compare_equal(one: str, other: str) -> None:
    assert one != other
    assert comparable(one) == comparable(other)


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_a_control_fact_in_another_spelling_overlaps(one: str, other: str) -> None:
    found = find_overlaps([fact(one, "house")], [fact(other, "tool", "UsedFor"), fact("oak", "o")])
    assert [overlap.control.subject for overlap in found] == [other]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_a_repeated_fact_in_another_spelling_is_left_out(one: str, other: str) -> None:
    entries = [("f:1", fact(one, "house")), ("f:2", fact(other, "HOUSE"))]
    kept, skipped = keep_facts(entries, one_object=False)
    assert [each.subject_words for each in kept] == [one], "the user's spelling stays"
    assert [skip.reason for skip in skipped] == [SAME_WORDS]


def test_a_true_object_in_another_spelling_is_no_distractor() -> None:
    facts = [fact("espresso", NFC), fact("latte", NFD), fact("oak", "tree")]
    statements = [
        Statement(f, Split.TARGET, "kind", Role.TRAIN, f.subject, f" {f.object}") for f in facts
    ]
    objects = relation_objects(statements)
    generator = torch.Generator().manual_seed(0)
    drawn = objects.draw(facts[0], by_frequency=False, number=3, generator=generator)
    assert [objects.texts[index] for index in drawn] == [" tree"]
    assert not has_other_subject(fact(NFC, "a"), fact(NFD, "b"))


def test_a_question_about_a_target_is_found_in_another_spelling() -> None:
    question = Question("q", "A café is a", (" bar", " tree"), 0, Group.OTHER, f"{NFD}|r|Bar")
    assert mark_targets([question], [fact(NFC, "bar")])[0].group is Group.TARGET


def test_other_words_stay_other_words() -> None:
    words = ["resume", "résumé", "bakers shop", "baker's shop", "wine bar", "winebar"]
    assert len({comparable(word) for word in words}) == len(words)
    assert statement_words(fact("a", "b")) != statement_words(fact("a", "b", "UsedFor"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("living_thing", "living thing"),
        ("living_thing.n.01", "living thing"),
        ("/c/en/wine_bar/n", "wine bar"),
        ("/c/en/wine_bar", "wine bar"),
        ("wine bar", "wine bar"),
        ("__init__", "__init__"),
        ("3.n.b", "3.n.b"),
    ],
)
def test_names_of_knowledge_graphs_reach_prompts_as_words(name: str, words: str) -> None:
    assert words_of_name(name) == words
