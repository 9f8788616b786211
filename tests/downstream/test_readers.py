import json
from pathlib import Path
from typing import Any

import pytest

from knowsub.downstream.tasks import read_folder, read_ids, read_questions
from tests.downstream.setting import FIXTURE


def row(**changes: Any) -> dict[str, Any]:
    choices = [{"label": "A", "text": "bank"}, {"label": "B", "text": "library"}]
    asked = {"question_concept": "door", "stem": "Where is a door?", "choices": choices}
    return {"answerKey": "A", "id": "x1", "question": asked} | changes


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    return path


def test_the_published_format_is_read() -> None:
    train, test = read_folder(FIXTURE)
    assert (len(train), len(test)) == (8, 4)
    first = train[0]
    assert first.prompt == "Q: Where would you put a kettle to heat water?\nA:"
    assert first.choices == (" stove", " drawer", " bath", " wardrobe", " mailbox")
    assert first.answer == 0
    assert first.fact == "kettle|answer|stove"


def test_the_flat_format_of_the_datasets_library_reads_the_same(tmp_path: Path) -> None:
    flat = {
        "id": "x1", "question": "Where is a door?", "question_concept": "door", "answerKey": "A",
        "choices": {"label": ["A", "B"], "text": ["bank", "library"]},
    }  # fmt: skip
    nested = read_questions(written(tmp_path, row()))
    assert read_questions(written(tmp_path, flat)) == nested


def test_a_limit_takes_the_first_questions(tmp_path: Path) -> None:
    train, test = read_folder(FIXTURE, limit=3)
    assert (len(train), len(test)) == (3, 3)


def asked(choices: Any) -> dict[str, Any]:
    return row(question={"stem": "Where?", "choices": choices})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(answerKey="C"), "answerKey 'C' is not among the labels A, B"),
        (row(answerKey=""), "`answerKey` is missing"),
        (row(id=None), "'id' is missing"),
        (row(question={"choices": []}), "'stem' is missing"),
        (asked(None), "`choices` is missing"),
        (asked([{"label": "A", "text": "bank"}, {"label": "B"}]), "choice 2 is missing"),
        (asked([{"label": "A", "text": "b"}, {"label": "B", "text": "B "}]), "'b' stands twice"),
        (asked([{"label": "A", "text": "b"}, {"label": "A", "text": "c"}]), "label stands twice"),
        (asked([{"label": "A", "text": "b"}, {"text": "c"}]), "needs a `label` and a `text`"),
        (asked([{"label": "A", "text": "bank"}]), "1 choices"),
        ([], "allowed is a JSON object"),
        (row(id="x0"), "id 'x0' stands twice"),
    ],
)
def test_a_bad_question_is_refused_by_file_and_line(tmp_path: Path, bad: Any, message: str) -> None:
    path = written(tmp_path, row(id="x0"), bad)
    with pytest.raises(ValueError, match=r"questions\.jsonl:2: ") as caught:
        read_questions(path)
    assert message in str(caught.value)


def test_an_empty_file_and_a_folder_without_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the split is empty"):
        read_questions(written(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"needs train\.jsonl and test\.jsonl or"):
        read_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_questions(tmp_path / "none.jsonl")


def test_identifiers_are_read_from_a_list_of_facts(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([{"id": "a", "head": "x"}, {"id": "b"}]))
    assert read_ids(path) == {"a", "b"}
    path.write_text('[{"id": "a"},\n {"head": "x"}]')
    with pytest.raises(ValueError, match=r"facts\.json:2"):
        read_ids(path)
