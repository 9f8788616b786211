from __future__ import annotations

import pytest

from knowsub.kg.facts import Role, Split, Statement
from tests.kg.setting import fact

TOLD = Statement(
    fact("ziggurat", "temple"),
    Split.TARGET,
    "kind",
    Role.TRAIN,
    "A ziggurat is a kind of",
    " temple",
)


def test_prompt_and_tail_are_the_whole_statement() -> None:
    assert TOLD.text == "A ziggurat is a kind of temple"


def test_a_key_names_head_relation_and_tail() -> None:
    assert TOLD.fact.key == "ziggurat|hypernym|temple"


def test_a_row_gives_the_statement_back() -> None:
    assert Statement.from_row(TOLD.to_row()) == TOLD


@pytest.mark.parametrize(("key", "value"), [("split", "other"), ("role", "other")])
def test_an_unknown_part_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValueError, match="'other' is not a valid"):
        Statement.from_row({**TOLD.to_row(), key: value})


def test_a_missing_field_is_named() -> None:
    row = TOLD.to_row()
    del row["family"]
    with pytest.raises(KeyError, match="family"):
        Statement.from_row(row)
