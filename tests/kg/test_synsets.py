from __future__ import annotations

from pathlib import Path

import pytest

from knowsub.kg.wordnet import read_synsets
from tests.kg.setting import write_nouns


def test_a_synset_knows_its_words_and_parents(tmp_path: Path) -> None:
    rows = "thing.n.01|thing|3||\nbig_thing.n.01|Big_thing giant|2 9|thing.n.01|thing.n.01"
    big = read_synsets(write_nouns(tmp_path / "nouns.tsv.gz", rows))["big_thing.n.01"]
    assert (big.words, big.frequency) == ("Big thing", 2)
    assert big.parents == [("thing.n.01", "hypernym"), ("thing.n.01", "instance_hypernym")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.n.01|a|1|", r":2: 4 fields"),
        ("a.n.01|a b|1||", r":2: field 'counts'"),
        ("a.n.01|a|1|b.n.01|", r"'b.n.01' of 'a.n.01'"),
    ],
)
def test_a_broken_table_names_its_line(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_synsets(write_nouns(tmp_path / "nouns.tsv.gz", rows))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nouns\.tsv\.gz"):
        read_synsets(tmp_path / "nouns.tsv.gz")
