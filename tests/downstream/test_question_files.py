"""Questions from files in their published format, up to metrics on a tiny random model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from knowsub.downstream.model import FinetuneContext
from knowsub.downstream.options import Adaptation, QuestionSource, Readout
from knowsub.downstream.question_files import build_task, read_folder, read_ids, read_questions
from knowsub.downstream.questions import Group
from knowsub.downstream.runs import run_all, summarize
from knowsub.kg.facts import Split
from tests.architectures import tiny
from tests.downstream.setting import FIXTURE, options, random_mask, statement, word_tokenizer


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
        (
            asked([{"label": "A", "text": "b"}, {"label": "B", "text": "B "}]),
            "duplicate choice 'b'",
        ),
        (asked([{"label": "A", "text": "b"}, {"label": "A", "text": "c"}]), "duplicate label"),
        (asked([{"label": "A", "text": "b"}, {"text": "c"}]), "needs a `label` and a `text`"),
        (asked([{"label": "A", "text": "bank"}]), "1 choices"),
        ([], "allowed is a JSON object"),
        (row(id="x0"), "duplicate id 'x0'"),
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
    path.write_text(json.dumps([{"id": "a", "subject": "x"}, {"id": "b"}]))
    assert read_ids(path) == {"a", "b"}
    path.write_text('[{"id": "a"},\n {"subject": "x"}]')
    with pytest.raises(ValueError, match=r"facts\.json \(entry 2\)"):
        read_ids(path)


THINGS = [f"w{number}" for number in range(2, 60)]


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token."""
    alphabet = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    model = Tokenizer(BPE(alphabet, []))
    model.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=model)


def generated(folder: Path, train: int, test: int) -> Path:
    """Write a few hundred questions in the published format."""
    chooser = random.Random(0)
    for name, count in (("train_rand_split", train), ("dev_rand_split", test)):
        rows = []
        for number in range(count):
            concept, *texts = chooser.sample(THINGS, 6)
            choices = [
                {"label": label, "text": text} for label, text in zip("ABCDE", texts, strict=True)
            ]
            stem = f"{concept} {chooser.choice(THINGS)}"
            question = {"question_concept": concept, "choices": choices, "stem": stem}
            rows.append(
                {
                    "answerKey": chooser.choice("ABCDE"),
                    "id": f"{name}{number}",
                    "question": question,
                }
            )
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.mark.parametrize("readout", list(Readout))
def test_commonsenseqa_runs_from_files_to_metrics(tmp_path: Path, readout: Readout) -> None:
    folder = generated(tmp_path, 240, 60)
    ids = tmp_path / "facts.json"
    ids.write_text(json.dumps([{"id": f"dev_rand_split{number}"} for number in range(20)]))
    chosen = options(
        questions=QuestionSource.COMMONSENSEQA,
        question_folder=str(folder), target_questions=str(ids),
        readout=readout, steps=2, batch=16, adaptations=[Adaptation.HEAD, Adaptation.FULL],
    )  # fmt: skip
    task, model = build_task([], chosen), tiny("gpt2")
    masks = {
        "original": None,
        "remaining": random_mask(model),
        "random": random_mask(model, seed=1),
    }
    context = FinetuneContext(model, word_tokenizer(), masks, chosen)
    results = run_all(context, masks, task, chosen, tmp_path / "work", lambda run, points: None)
    found = summarize(results, task, chosen)
    assert found["questions"]["target"] == 20
    assert found["questions"]["other"] == 40
    assert found["questions"]["chance"] == pytest.approx(0.2)
    assert {row["adaptation"] for row in found["scores"]} == {"none", "head", "full"}
    assert 0 <= found["metrics"]["head_target_accuracy"] <= 1


def test_questions_about_target_facts_of_the_statements_are_marked() -> None:
    statements = [
        statement("kettle", "stove", Split.TARGET),
        statement("owl", "night", Split.TARGET),
    ]
    statements.append(statement("ferry", "river", Split.CONTROL_TRAIN))
    chosen = options(questions=QuestionSource.COMMONSENSEQA, question_folder=str(FIXTURE))
    task = build_task(statements, chosen)
    targets = [each.fact for each in task.test if each.group is Group.TARGET]
    assert targets == ["kettle|answer|stove"]
    assert len(task.test) == 5
    assert not any(each.group is Group.TARGET for each in task.train + task.validation)


def test_real_questions_of_many_tokens_are_answered() -> None:
    chosen = options(questions=QuestionSource.FILES, question_folder=str(FIXTURE))
    statements = [statement("ferry", "river", Split.TARGET)]
    task, model = build_task(statements, chosen), tiny("llama")
    model.resize_token_embeddings(256)
    model.config.max_position_embeddings = 96
    context = FinetuneContext(model, bytes_tokenizer(), {"original": None}, chosen)
    (encoded,) = context.cache(context.encode(task.test))
    assert len(context.answers("original", {"test": encoded})["test"]) == 4


def test_the_wrong_folder_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: needs train\.jsonl"):
        build_task([], options(questions=QuestionSource.FILES, question_folder="nowhere"))


def test_a_test_without_target_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 4 test questions asks about a target fact"):
        build_task([], options(questions=QuestionSource.FILES, question_folder=str(FIXTURE)))
