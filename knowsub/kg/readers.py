"""Readers of fact files: tables, ConceptNet, CommonsenseQA, and the published reference code.

`*_best_format.json` holds one statement per fact and model, the one of lowest tail perplexity;
`*_worse_format.json` the paraphrases, one entry per statement. The tail ends each statement.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knowsub.artifacts import json_rows, read_utf8, text_field
from knowsub.kg.facts import Fact, Role, Split, Statement, statement_words
from knowsub.kg.wordnet import HYPERNYM


@dataclass(frozen=True, slots=True)
class SkippedFact:
    """One entry of a file that was not taken over."""

    place: str
    """File and line, and the entry's number where a line may hold several."""
    what: str
    """The entry in words, such as `fruit IsA rarely`."""
    reason: str
    """Why it was left out; equal reasons are equal strings, for counting."""


@dataclass(frozen=True)
class ParsedFacts:
    """Everything that a reader found in a file: each entry is a fact, a statement or a skip."""

    facts: tuple[Fact, ...]
    """The facts, each once, in the order of the file."""
    statements: tuple[Statement, ...] = ()
    """Statements that the file itself carries, in its order."""
    skipped: tuple[SkippedFact, ...] = ()
    """Entries that gave no fact, or facts that were left out."""
    questions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Identifiers of the questions behind a fact, by the fact's key."""

    @property
    def counts(self) -> dict[str, int]:
        """Facts read, and entries skipped by reason [entries]."""
        reasons = Counter(skip.reason for skip in self.skipped)
        return {"read": len(self.facts), **{key: reasons[key] for key in sorted(reasons)}}


DUPLICATE = "duplicate"
SAME_WORDS = "the same words as an earlier fact"
CONTRADICTION = "contradiction: the head has another tail already"


def keep_facts(
    entries: Iterable[tuple[str, Fact]], *, one_tail: bool
) -> tuple[tuple[Fact, ...], tuple[SkippedFact, ...]]:
    """Return each fact once, and what was left out.

    Args:
        entries: Places and facts, in the order of the file.
        one_tail: Whether a second tail of the same head words and relation is left out.

    Returns:
        The facts kept, the first of those that clash, and the skips.
    """
    kept: dict[tuple[str, str, str], Fact] = {}
    tails: set[tuple[str, str]] = set()
    skipped = []
    for place, fact in entries:
        words = statement_words(fact)
        reason = None
        if words in kept:
            reason = DUPLICATE if kept[words] == fact else SAME_WORDS
        elif one_tail and words[:2] in tails:
            reason = CONTRADICTION
        if reason is None:
            kept[words] = fact
            tails.add(words[:2])
        else:
            skipped.append(skip(place, fact, reason))
    return tuple(kept.values()), tuple(skipped)


def skip(place: str, fact: Fact, reason: str) -> SkippedFact:
    """Return the skip of a fact that stands at a place of a file."""
    return SkippedFact(place, f"{fact.subject} {fact.relation} {fact.object}", reason)


COLUMNS = ("head", "relation", "tail")
"""Columns that a table must have."""
WORDS = ("head_words", "tail_words")
"""Columns that it may have: surface words where they differ from the names."""


def read_table(path: Path, *, one_tail: bool = False) -> ParsedFacts:
    """Return the facts of a TSV or JSON Lines file.

    Args:
        path: A `.tsv` file whose first line names the columns, or a `.jsonl` file; columns are
            head, relation, tail and, optionally, head_words and tail_words.
        one_tail: Whether a second tail of the same head and relation is left out.

    Returns:
        The facts; words default to the names.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If the file's ending, a column or a field is wrong; file, line and field are
            named.
    """
    if path.suffix not in {".tsv", ".jsonl"}:
        raise ValueError(f"{path}: ending {path.suffix!r} is not allowed; allowed: .tsv, .jsonl")
    rows = _tsv(path) if path.suffix == ".tsv" else json_rows(path)
    facts, skipped = keep_facts((_fact(place, row) for place, row in rows), one_tail=one_tail)
    return ParsedFacts(facts, skipped=skipped)


def _fact(place: str, row: dict[str, Any]) -> tuple[str, Fact]:
    """Return the place and the fact of one entry."""
    unknown = sorted(set(row) - {*COLUMNS, *WORDS})
    if unknown:
        allowed = ", ".join([*COLUMNS, *WORDS])
        raise ValueError(f"{place}: field {unknown[0]!r} is not allowed; allowed: {allowed}")
    head, relation, tail = (text_field(row, [name], place) for name in COLUMNS)
    words = [
        text_field(row, [f"{end}_words", end], place) if row.get(f"{end}_words") else name
        for end, name in (("head", head), ("tail", tail))
    ]
    return place, Fact(head, relation, tail, subject_words=words[0], object_words=words[1])


def _tsv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a tab-separated file by its header's names."""
    lines = [line.rstrip("\r") for line in read_utf8(path).split("\n")]
    header = lines[0].split("\t")
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise ValueError(f"{path}:1: column {missing[0]!r} is missing; the header is {header}")
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise ValueError(f"{path}:1: column {twice[0]!r} stands there twice")
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            fields = line.split("\t")
            if len(fields) != len(header):
                raise ValueError(
                    f"{path}:{number}: {len(fields)} fields; the header names {len(header)}"
                )
            yield f"{path}:{number}", dict(zip(header, fields, strict=True))


RELATIONS = (
    "AtLocation",
    "CapableOf",
    "Causes",
    "CausesDesire",
    "Desires",
    "HasA",
    "HasPrerequisite",
    "HasProperty",
    "HasSubevent",
    "IsA",
    "MadeOf",
    "MotivatedByGoal",
    "NotDesires",
    "PartOf",
    "ReceivesAction",
    "UsedFor",
)
"""The relations of LAMA's ConceptNet."""


def read_conceptnet(path: Path, *, one_tail: bool = False) -> ParsedFacts:
    """Return the facts of a LAMA file: `{"sub": ..., "pred": ..., "obj": ...}` per line.

    Args:
        path: The file.
        one_tail: Whether a second tail of the same head and relation is left out.

    Returns:
        The facts; `obj_label` stands in where `obj` is missing, other fields are not needed.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If an entry lacks a field or its relation is none of the 16.

    Source:
        LAMA (Petroni et al. 2019), `ConceptNet/test.jsonl`.
    """
    facts, skipped = keep_facts(_entries(path), one_tail=one_tail)
    return ParsedFacts(facts, skipped=skipped)


def check_relation(relation: str, place: str) -> str:
    """Return a relation if it is one of ConceptNet's.

    Args:
        relation: Name of the relation.
        place: Where it stands.

    Returns:
        The name.

    Raises:
        ValueError: If it is unknown.
    """
    if relation not in RELATIONS:
        allowed = ", ".join(RELATIONS)
        raise ValueError(
            f"{place}: field 'relation': {relation!r} is not allowed; allowed: {allowed}"
        )
    return relation


def _entries(path: Path) -> Iterator[tuple[str, Fact]]:
    """Yield the places and facts of a LAMA file."""
    for place, row in json_rows(path):
        head = text_field(row, ["sub", "sub_label"], place)
        relation = check_relation(text_field(row, ["pred"], place), place)
        tail = text_field(row, ["obj", "obj_label"], place)
        yield place, Fact(head, relation, tail, subject_words=head, object_words=tail)


def read_commonsenseqa(path: Path, *, one_tail: bool = False) -> ParsedFacts:
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
    facts, skipped = keep_facts(_commonsenseqa_entries(path, questions), one_tail=one_tail)
    keys = {fact.key for fact in facts}
    kept = {key: names for key, names in questions.items() if key in keys}
    return ParsedFacts(facts, skipped=skipped, questions=kept)


def _commonsenseqa_entries(
    path: Path, questions: dict[str, tuple[str, ...]]
) -> Iterator[tuple[str, Fact]]:
    """Yield the places and facts of a file; add the questions' identifiers by fact."""
    for place, row in json_rows(path):
        head = text_field(row, ["head", "question_concept"], place)
        relation = check_relation(text_field(row, ["rel", "relation"], place), place)
        tail = text_field(row, ["tail", "answer"], place)
        fact = Fact(head, relation, tail, subject_words=head, object_words=tail)
        if row.get("id") is not None:
            name = text_field(row, ["id"], place)
            questions[fact.key] = (*questions.get(fact.key, ()), name)
        yield place, fact


_SYNSET = re.compile(r"(?P<lemma>.+)\.[a-z]\.\d+")


def read_reference(
    path: Path,
    *,
    model: str = "gpt2",
    split: Split = Split.TARGET,
    role: Role | None = None,
    one_tail: bool = False,
) -> ParsedFacts:
    """Return the facts and statements of one of the reference's files.

    Args:
        path: The file, a JSON array.
        model: Whose statements are taken: `gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`.
        split: The part that these facts play.
        role: Role of the statements; None means test for `*_worse_format.json`, else train.
        one_tail: Whether a second tail of the same head and relation is left out.

    Returns:
        Each fact once, all its statements (`nll` from the file's tail perplexity), and what was
        skipped: a repeated statement, a statement that its tail does not end, a missing one.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If an entry lacks its head or tail.

    Source:
        `know-subnet` (the paper's repository), `data/`; entries without `rel` are WordNet's.
    """
    if role is None:
        role = Role.TEST if path.stem.endswith("_worse_format") else Role.TRAIN
    facts: list[tuple[str, Fact]] = []
    statements: dict[tuple[Fact, str], Statement] = {}
    skipped: list[SkippedFact] = []
    for place, row in json_rows(path):
        fact = _reference_fact(row, place)
        found = _statement(fact, row, model, split, role)
        facts.append((place, fact))
        if isinstance(found, str):
            skipped.append(skip(place, fact, found))
        elif (fact, found.text) in statements:
            skipped.append(skip(place, fact, DUPLICATE))
        else:
            statements[fact, found.text] = found
    kept, left_out = keep_facts(facts, one_tail=one_tail)
    # An entry that repeats a fact carries another statement of it, which is no duplicate.
    skipped += [entry for entry in left_out if entry.reason != DUPLICATE]
    known = set(kept)
    told = tuple(statement for statement in statements.values() if statement.fact in known)
    return ParsedFacts(kept, told, tuple(skipped))


def family_of(fact: Fact, prompt: str) -> str:
    """Return the wording of a prompt between its head and its tail, as the name of its family.

    Args:
        fact: The fact.
        prompt: The statement without its tail.

    Returns:
        Such as `is a kind of`; an article before the head or the tail is no part of it.
    """
    words = re.sub(rf"^\s*(an?\s+)?{re.escape(fact.subject_words)}\s+", "", prompt, flags=re.I)
    return re.sub(r"\s+an?$", "", words.strip()) or words.strip()


def _reference_fact(row: Mapping[str, Any], place: str) -> Fact:
    """Return the fact of one entry."""
    head, tail = (text_field(row, [name], place) for name in ("head", "tail"))
    relation = text_field(row, ["rel"], place) if "rel" in row else HYPERNYM
    return Fact(head, relation, tail, subject_words=_words(head), object_words=_words(tail))


def _words(name: str) -> str:
    """Return the surface words of a synset's name, or the words themselves."""
    match = _SYNSET.fullmatch(name)
    return match["lemma"].replace("_", " ") if match else name


def _statement(
    fact: Fact, row: Mapping[str, Any], model: str, split: Split, role: Role
) -> Statement | str:
    """Return the statement of one entry, or why there is none."""
    text = row.get(f"best_{model}_label")
    if not isinstance(text, str):
        return f"no statement for {model}"
    tail = f" {fact.object_words}"
    if not text.lower().endswith(tail.lower()):
        return "the tail does not end the statement"
    prompt, tail = text[: -len(tail)], text[-len(tail) :]
    perplexity = row.get(f"{model}_perp")
    nll = math.log(perplexity) if isinstance(perplexity, float) and perplexity > 0 else None
    return Statement(fact, split, family_of(fact, prompt), role, prompt, tail, nll)
