from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from knowsub.artifacts import read_utf8
from knowsub.kg.facts import Fact, Role
from knowsub.kg.given import family_of
from knowsub.kg.readers import (
    CONTRADICTION,
    DUPLICATE,
    OTHER_END,
    RELATIONS,
    SAME_WORDS,
    keep_facts,
    read_commonsenseqa,
    read_conceptnet,
    read_reference,
    read_table,
)
from tests.kg.setting import FIXTURES, SAMPLES, fact, needs_samples


def test_a_table_names_its_columns() -> None:
    parsed = read_table(FIXTURES / "table/planets.tsv")
    assert [(fact.key, fact.object_words) for fact in parsed.facts] == [
        ("Mercury|orbits|Q525", "the Sun"),
        ("Venus|orbits|Q525", "the Sun"),
        ("Io|orbits|Q319", "Jupiter"),
    ]


def test_json_lines_read_alike() -> None:
    parsed = read_table(FIXTURES / "table/moons.jsonl", one_object=True)
    assert [fact.subject_words for fact in parsed.facts] == ["Titan", "the moon Ariel"]
    assert parsed.skipped[0].place.endswith("moons.jsonl:2")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "subject\tobject\nx\ty\n", r"a\.tsv:1: column 'relation' is missing"),
        ("a.tsv", "subject\trelation\tobject\nx\ty\n", r"a\.tsv:2: 2 fields; the header names 3"),
        ("a.tsv", "subject\trelation\tobject\nx\t\tz\n", r"a\.tsv:2: field 'relation': '' is not"),
        (
            "a.tsv",
            "subject\trelation\tobject\tnote\nx\tr\tz\tn\n",
            r"a\.tsv:2: field 'note' is not",
        ),
        ("a.tsv", "", r"a\.tsv:1: column 'subject' is missing"),
        ("a.jsonl", '{"subject": "x", "relation": "r"}', r"a\.jsonl:1: field 'object' is missing"),
        ("a.csv", "head,relation,tail", r"a\.csv: ending '\.csv' is not allowed"),
    ],
)
def test_table_errors_name_file_line_and_field(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name)


FORMER = "head\trelation\ttail\thead_words\ttail_words\nx\tr\tz\t\tthe z\n"


def test_the_former_names_of_the_columns_are_still_read(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(FORMER)
    (tmp_path / "a.jsonl").write_text(
        '{"head": "x", "relation": "r", "tail": "z", "tail_words": "the z"}'
    )
    expected = Fact("x", "r", "z", subject_words="x", object_words="the z")
    assert (
        read_table(tmp_path / "a.tsv").facts
        == read_table(tmp_path / "a.jsonl").facts
        == (expected,)
    )
    (tmp_path / "a.jsonl").write_text('{"head": "x", "subject": "y", "relation": "r", "tail": "z"}')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: field 'subject' is given twice"):
        read_table(tmp_path / "a.jsonl")
    (tmp_path / "a.tsv").write_text("head\tsubject\trelation\ttail\nx\ty\tr\tz\n")
    with pytest.raises(ValueError, match=r"a\.tsv:1: duplicate column 'subject'"):
        read_table(tmp_path / "a.tsv")


def test_windows_line_ends_and_byte_order_marks_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbfsubject\trelation\tobject\r\nx\tr\tz\r\n")
    assert [fact.key for fact in read_table(tmp_path / "a.tsv").facts] == ["x|r|z"]


def test_lama_lines_are_facts() -> None:
    parsed = read_conceptnet(FIXTURES / "lama/kettle.jsonl")
    assert [fact.key for fact in parsed.facts] == [
        "kettle|AtLocation|kitchen",
        "kettle|UsedFor|boil",
        "kettle|AtLocation|stove",
        "tea|MadeOf|leaves",
    ]
    assert parsed.counts == {"read": 4, "duplicate": 1}
    assert parsed.skipped[0].place.endswith("kettle.jsonl:4")


def test_a_second_object_is_left_out_on_demand() -> None:
    parsed = read_conceptnet(FIXTURES / "lama/kettle.jsonl", one_object=True)
    assert [fact.object for fact in parsed.facts] == ["kitchen", "boil", "leaves"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"obj": "a", "pred": "IsA"}', r":1: field 'sub' is missing; the entry has obj, pred"),
        ('{"sub": "a", "pred": "IsA"}', r":1: field 'obj' is missing"),
        ('{"sub": "a", "obj": "b"}', r":1: field 'pred' is missing"),
        ('{"sub": "a", "obj": "b", "pred": "LivesIn"}', r"'LivesIn' is not allowed; .*AtLocation"),
    ],
)
def test_conceptnet_errors_name_file_line_and_field(
    tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=rf"a\.jsonl.*{message}"):
        read_conceptnet(tmp_path / "a.jsonl")


def test_there_are_sixteen_relations() -> None:
    assert len(set(RELATIONS)) == 16


@needs_samples
def test_the_lama_sample_holds_the_facts_of_the_references_file() -> None:
    lama = read_conceptnet(SAMPLES / "conceptnet/fruit.jsonl")
    reference = read_reference(SAMPLES / "conceptnet/fruit_best_format.json")
    assert lama.counts == {"read": 37}
    assert lama.facts == reference.facts


def test_facts_carry_the_questions_behind_them() -> None:
    parsed = read_commonsenseqa(FIXTURES / "csqa/questions.json")
    assert parsed.counts == {"read": 3, "duplicate": 1}
    assert dict(parsed.questions) == {
        "paper clip|AtLocation|desk": ("q1", "q2"),
        "rain|Causes|flood": ("q3",),
        "rain|Causes|puddles": ("q4",),
    }


def test_questions_of_left_out_facts_go_with_them() -> None:
    parsed = read_commonsenseqa(FIXTURES / "csqa/questions.json", one_object=True)
    assert set(parsed.questions) == {fact.key for fact in parsed.facts}
    assert "contradiction" in parsed.skipped[-1].reason


def test_a_missing_relation_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"head": "a", "tail": "b", "id": "q"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: field 'rel' is missing"):
        read_commonsenseqa(tmp_path / "a.jsonl")


@needs_samples
def test_the_sample_has_one_question_per_fact() -> None:
    parsed = read_commonsenseqa(SAMPLES / "csqa/csqa_targetkg_best_format.json")
    assert (len(parsed.facts), parsed.counts["read"]) == (363, 363)
    assert len({name for names in parsed.questions.values() for name in names}) == 363


FOLDER = FIXTURES / "reference"


def test_the_best_file_gives_one_statement_per_fact_and_model() -> None:
    parsed = read_reference(FOLDER / "pond.n.01_best_format.json")
    assert [fact.key for fact in parsed.facts] == [
        "pond.n.01|hypernym|lake.n.01",
        "tidal_pool.n.02|hypernym|pond.n.01",
    ]
    assert [(each.model, each.statement.text) for each in parsed.statements] == [
        ("gpt2", "A pond is a type of lake"),
        ("gpt2-medium", " Pond is a lake"),
        ("gpt2", "Tidal pool is a kind of pond"),
    ]
    pond, _, pool = (each.statement for each in parsed.statements)
    assert (pond.prompt, pond.object, pond.family) == (
        "A pond is a type of",
        " lake",
        "is a type of",
    )
    assert pond.role is Role.TRAIN
    assert pond.nll == pytest.approx(math.log(20.0))
    assert pool.nll == pytest.approx(math.log(5.0))
    assert pool.fact.subject_words == "tidal pool"
    assert pool.family == "is a kind of"


def test_the_paraphrases_are_unseen_statements_of_one_fact() -> None:
    parsed = read_reference(FOLDER / "pond.n.01_worse_format.json")
    assert len(parsed.facts) == 1
    assert [(each.statement.family, each.statement.role) for each in parsed.statements] == [
        ("is a sort of", Role.TEST),
        ("is", Role.TEST),
    ]
    assert parsed.counts == {
        "read": 1,
        "duplicate": 2,
        "the same statement as an earlier one": 1,
        "the statement does not end with the object": 1,
    }


def test_every_entry_is_a_statement_or_a_skip() -> None:
    for path in sorted(FOLDER.glob("*.json")):
        parsed = read_reference(path)
        labels = [key for row in json.loads(path.read_text()) for key in row if "_label" in key]
        skipped = [skip for skip in parsed.skipped if skip.reason != DUPLICATE]
        assert len(parsed.statements) + len(skipped) == len(labels)


@pytest.mark.parametrize(
    ("prompt", "family"),
    [
        ("A pond is a kind of", "is a kind of"),
        (" Pond is an", "is"),
        ("An old pond is a", "An old pond is"),
        ("pond are usually by the", "are usually by the"),
    ],
)
def test_a_family_is_the_wording_between_subject_and_object(prompt: str, family: str) -> None:
    assert family_of(fact("pond", "lake"), prompt) == family


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"head": "pond.n.01"}]')
    with pytest.raises(ValueError, match=r"a\.json \(entry 1\): field 'tail' is missing"):
        read_reference(tmp_path / "a.json")


@needs_samples
@pytest.mark.parametrize(
    ("name", "facts", "statements", "skipped"),
    [
        ("wordnet/building.n.01_best_format.json", 11, 11, 0),
        ("wordnet/building.n.01_worse_format.json", 11, 194, 0),
        ("wordnet/communication.n.02_best_format.json", 16, 16, 0),
        ("wordnet/controlkg_val_best_format.json", 396, 396, 4),
        ("conceptnet/fruit_best_format.json", 37, 37, 0),
        ("conceptnet/controlkg_val_best_format.json", 606, 606, 0),
        ("csqa/csqa_targetkg_best_format.json", 363, 363, 0),
        ("csqa/csqa_controlkg_best_format_val.json", 1185, 1185, 0),
    ],
)
def test_the_reference_files_read_as_they_are(
    name: str, facts: int, statements: int, skipped: int
) -> None:
    parsed = read_reference(SAMPLES / name)
    given = [each.statement for each in parsed.statements if each.model == "gpt2"]
    reasons = [skip.reason for skip in parsed.skipped if skip.reason != OTHER_END]
    assert (len(parsed.facts), len(given), len(reasons)) == (facts, statements, skipped)
    assert all(each.text.endswith(f" {each.fact.object_words}") for each in given)


CAT = fact("cat", "animal", "IsA")
ENTRIES = [
    ("f:1", CAT),
    ("f:2", CAT),
    ("f:3", Fact("cat.n.01", "IsA", "animal.n.01", subject_words="Cat", object_words="animal")),
    ("f:4", fact("cat", "pet", "IsA")),
    ("f:5", fact("cat", "tail", "HasA")),
]


def test_duplicates_and_contradictions_are_distinguished() -> None:
    kept, skipped = keep_facts(ENTRIES, one_object=True)
    assert kept == (CAT, ENTRIES[4][1])
    assert [(skip.place, skip.reason) for skip in skipped] == [
        ("f:2", DUPLICATE),
        ("f:3", SAME_WORDS),
        ("f:4", CONTRADICTION),
    ]
    assert skipped[2].what == "cat IsA pet"


def test_a_second_object_stays_where_it_may() -> None:
    kept, skipped = keep_facts(ENTRIES, one_object=False)
    assert [fact.object for fact in kept] == ["animal", "pet", "tail"]
    assert len(kept) + len(skipped) == len(ENTRIES)


def test_other_encodings_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a\.tsv: not UTF-8 at byte 3"):
        read_utf8(tmp_path / "a.tsv")
    with pytest.raises(FileNotFoundError, match=r"b\.tsv: no such file"):
        read_utf8(tmp_path / "b.tsv")


def test_all_rows_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    wrong = "x\ty\nz\t\tw\n" + "a\n" * 20
    path.write_text("subject\trelation\tobject\ngood\tr\to\n" + wrong)
    with pytest.raises(ValueError, match="mine") as refused:
        read_table(path)
    said = str(refused.value).split("; and ")[0]
    assert said.startswith(f"{path}:3: 2 fields; the header names 3; {path}:4: field 'relation'")
    assert str(refused.value).endswith("; and 10 more")
