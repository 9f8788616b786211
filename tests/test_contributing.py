"""CONTRIBUTING.md points at the lines that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
POINTERS = re.findall(r"`(?:\w+\.)?(\w+)` in\s+`([\w/.]+):(\d+)`", TEXT)


def test_the_three_questions_are_answered_with_lines() -> None:
    assert len(POINTERS) >= 7


@pytest.mark.parametrize(("name", "path", "line"), POINTERS)
def test_a_named_line_defines_the_name(name: str, path: str, line: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert re.match(rf"\s*(def |class )?{name}\b", source), source
