from __future__ import annotations

import hashlib
from pathlib import Path
from pydoc_data import topics

import pytest

from knowsub.text import EMBEDDED, read_splits, read_text, split_text


def paragraphs(text: str) -> list[str]:
    return text.split("\n\n")


def test_the_embedded_text_is_prose() -> None:
    text = read_text("embedded")
    assert len(text) > 200_000
    for mark in (">>>", "::=", "\n\n\n", "----", "\t"):
        assert mark not in text
    assert sum(char.isalpha() or char == " " for char in text) > 0.9 * len(text)


def test_the_other_text_shares_no_paragraph_with_the_embedded_one() -> None:
    other = read_text("embedded-other")
    assert len(other) > 150_000
    assert not set(paragraphs(other)) & set(paragraphs(read_text("embedded")))


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("embedded", "0399f75b9b10cf3e2aaf90097c33bff453170c2603704319f98308c48df0e147"),
        ("embedded-other", "7cabed5a8221d23f0a2e75cbc6bb3ad731d8b95188279a9abfb545b15fe9b64b"),
    ],
)
def test_the_committed_texts_do_not_depend_on_the_interpreter(
    name: str, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They used to be collected from the documentation of the Python that ran the pipeline.
    monkeypatch.setattr(topics, "topics", {})
    assert hashlib.sha256(read_text(name).encode()).hexdigest() == digest


def test_the_licence_and_the_source_lie_beside_the_committed_texts() -> None:
    folder = EMBEDDED["embedded"].parent
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (folder / "LICENSE").read_text()
    assert all(path.name in (folder / "README.md").read_text() for path in EMBEDDED.values())


def test_a_missing_committed_text_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data/raw/text/english\.txt: no such file"):
        read_text("embedded")


def test_parts_of_the_text_share_no_paragraph_and_are_as_large_as_asked() -> None:
    text = read_text("embedded")
    parts = split_text(text, 0.1, 0.2)
    assert list(parts) == ["train", "validation", "test"]
    pieces = {name: paragraphs(part) for name, part in parts.items()}
    held = [piece for part in pieces.values() for piece in part]
    assert len(set(held)) == len(held)
    assert set(held) == set(paragraphs(text))
    for name, share in {"train": 0.7, "validation": 0.1, "test": 0.2}.items():
        assert len(parts[name]) / len(text) == pytest.approx(share, abs=0.02)


def test_a_paragraph_that_comes_again_is_not_tested_on() -> None:
    text = "\n\n".join(["the same words again"] * 30 + [f"words number {i}" for i in range(30)])
    parts = split_text(text, 0.2, 0.2)
    assert sum("the same words again" in part for part in parts.values()) == 1


def test_parts_keep_the_order_of_the_text() -> None:
    parts = split_text("\n\n".join(f"paragraph {i:03}" for i in range(100)), 0.1, 0.1)
    for part in parts.values():
        assert paragraphs(part) == sorted(paragraphs(part))


def test_lines_stand_for_paragraphs_where_there_are_none() -> None:
    parts = split_text("\n".join(f"line {i}" for i in range(20)), 0.2, 0.2)
    assert all(parts.values())


@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.1, 0.0), (0.5, 0.5), (-0.1, 0.2)])
def test_impossible_shares_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        split_text("a\n\nb\n\nc", *shares)


def test_a_text_too_short_to_split_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is left for"):
        split_text("one paragraph alone", 0.1, 0.1)


def test_a_file_and_a_folder_of_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second", encoding="utf-8")
    (tmp_path / "a.txt").write_text("first", encoding="utf-8")
    (tmp_path / "c.md").write_text("no text", encoding="utf-8")
    assert read_text(str(tmp_path / "a.txt")) == "first"
    assert read_text(str(tmp_path)) == "first\n\nsecond"


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"bad\.txt: not UTF-8 at byte 3"):
        read_text(str(tmp_path))
    (tmp_path / "bad.txt").write_text(" \n")
    with pytest.raises(ValueError, match="is empty"):
        read_text(str(tmp_path / "bad.txt"))


def test_a_folder_with_the_three_parts_as_files_keeps_them(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"the {name} text", encoding="utf-8")
    parts, origin = read_splits(str(tmp_path), 0.1, 0.1)
    assert parts == {
        "train": "the train text", "validation": "the valid text", "test": "the test text",
    }  # fmt: skip
    assert origin == "its own splits"
    (tmp_path / "test.txt").write_text("\n.\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("no part of it", encoding="utf-8")
    assert read_splits(str(tmp_path), 0.1, 0.1)[1] == "its own splits; left out: notes"


def test_a_text_without_parts_of_its_own_is_cut_by_share(tmp_path: Path) -> None:
    for name in ("train", "test"):
        prose = "\n\n".join(f"{name} paragraph {i:02}" for i in range(20))
        (tmp_path / f"{name}.txt").write_text(prose, encoding="utf-8")
    parts, origin = read_splits(str(tmp_path), 0.2, 0.3)
    assert parts == split_text(read_text(str(tmp_path)), 0.2, 0.3)
    assert origin == "cut by share: 0.2 validation, 0.3 test"
