"""Readers of fact files: tables, LAMA's ConceptNet, CommonsenseQA, the published reference code.

Tables have the columns subject, relation and object. The published formats are read with the
field names that they were published with, which call the subject `head` or `sub` and the object
`tail` or `obj`.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from knowsub.artifacts import read_utf8
from knowsub.kg.facts import Fact, Role, Split, Statement, statement_words
from knowsub.kg.given import GivenStatement, family_of
from knowsub.kg.rows import json_rows, listed, text_field
from knowsub.kg.wordnet import HYPERNYM
from knowsub.kg.words import words_of_name


@dataclass(frozen=True, slots=True)
class SkippedFact:
    """One entry of a file that was left out."""

    place: str
    """File and line, and the entry's number where a line may hold several."""
    what: str
    """The entry in words, such as `fruit IsA rarely`."""
    reason: str
    """Why it was left out; equal reasons are equal strings, for counting."""


@dataclass(frozen=True)
class ParsedFacts:
    """The content of a file: each entry is a fact, a statement or a skip."""

    facts: tuple[Fact, ...]
    """The facts, each once, in the order of the file."""
    statements: tuple[GivenStatement, ...] = ()
    """Statements of these facts that the file itself carries, in its order."""
    skipped: tuple[SkippedFact, ...] = ()
    """Entries that gave no fact, and facts that were left out."""
    questions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Identifiers of the questions behind a fact, by the fact's key."""

    @property
    def counts(self) -> dict[str, int]:
        """Facts read, and entries skipped by reason [entries]."""
        reasons = Counter(skip.reason for skip in self.skipped)
        return {"read": len(self.facts), **{key: reasons[key] for key in sorted(reasons)}}


DUPLICATE = "duplicate"
SAME_WORDS = "the same words as an earlier fact"
CONTRADICTION = "contradiction: the subject has another object already"


def keep_facts(
    entries: Iterable[tuple[str, Fact]], *, one_object: bool
) -> tuple[tuple[Fact, ...], tuple[SkippedFact, ...]]:
    """Return each fact once, the first of those that clash, and what was left out.

    `entries` holds places and facts in the order of the file. With `one_object`, a second object
    of the same subject words and relation is left out.
    """
    kept: dict[tuple[str, str, str], Fact] = {}
    answered: set[tuple[str, str]] = set()
    skipped = []
    for place, fact in entries:
        words = statement_words(fact)
        if words in kept:
            skipped.append(_skip(place, fact, DUPLICATE if kept[words] == fact else SAME_WORDS))
        elif one_object and words[:2] in answered:
            skipped.append(_skip(place, fact, CONTRADICTION))
        else:
            kept[words] = fact
            answered.add(words[:2])
    return tuple(kept.values()), tuple(skipped)


def _skip(place: str, fact: Fact, reason: str) -> SkippedFact:
    return SkippedFact(place, f"{fact.subject} {fact.relation} {fact.object}", reason)


COLUMNS = ("subject", "relation", "object")
OPTIONAL_COLUMNS = ("subject_words", "object_words")
FORMER_COLUMNS = {
    "head": "subject",
    "tail": "object",
    "head_words": "subject_words",
    "tail_words": "object_words",
}
"""Earlier names of the columns, still read."""


WRONG_LENGTH = "\t"
"""Key of a row of too few or too many fields, which no column can be called; what is wrong."""


def read_table(path: Path, *, one_object: bool = False) -> ParsedFacts:
    """Return the facts of a TSV or JSON Lines file.

    Args:
        path: A `.tsv` file whose first line names the columns, or a `.jsonl` file; columns are
            subject, relation, object and, optionally, subject_words and object_words.
        one_object: Whether a second object of the same subject and relation is left out.

    Returns:
        The facts; words default to those that the names stand for (`living_thing`: `living thing`).

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If the file's ending, a column or a field is wrong; file, line and field are
            named, those of all rows together.
    """
    if path.suffix not in {".tsv", ".jsonl"}:
        raise ValueError(f"{path}: ending {path.suffix!r} is not allowed; allowed: .tsv, .jsonl")
    rows = _tsv_rows(path) if path.suffix == ".tsv" else json_rows(path)
    entries, mistakes = [], []
    for place, row in rows:
        try:
            entries.append((place, _table_fact(place, row)))
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ValueError(listed(mistakes))
    facts, skipped = keep_facts(entries, one_object=one_object)
    return ParsedFacts(facts, skipped=skipped)


def _table_fact(place: str, row: dict[str, Any]) -> Fact:
    """Return the fact of one row, whose columns may have their former names."""
    if WRONG_LENGTH in row:
        raise ValueError(f"{place}: {row[WRONG_LENGTH]}")
    fields: dict[str, Any] = {}
    for name, value in row.items():
        column = FORMER_COLUMNS.get(name, name)
        if column not in (*COLUMNS, *OPTIONAL_COLUMNS):
            allowed = ", ".join([*COLUMNS, *OPTIONAL_COLUMNS])
            raise ValueError(f"{place}: field {name!r} is not allowed; allowed: {allowed}")
        if column in fields:
            raise ValueError(f"{place}: field {column!r} is given twice, once as {name!r}")
        fields[column] = value
    names = {column: text_field(fields, [column], place) for column in COLUMNS}
    words = {
        column: text_field(fields, [column], place)
        if fields.get(column)
        else words_of_name(names[column.removesuffix("_words")])
        for column in OPTIONAL_COLUMNS
    }
    return Fact(**names, **words)


def _tsv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the places and rows of a tab-separated file by its header's names.

    A field may stand in quotes, as spreadsheets write one with tabs, line breaks or quotes in it.
    """
    lines = _tsv_lines(path)
    header = next(lines, (1, [""]))[1]
    columns = [FORMER_COLUMNS.get(name, name) for name in header]
    if missing := [name for name in COLUMNS if name not in columns]:
        raise ValueError(f"{path}:1: column {missing[0]!r} is missing; the header is {header}")
    if duplicates := [name for name in columns if columns.count(name) > 1]:
        raise ValueError(f"{path}:1: duplicate column {duplicates[0]!r}")
    for number, fields in lines:
        if not any(field.strip() for field in fields):
            continue
        row: dict[str, Any] = dict(zip(columns, fields, strict=False))
        if len(fields) != len(columns):
            row = {WRONG_LENGTH: f"{len(fields)} fields; the header names {len(columns)}"}
        yield f"{path}:{number}", row


def _tsv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each row's first line, and the row's fields."""
    text = io.StringIO(read_utf8(path), newline="")
    rows, number = csv.reader(text, "excel-tab", strict=True), 1
    try:
        for fields in rows:
            yield number, fields
            number = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}:{number}: {error}; a field that begins with a quote ends with one, and holds "
            'quotes doubled: """Hamlet"""'
        ) from None


RELATIONS = frozenset(
    {
        "AtLocation", "CapableOf", "Causes", "CausesDesire", "Desires", "HasA", "HasPrerequisite",
        "HasProperty", "HasSubevent", "IsA", "MadeOf", "MotivatedByGoal", "NotDesires", "PartOf",
        "ReceivesAction", "UsedFor",
    }
)  # fmt: skip
"""The relations of LAMA's ConceptNet."""


def read_conceptnet(path: Path, *, one_object: bool = False) -> ParsedFacts:
    """Return the facts of a LAMA file: `{"sub": ..., "pred": ..., "obj": ...}` per line.

    Args:
        path: The file.
        one_object: Whether a second object of the same subject and relation is left out.

    Returns:
        The facts; `obj_label` stands in where `obj` is missing, other fields are not needed.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If an entry lacks a field or its relation is none of the 16.

    Source:
        LAMA (Petroni et al. 2019), `ConceptNet/test.jsonl`.
    """
    entries = (
        (place, _conceptnet_fact(place, row, ["sub", "sub_label"], ["pred"], ["obj", "obj_label"]))
        for place, row in json_rows(path)
    )
    facts, skipped = keep_facts(entries, one_object=one_object)
    return ParsedFacts(facts, skipped=skipped)


def _conceptnet_fact(
    place: str, row: dict[str, Any], subject: list[str], relation: list[str], answer: list[str]
) -> Fact:
    """Return the fact of one entry, given the possible names of its three fields."""
    subject_words = text_field(row, subject, place)
    name = text_field(row, relation, place)
    if name not in RELATIONS:
        allowed = ", ".join(sorted(RELATIONS))
        raise ValueError(f"{place}: field 'relation': {name!r} is not allowed; allowed: {allowed}")
    object_words = text_field(row, answer, place)
    words = words_of_name(subject_words), words_of_name(object_words)
    return Fact(subject_words, name, object_words, *words)


def read_commonsenseqa(path: Path, *, one_object: bool = False) -> ParsedFacts:
    """Return the facts of a file with one fact per question.

    Args:
        path: A JSON array or JSON Lines; each entry has `head` (or `question_concept`), `rel`
            (or `relation`), `tail` (or `answer`), and `id` where a question belongs to it.
        one_object: Whether a second object of the same subject and relation is left out.

    Returns:
        The facts, with the identifiers of the questions that each of them answers (a fact behind
        several questions is one fact, and no question is lost), and the statements that the entries
        carry as `read_reference` describes.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If an entry lacks a field or its relation is unknown.
    """
    names = ["head", "question_concept"], ["rel", "relation"], ["tail", "answer"]
    rows = [(place, row, _conceptnet_fact(place, row, *names)) for place, row in json_rows(path)]
    parsed = _with_statements(rows, Role.TRAIN, one_object=one_object)
    questions: dict[str, tuple[str, ...]] = {}
    kept = {fact.key for fact in parsed.facts}
    for place, row, fact in rows:
        if row.get("id") is not None and fact.key in kept:
            questions[fact.key] = (*questions.get(fact.key, ()), text_field(row, ["id"], place))
    # An entry without a statement is a fact all the same.
    skipped = tuple(skip for skip in parsed.skipped if skip.reason != NO_STATEMENT)
    return replace(parsed, skipped=skipped, questions=questions)


def read_reference(path: Path, *, one_object: bool = False) -> ParsedFacts:
    """Return the facts and statements of one of the reference's files.

    `*_best_format.json` holds one statement per fact and model, the one of lowest perplexity of
    the object; `*_worse_format.json` the paraphrases, one entry per statement.

    Args:
        path: The file, a JSON array.
        one_object: Whether a second object of the same subject and relation is left out.

    Returns:
        Each fact once; the statements of every model (`nll` from the file's perplexity of the
        object; for tests if the file's name ends in `_worse_format`, else to train on); and what
        was skipped: a repeated statement, one that does not end with the object, a missing one.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If an entry lacks its `head` or `tail`.

    Source:
        `know-subnet` (the paper's repository), `data/`; entries without `rel` are WordNet's.
    """
    role = Role.TEST if path.stem.endswith("_worse_format") else Role.TRAIN
    rows = [(place, row, _reference_fact(row, place)) for place, row in json_rows(path)]
    return _with_statements(rows, role, one_object=one_object)


NO_STATEMENT = "no statement"
REPEATED_STATEMENT = "the same statement as an earlier one"
OTHER_END = "the statement does not end with the object"


def _with_statements(
    rows: Iterable[tuple[str, Mapping[str, Any], Fact]], role: Role, *, one_object: bool
) -> ParsedFacts:
    """Return the facts of entries, and the statements that the entries carry."""
    entries: list[tuple[str, Fact]] = []
    statements: dict[tuple[str, Fact, str], GivenStatement] = {}
    skipped: list[SkippedFact] = []
    saying_more: set[str] = set()  # places of entries with a statement of their own
    for place, row, fact in rows:
        entries.append((place, fact))
        models = [found[1] for name in row if (found := re.fullmatch(r"best_(.+)_label", name))]
        for model in models:
            given = _given_statement(fact, row, model, role)
            if given is None:
                skipped.append(_skip(place, fact, OTHER_END))
            elif (model, fact, given.statement.text) in statements:
                skipped.append(_skip(place, fact, REPEATED_STATEMENT))
            else:
                statements[model, fact, given.statement.text] = given
                saying_more.add(place)
        if not models:
            skipped.append(_skip(place, fact, NO_STATEMENT))
    facts, left_out = keep_facts(entries, one_object=one_object)
    # An entry that repeats a fact but carries another statement of it is no duplicate.
    skipped += [s for s in left_out if s.reason != DUPLICATE or s.place not in saying_more]
    kept = set(facts)
    of_kept = tuple(given for given in statements.values() if given.statement.fact in kept)
    return ParsedFacts(facts, of_kept, tuple(skipped))


def _reference_fact(row: dict[str, Any], place: str) -> Fact:
    subject, answer = (text_field(row, [name], place) for name in ("head", "tail"))
    relation = text_field(row, ["rel"], place) if "rel" in row else HYPERNYM
    return Fact(subject, relation, answer, words_of_name(subject), words_of_name(answer))


def _given_statement(
    fact: Fact, row: Mapping[str, Any], model: str, role: Role
) -> GivenStatement | None:
    """Return one model's statement of an entry, or None where it does not end with the object."""
    text, answer = row[f"best_{model}_label"], f" {fact.object_words}"
    if not isinstance(text, str) or not text.lower().endswith(answer.lower()):
        return None
    prompt, answer = text[: -len(answer)], text[-len(answer) :]
    perplexity = row.get(f"{model}_perp")
    known = isinstance(perplexity, int | float) and perplexity > 0
    nll = math.log(float(perplexity or 0)) if known else None
    family = family_of(fact, prompt)
    return GivenStatement(model, Statement(fact, Split.TARGET, family, role, prompt, answer, nll))
