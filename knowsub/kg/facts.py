"""Facts, their statements, their surface words, and the JSON Lines files that stages exchange.

Every reader of this room returns `Fact`s; every later stage works on `Statement`s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from knowsub.artifacts import json_text
from knowsub.kg.rows import json_rows
from knowsub.kg.words import comparable


class Split(StrEnum):
    """The part that a fact plays for one target; each fact plays exactly one."""

    TARGET = "target"
    CONTROL_TRAIN = "control_train"
    CONTROL_VALIDATION = "control_validation"
    CONTROL_HELDOUT = "control_heldout"
    NEIGHBORHOOD_TRAIN = "neighborhood_train"
    NEIGHBORHOOD_HELDOUT = "neighborhood_heldout"
    UNSEEN = "unseen"
    TARGET_UNKNOWN = "target_unknown"
    CONTROL_TRAIN_UNKNOWN = "control_train_unknown"
    NEIGHBORHOOD_TRAIN_UNKNOWN = "neighborhood_train_unknown"
    CONTROL_UNKNOWN = "control_unknown"
    NEIGHBORHOOD_UNKNOWN = "neighborhood_unknown"


class Role(StrEnum):
    """What a template family is used for: prompts of one role are never used for another."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Fact:
    """One relational fact (subject, relation, object) with the words that name its two entities."""

    subject: str
    """Identifier: a synset name such as `ziggurat.n.01`, or the words themselves."""
    relation: str
    """Name of the relation, such as `hypernym` or `AtLocation`."""
    object: str
    """Identifier, named as the subject is."""
    subject_words: str
    """Surface words, lower case unless a name: `ziggurat`."""
    object_words: str
    """Surface words: `temple`."""

    @property
    def key(self) -> str:
        """Identifier of the fact, unique within one knowledge graph."""
        return f"{self.subject}|{self.relation}|{self.object}"


@dataclass(frozen=True, slots=True)
class Statement:
    """One verbalization of a fact: `prompt + object` is the whole text."""

    fact: Fact
    """The fact that is stated."""
    split: Split
    """The part that the fact plays for the target at hand."""
    family: str
    """Name of the template family, such as `kind`."""
    role: Role
    """What statements of this family are used for."""
    prompt: str
    """Text before the object, without trailing space: `A ziggurat is a kind of`."""
    object: str
    """Text of the object with its leading space: ` temple`."""
    nll: float | None = None
    """NLL of the object under the original model [nats per token]; None before it is scored."""

    @property
    def text(self) -> str:
        """The whole statement."""
        return self.prompt + self.object

    @property
    def nll_or_inf(self) -> float:
        """`nll`, or infinity before it is scored, so that an unscored statement ranks worst."""
        return float("inf") if self.nll is None else self.nll

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Statement:
        """Return the statement of one JSON object, as `dataclasses.asdict` wrote it.

        Raises KeyError with the name of a missing field, and ValueError if the split or the role is
        unknown or a text is none.
        """
        fact = _fact(row["fact"])
        prompt, object_text = row["prompt"], row["object"]
        _check_texts(prompt, object_text)
        split, role = Split(row["split"]), Role(row["role"])
        return cls(fact, split, row["family"], role, prompt, object_text, row.get("nll"))


_FUNCTION_WORDS = frozenset(
    {"a", "an", "and", "as", "at", "by", "for", "from", "in", "into", "of", "on", "or", "the", "to"}
)
_MIN_INFIX = 3
"""Length from which a word inside another word leaks it [letters]."""


def word_list(words: str) -> list[str]:
    """Return surface words one by one, `T-shirt shop` as `T`, `shirt`, `shop`, in their order."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", words)


@lru_cache(maxsize=2**18)
def content_words(words: str) -> frozenset[str]:
    """Return the comparable words without function words, or these where there are no others."""
    distinct = frozenset(word_list(comparable(words)))
    return distinct - _FUNCTION_WORDS or distinct


def fact_words(fact: Fact) -> frozenset[str]:
    """Return the content words of a fact's subject and object together."""
    return content_words(fact.subject_words) | content_words(fact.object_words)


def leaks_answer(fact: Fact) -> bool:
    """Return whether subject and object share a word, or one has a word inside a word of the other.

    `apartment building` is a `building` and `farmhouse` is a `house` for anyone who can read; such
    a fact tests copying, not knowledge.
    """
    return any(
        subject == answer
        or (len(subject) >= _MIN_INFIX and subject in answer)
        or (len(answer) >= _MIN_INFIX and answer in subject)
        for subject in content_words(fact.subject_words)
        for answer in content_words(fact.object_words)
    )


def statement_words(fact: Fact) -> tuple[str, str, str]:
    """Return what a statement of the fact says, in comparable words: equal ones say the same."""
    return (comparable(fact.subject_words), fact.relation, comparable(fact.object_words))


def write_facts(path: Path, facts: Iterable[Fact]) -> None:
    """Write facts, one per line."""
    _write_rows(path, map(asdict, facts))


def read_facts(path: Path) -> list[Fact]:
    """Return the facts that `write_facts` wrote, in the order of the lines.

    Args:
        path: The file.

    Returns:
        The facts.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If a line is no fact; the line is named.
    """
    return [_named_fact(place, row) for place, row in json_rows(path)]


def write_kg(path: Path, facts: Iterable[tuple[Fact, Split]]) -> None:
    """Write the facts of one target, each with the part that it plays, one per line."""
    _write_rows(path, ({**asdict(fact), "split": split.value} for fact, split in facts))


def read_kg(path: Path) -> list[tuple[Fact, Split]]:
    """Return the facts and splits that `write_kg` wrote, in the order of the lines.

    Args:
        path: The file.

    Returns:
        Facts and splits.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If a line is no fact with a split; the line is named.
    """
    kg = []
    for place, row in json_rows(path):
        try:
            split = Split(row.pop("split", None))
        except ValueError as error:
            raise ValueError(f"{place}: field 'split': {error}") from None
        kg.append((_named_fact(place, row), split))
    return kg


def without_targets(
    facts: Iterable[Fact], graphs: Iterable[Iterable[tuple[Fact, Split]]]
) -> list[Fact]:
    """Return the facts that are no target's, in their order; graphs are as `read_kg` returns."""
    targets = {fact for graph in graphs for fact, split in graph if split is Split.TARGET}
    return [fact for fact in facts if fact not in targets]


def write_statements(path: Path, statements: Iterable[Statement]) -> None:
    """Write statements, one per line, the fields of each fact nested under `fact`."""
    _write_rows(path, map(asdict, statements))


def read_statements(path: Path) -> list[Statement]:
    """Return the statements that `write_statements` wrote, in the order of the lines.

    Args:
        path: The file.

    Returns:
        The statements.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If a line is no statement; the line is named.
    """
    statements = []
    for place, row in json_rows(path):
        try:
            statements.append(Statement.from_row(row))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{place}: no statement: {error}") from None
    return statements


def _named_fact(place: str, row: dict[str, Any]) -> Fact:
    """Return the fact of one line, or raise with the line's place."""
    try:
        return _fact(row)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: no fact: {error}") from None


def _fact(row: dict[str, Any]) -> Fact:
    fact = Fact(**row)
    _check_texts(*astuple(fact))
    return fact


def _check_texts(*values: object) -> None:
    """Raise where JSON holds anything but a text."""
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"value {value!r} is not allowed; allowed: text")


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON objects, one per line; equal rows give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json_text(row, path) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")
