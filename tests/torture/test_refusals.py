"""What was found by damaging things: each is refused by its place, in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from knowsub.artifacts import write_checksummed
from knowsub.kg.readers import read_table
from knowsub.masks.mask import load_mask


@pytest.mark.parametrize(
    "description",
    [{}, {"format": "knowsub-mask-1"}, {"format": "knowsub-mask-1", "shapes": {"x": [4, 4]}}],
)
def test_a_checksummed_file_that_is_no_mask_is_refused(
    description: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "mask"
    write_checksummed(path, {"x": np.zeros(1, np.uint8)}, description)
    with pytest.raises(ValueError, match="mask: "):
        load_mask(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        (f'{{"head": {"9" * 5000}}}', "not JSON"),
        ('{"head": "\\ud800", "relation": "r", "tail": "b"}', "half a character"),
    ],
)
def test_json_that_breaks_readers_is_refused_by_place(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_table(path)
    assert "mine.jsonl:1" in str(refused.value)


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("head\trelation\ttail\thead\na\tb\tc\td\n")
    with pytest.raises(ValueError, match=r"mine\.tsv:1: duplicate column 'subject'"):
        read_table(path)
