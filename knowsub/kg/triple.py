"""A fact and its verbalisations, as values.

Every reader of the room returns `Fact`s, every later stage carries `Statement`s; nothing else
travels between stages as knowledge.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Split(StrEnum):
    """The part a fact plays for one target KG; each fact plays exactly one."""

    TARGET = "target"
    CONTROL_TRAIN = "control_train"
    CONTROL_VALIDATION = "control_validation"
    CONTROL_HELDOUT = "control_heldout"
    NEAR_TRAIN = "near_train"
    NEAR_HELDOUT = "near_heldout"
    NEAR_UNTOLD = "near_untold"


class Role(StrEnum):
    """The part a template family plays: prompts of one role are never used for another."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Fact:
    """One relational fact (head, relation, tail) with the words that name its ends."""

    head: str
    """Identifier of the head: a synset name such as `ziggurat.n.01`, or the words themselves."""
    relation: str
    """Name of the relation, such as `hypernym` or `AtLocation`."""
    tail: str
    """Identifier of the tail, in the same naming as the head."""
    head_words: str
    """Surface words of the head, lower case unless a name: `ziggurat`."""
    tail_words: str
    """Surface words of the tail: `temple`."""

    @property
    def key(self) -> str:
        """Identifier of the fact, unique within one knowledge graph."""
        return f"{self.head}|{self.relation}|{self.tail}"


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
    tail: str
    """Text of the tail with its leading space: ` temple`."""
    nll: float | None = None
    """Tail NLL under the original model [nats per tail token]; None before it is scored."""

    @property
    def text(self) -> str:
        """The whole statement."""
        return self.prompt + self.tail

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
            tail=row["tail"],
            nll=row.get("nll"),
        )
