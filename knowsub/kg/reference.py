"""The published reference code's own fact files, so that its target KGs can be used as they are.

`*_best_format.json` holds one statement per fact and model, the one of lowest tail perplexity;
`*_worse_format.json` the paraphrases, one entry per statement. The tail ends each statement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knowsub.kg.json_lines import json_rows, text_field
from knowsub.kg.reading import DUPLICATE, Reading, Skip, keep_facts, skip
from knowsub.kg.synsets import HYPERNYM
from knowsub.kg.triple import Fact, Role, Split, Statement

_SYNSET = re.compile(r"(?P<lemma>.+)\.[a-z]\.\d+")


def read_reference(
    path: Path,
    *,
    model: str = "gpt2",
    split: Split = Split.TARGET,
    role: Role | None = None,
    one_tail: bool = False,
) -> Reading:
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
    skipped: list[Skip] = []
    for place, row in json_rows(path):
        fact = _fact(row, place)
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
    return Reading(kept, told, tuple(skipped))


def family_of(fact: Fact, prompt: str) -> str:
    """Return the wording of a prompt between its head and its tail, as the name of its family.

    Args:
        fact: The fact.
        prompt: The statement without its tail.

    Returns:
        Such as `is a kind of`; an article before the head or the tail is no part of it.
    """
    words = re.sub(rf"^\s*(an?\s+)?{re.escape(fact.head_words)}\s+", "", prompt, flags=re.I)
    return re.sub(r"\s+an?$", "", words.strip()) or words.strip()


def _fact(row: Mapping[str, Any], place: str) -> Fact:
    """Return the fact of one entry."""
    head, tail = (text_field(row, [name], place) for name in ("head", "tail"))
    relation = text_field(row, ["rel"], place) if "rel" in row else HYPERNYM
    return Fact(head, relation, tail, head_words=_words(head), tail_words=_words(tail))


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
    tail = f" {fact.tail_words}"
    if not text.lower().endswith(tail.lower()):
        return "the tail does not end the statement"
    prompt, tail = text[: -len(tail)], text[-len(tail) :]
    perplexity = row.get(f"{model}_perp")
    nll = math.log(perplexity) if isinstance(perplexity, float) and perplexity > 0 else None
    return Statement(fact, split, family_of(fact, prompt), role, prompt, tail, nll)
