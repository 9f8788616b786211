from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.kg.facts import (
    Fact,
    Role,
    Split,
    Statement,
    read_facts,
    read_kg,
    read_statements,
    write_facts,
    write_kg,
    write_statements,
)
from tests.kg.setting import fact

words = st.text(min_size=1)
facts = st.builds(Fact, words, words, words, words, words)
splits = st.sampled_from(Split)
statements = st.builds(
    Statement,
    facts,
    splits,
    words,
    st.sampled_from(Role),
    words,
    words,
    st.none() | st.floats(0, 1e6),
)


@settings(deadline=None)
@given(st.lists(facts), st.lists(st.tuples(facts, splits)), st.lists(statements))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    some: list[Fact],
    kg: list[tuple[Fact, Split]],
    told: list[Statement],
) -> None:
    folder = tmp_path_factory.mktemp("files")
    write_facts(folder / "new/facts.jsonl", some)
    write_kg(folder / "kg.jsonl", kg)
    write_statements(folder / "told.jsonl", told)
    assert read_facts(folder / "new/facts.jsonl") == some
    assert read_kg(folder / "kg.jsonl") == kg
    assert read_statements(folder / "told.jsonl") == told


def test_lines_are_the_same_bytes_everywhere(tmp_path: Path) -> None:
    write_kg(tmp_path / "kg.jsonl", [(fact("café", "place"), Split.TARGET)])
    assert (tmp_path / "kg.jsonl").read_bytes() == (
        '{"head": "café", "relation": "hypernym", "tail": "place", "head_words": "café", '
        '"tail_words": "place", "split": "target"}\n'
    ).encode()


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"head": "a"}', r":1: field 'split'"), ('{"head": "a", "split": "target"}', ":1: no fact")],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "kg.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        read_kg(tmp_path / "kg.jsonl")


def test_broken_facts_and_statements_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"fact": 3}')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: no fact"):
        read_facts(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"a\.jsonl:1: no statement"):
        read_statements(tmp_path / "a.jsonl")
