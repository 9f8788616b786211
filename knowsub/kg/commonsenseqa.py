"""The facts behind CommonsenseQA's questions: question concept, relation, answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from knowsub.kg.conceptnet import check_relation
from knowsub.kg.json_lines import json_rows, text_field
from knowsub.kg.reading import Reading, keep_facts
from knowsub.kg.triple import Fact


def read_commonsenseqa(path: Path, *, one_tail: bool = False) -> Reading:
    """Return the facts of a file with one fact per question.

    Args:
        path: A JSON array or JSON Lines; each entry has `head` (or `question_concept`), `rel`
            (or `relation`), `tail` (or `answer`), and `id` where a question belongs to it.
        one_tail: Whether a second tail of the same head and relation is left out.

    Returns:
        The facts, with the identifiers of the questions that each of them answers; a fact behind
        several questions is one fact, and no question is lost.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If an entry lacks a field or its relation is unknown.
    """
    questions: dict[str, tuple[str, ...]] = {}
    facts, skipped = keep_facts(_entries(path, questions), one_tail=one_tail)
    keys = {fact.key for fact in facts}
    kept = {key: names for key, names in questions.items() if key in keys}
    return Reading(facts, skipped=skipped, questions=kept)


def _entries(path: Path, questions: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, Fact]]:
    """Yield the places and facts of a file; add the questions' identifiers by fact."""
    for place, row in json_rows(path):
        head = text_field(row, ["head", "question_concept"], place)
        relation = check_relation(text_field(row, ["rel", "relation"], place), place)
        tail = text_field(row, ["tail", "answer"], place)
        fact = Fact(head, relation, tail, head_words=head, tail_words=tail)
        if row.get("id") is not None:
            name = text_field(row, ["id"], place)
            questions[fact.key] = (*questions.get(fact.key, ()), name)
        yield place, fact
