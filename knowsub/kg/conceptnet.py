"""ConceptNet's facts in LAMA's JSON Lines form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from knowsub.kg.json_lines import json_rows, text_field
from knowsub.kg.reading import Reading, keep_facts
from knowsub.kg.triple import Fact

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


def read_conceptnet(path: Path, *, one_tail: bool = False) -> Reading:
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
    return Reading(facts, skipped=skipped)


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
        yield place, Fact(head, relation, tail, head_words=head, tail_words=tail)
