"""Facts and their statements: values, surface words, and the files that stages hand to each other.

Every reader of the room returns `Fact`s, every later stage carries `Statement`s; nothing else
travels between stages as knowledge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from knowsub.artifacts import json_rows


class Split(StrEnum):
    """The part a fact plays for one target KG; each fact plays exactly one."""

    TARGET = "target"
    CONTROL_TRAIN = "control_train"
    CONTROL_VALIDATION = "control_validation"
    CONTROL_HELDOUT = "control_heldout"
    NEIGHBORHOOD_TRAIN = "neighborhood_train"
    NEIGHBORHOOD_HELDOUT = "neighborhood_heldout"
    UNSEEN = "unseen"


class Role(StrEnum):
    """The part a template family plays: prompts of one role are never used for another."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Fact:
    """One relational fact (head, relation, tail) with the words that name its ends."""

    subject: str
    """Identifier of the head: a synset name such as `ziggurat.n.01`, or the words themselves."""
    relation: str
    """Name of the relation, such as `hypernym` or `AtLocation`."""
    object: str
    """Identifier of the tail, in the same naming as the head."""
    subject_words: str
    """Surface words of the head, lower case unless a name: `ziggurat`."""
    object_words: str
    """Surface words of the tail: `temple`."""

    @property
    def key(self) -> str:
        """Identifier of the fact, unique within one knowledge graph."""
        return f"{self.subject}|{self.relation}|{self.object}"


@dataclass(frozen=True, slots=True)
class Statement:
    """One verbalisation of a fact; `prompt + tail` is the whole text and the tail ends it."""

    fact: Fact
    """The fact that is stated."""
    split: Split
    """The part the fact plays for the target KG at hand."""
    family: str
    """Name of the template family, such as `kind`."""
    role: Role
    """What statements of this family may be used for."""
    prompt: str
    """Text before the tail, without trailing space: `A ziggurat is a kind of`."""
    object: str
    """Text of the tail with its leading space: ` temple`."""
    nll: float | None = None
    """Tail NLL under the original model [nats per tail token]; None before it is scored."""

    @property
    def text(self) -> str:
        """The whole statement."""
        return self.prompt + self.object

    @property
    def nll_or_inf(self) -> float:
        """`nll`, or infinity before it is scored, so that an unscored statement ranks worst."""
        return float("inf") if self.nll is None else self.nll

    def to_row(self) -> dict[str, Any]:
        """Return the statement as one JSON object, the fact's fields nested under `fact`."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Statement:
        """Return the statement that `to_row` wrote.

        Args:
            row: One decoded JSON object.

        Returns:
            The statement, equal to the one written.

        Raises:
            KeyError: If a field is missing; the message is the field's name.
            ValueError: If the split or the role is none of the known ones.
        """
        return cls(
            fact=Fact(**row["fact"]),
            split=Split(row["split"]),
            family=row["family"],
            role=Role(row["role"]),
            prompt=row["prompt"],
            object=row["object"],
            nll=row.get("nll"),
        )


FUNCTION_WORDS = frozenset(
    {"a", "an", "and", "as", "at", "by", "for", "from", "in", "into", "of", "on", "or", "the", "to"}
)
"""Words that every text shares, so that sharing them means nothing."""

SHORTEST_PART = 3
"""Letters from which a word inside another word counts as giving it away [letters]."""


def word_list(words: str) -> list[str]:
    """Return surface words one by one, in their order.

    Args:
        words: Surface words, such as `T-shirt shop`.

    Returns:
        The words split at all that is neither letter nor digit: `T`, `shirt`, `shop`.
    """
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", words)


@lru_cache(maxsize=2**18)
def content_words(words: str) -> frozenset[str]:
    """Return the words that carry meaning, in lower case.

    Args:
        words: Surface words, such as `head of state`.

    Returns:
        The words split at blanks, hyphens and underscores, without function words; where nothing
        else is left, the function words themselves.
    """
    found = frozenset(word_list(words.lower()))
    return found - FUNCTION_WORDS or found


def fact_words(fact: Fact) -> frozenset[str]:
    """Return the content words of a fact's head and tail together."""
    return content_words(fact.subject_words) | content_words(fact.object_words)


def leaks_answer(fact: Fact) -> bool:
    """Return whether the prompt already spells the answer, or the answer spells the head.

    `apartment building` is a `building` and `farmhouse` is a `house` for anyone who can read; such
    a fact tests copying, not knowledge.

    Args:
        fact: The fact.

    Returns:
        True if head and tail share a content word, or a word of one of at least `SHORTEST_PART`
        letters stands inside a word of the other.
    """
    heads, tails = content_words(fact.subject_words), content_words(fact.object_words)
    return any(
        head == tail
        or (len(head) >= SHORTEST_PART and head in tail)
        or (len(tail) >= SHORTEST_PART and tail in head)
        for head in heads
        for tail in tails
    )


def statement_words(fact: Fact) -> tuple[str, str, str]:
    """Return what a statement of the fact says: facts with the same words have the same text."""
    return (fact.subject_words.lower(), fact.relation, fact.object_words.lower())


_TEXTS = attrgetter(*(field.name for field in fields(Fact)))
"""All fields of a fact."""


def write_facts(path: Path, facts: Iterable[Fact]) -> None:
    """Write facts, one per line.

    Args:
        path: The file; its folder is made.
        facts: The facts, in the order of the lines.
    """
    _write(path, (asdict(fact) for fact in facts))


def read_facts(path: Path) -> list[Fact]:
    """Return the facts that `write_facts` wrote.

    Args:
        path: The file.

    Returns:
        The facts, in the order of the lines.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If a line is no fact; the line is named.
    """
    return [_fact(place, row) for place, row in json_rows(path)]


def write_kg(path: Path, facts: Iterable[tuple[Fact, Split]]) -> None:
    """Write the facts of one target KG with the part that each plays.

    Args:
        path: The file; its folder is made.
        facts: Facts and splits, in the order of the lines.
    """
    _write(path, ({**asdict(fact), "split": split.value} for fact, split in facts))


def read_kg(path: Path) -> list[tuple[Fact, Split]]:
    """Return the facts and splits that `write_kg` wrote.

    Args:
        path: The file.

    Returns:
        Facts and splits, in the order of the lines.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If a line is no fact with a split; the line is named.
    """
    found = []
    for place, row in json_rows(path):
        try:
            split = Split(row.pop("split", None))
        except ValueError as error:
            raise ValueError(f"{place}: field 'split': {error}") from None
        found.append((_fact(place, row), split))
    return found


def write_statements(path: Path, statements: Iterable[Statement]) -> None:
    """Write statements, one per line.

    Args:
        path: The file; its folder is made.
        statements: The statements, in the order of the lines.
    """
    _write(path, (statement.to_row() for statement in statements))


def read_statements(path: Path) -> list[Statement]:
    """Return the statements that `write_statements` wrote.

    Args:
        path: The file.

    Returns:
        The statements, in the order of the lines.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If a line is no statement; the line is named.
    """
    found = []
    for place, row in json_rows(path):
        try:
            statement = Statement.from_row(row)
            _require_text(statement.prompt, statement.object, *_TEXTS(statement.fact))
            found.append(statement)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{place}: no statement: {error}") from None
    return found


def _fact(place: str, row: dict[str, Any]) -> Fact:
    """Return the fact of one line."""
    try:
        fact = Fact(**row)
        _require_text(*_TEXTS(fact))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: no fact: {error}") from None
    return fact


def _require_text(*values: object) -> None:
    """Refuse a field that JSON holds as something else."""
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"value {value!r} is not allowed; allowed: text")


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON objects, one per line, the same bytes for the same rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")
