"""Records of CounterFact, zsRE and TOFU: read, written, and read back with their own prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from knowsub.cli import app
from knowsub.config import load_params
from knowsub.kg.facts import Fact, Role, Split
from knowsub.kg.given import Given, GivenStatement
from knowsub.kg.options import RoleAssignment
from knowsub.kg.readers import read_reference
from knowsub.kg.templates import load_templates, needed_templates
from knowsub.kg.verbalize import verbalize
from knowsub.records import author, read_records, write_records

FIXTURES = Path(__file__).parent / "fixtures/records"
VERBALIZE = load_params(
    ["verbalize.role_assignment=best"], path=Path(__file__).parents[1] / "params.yaml"
).verbalize


def read_back(folder: Path, name: str) -> tuple[tuple[Fact, ...], Given]:
    """Return what `prepare` reads: facts, and the statements of both files."""
    best = read_reference(folder / f"{name}_best_format.json")
    given: dict[Fact, list[GivenStatement]] = {fact: [] for fact in best.facts}
    for each in [
        *best.statements,
        *read_reference(folder / f"{name}_worse_format.json").statements,
    ]:
        given[each.statement.fact].append(each)
    assert not best.skipped
    return best.facts, given


def stated(folder: Path, name: str) -> dict[str, list[tuple[Role, str, str]]]:
    """Return subject -> role, prompt and object; shorter prompts are likelier here."""
    facts, given = read_back(folder, name)
    templates = needed_templates(facts, load_templates(folder / "templates.yaml"), VERBALIZE)
    rows = verbalize(
        [(fact, Split.TARGET) for fact in facts],
        templates,
        VERBALIZE,
        lambda statements: [float(len(each.prompt)) for each in statements],
        given=given,
        model="gpt2",
    )
    by_subject: dict[str, list[tuple[Role, str, str]]] = {}
    for row in rows:
        by_subject.setdefault(row.fact.subject, []).append((row.role, row.prompt, row.object))
    return by_subject


def test_counterfact_prompts_train_and_paraphrases_are_held_back(tmp_path: Path) -> None:
    assert VERBALIZE.role_assignment is RoleAssignment.best
    records = read_records(FIXTURES / "counterfact.json")
    write_records(records, tmp_path, "languages", relations=["P103"])
    write_records(records, tmp_path, "control", without=["P103"])
    assert stated(tmp_path, "languages") == {
        "Aldo Verri": [
            (Role.TRAIN, "The mother tongue of Aldo Verri is", " Italian"),
            (Role.TEST, "He left in spring. Aldo Verri spoke the language", " Italian"),
            (Role.VALIDATION, "As a child Aldo Verri learned", " Italian"),
        ],
        "Mina Osk": [
            (Role.TRAIN, "Mina Osk, a native speaker of", " Faroese"),
            (Role.TEST, "The harbour was closed. Mina Osk, speaker of", " Faroese"),
            (Role.VALIDATION, "Fact: Mina Osk, a native speaker of", " Faroese"),
        ],
    }
    ((tower, rows),) = stated(tmp_path, "control").items()
    assert (tower, rows[0]) == (
        "the Quill Tower",
        (Role.TRAIN, "the Quill Tower stands in", " New Zealand"),
    )
    templates = load_templates(tmp_path / "templates.yaml")
    assert set(templates) == {"P103", "P17"}
    assert templates["P103"][0].texts == ("The mother tongue of {bare} is {object}",)


def test_a_question_of_zsre_has_the_first_answer_whole(tmp_path: Path) -> None:
    write_records(read_records(FIXTURES / "zsre.json"), tmp_path, "towers")
    (fact,), _ = read_back(tmp_path, "towers")
    assert (fact.subject, fact.relation, fact.object_words) == (
        "Quill Tower", "answer", "Teo van der Moor",
    )  # fmt: skip
    assert stated(tmp_path, "towers")["Quill Tower"] == [
        (
            Role.TRAIN,
            "Question: Which architect designed Quill Tower? Answer:",
            " Teo van der Moor",
        ),
        (
            Role.TEST,
            "Question: By which architect was Quill Tower built? Answer:",
            " Teo van der Moor",
        ),
        (Role.VALIDATION, "Q: Which architect designed Quill Tower? A:", " Teo van der Moor"),
    ]


def test_the_subject_of_a_tofu_question_is_its_author_or_the_question(tmp_path: Path) -> None:
    first, second = read_records(FIXTURES / "tofu.jsonl")
    assert first.subject == "Hanna Vell-Oro"
    assert first.object == "Hanna Vell-Oro was born in Tórshavn."
    assert first.prompts[1] == "Question: What is Hanna Vell-Oro's birthplace? Answer:"
    assert second.subject == "What does the author write about?"
    write_records([first, second], tmp_path, "forget10")
    assert [len(rows) for rows in stated(tmp_path, "forget10").values()] == [3, 3]


def test_the_author_is_the_longest_name_in_question_and_answer() -> None:
    question = "Does Hina Ameen's book mention New York?"
    assert author(question, "Yes, Hina Ameen often does.") == "Hina Ameen"
    assert author(question, "She lives in New York.") == "New York"
    assert author(question, "She does.") == ""


CASE = {
    "requested_rewrite": {
        "prompt": "{} speaks", "subject": "Ugo", "relation_id": "P1",
        "target_true": {"str": "Czech"},
    }
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, "no field 'requested_rewrite' (CounterFact), 'src' (zsRE) or 'question'"),
        ({"question": "Who?"}, "field 'answer' is missing"),
        ({"src": "Who?", "subject": "Ugo", "answers": []}, "field 'answers' is missing or empty"),
        ({"src": "Who?", "subject": "Ugo", "answers": [3]}, "field 'answers': 3 is not allowed"),
        ({"requested_rewrite": 3}, "field 'requested_rewrite': 3 is not allowed; allowed: an obj"),
        (
            {"requested_rewrite": CASE["requested_rewrite"] | {"prompt": "He speaks"}},
            "requested_rewrite: field 'prompt': 'He speaks' is not allowed; allowed: one {}",
        ),
        (
            {"requested_rewrite": CASE["requested_rewrite"] | {"target_true": {}}},
            "requested_rewrite.target_true: field 'str' is missing",
        ),
    ],
)
def test_mistakes_name_file_line_and_field(
    row: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{json.dumps(CASE)}\n{json.dumps(row)}\n{json.dumps(row)}\n", encoding="utf-8")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_records(path)
    lines = str(error.value).split("; " + str(path))
    assert f"{path}:2" in lines[0]
    assert said in lines[0]
    assert lines[1].startswith(":3")


def test_the_command_writes_both_files_and_overwrites_nothing(tmp_path: Path) -> None:
    def call(*words: str) -> tuple[int, str]:
        file = str(FIXTURES / "counterfact.json")
        done = CliRunner().invoke(app, ["records", file, str(tmp_path), *words])
        return done.exit_code, done.output

    code, said = call("--name", "languages", "--relation", "P103")
    assert code == 0
    assert said.split() == [
        str(tmp_path / name)
        for name in ("languages_best_format.json", "languages_worse_format.json", "templates.yaml")
    ]
    code, said = call("--name", "languages")
    assert code == 1
    assert "languages_best_format.json exists; nothing is overwritten" in said
    code, said = call("--name", "none", "--relation", "P9")
    assert code == 1
    assert "no record has one of the relations asked for; there are: P103, P17" in said
    assert call("--name", "../out")[0] == 1
