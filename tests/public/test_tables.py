"""Tables as spreadsheets write them, empty ones, and samples of long ones.

Reported as: johnkerl/miller #238 (quotes in tab-separated files), nao1215/filesql #268 (a quote
inside a field is a character), EleutherAI/lm-evaluation-harness #2598 (a limit that takes the first
rows is a biased sample).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from knowsub.kg.build import draw_facts
from knowsub.kg.facts import Fact
from knowsub.kg.options import FactSource, OverlapPolicy, PrepareOptions
from knowsub.kg.readers import read_conceptnet, read_table
from knowsub.kg.sources import collect_facts, draw_summary
from tests.kg.setting import options

HEADER = "subject\trelation\tobject\n"


def table(folder: Path, rows: str, name: str = "t.tsv", header: str = HEADER) -> Path:
    path = folder / name
    path.write_text(header + rows, encoding="utf-8", newline="")
    return path


def own(folder: Path, **changes: object) -> PrepareOptions:
    return options(
        fact_source=FactSource.table, source_folder=str(folder), extra_targets=[], **changes
    )


@pytest.mark.parametrize(
    ("field", "words"),
    [('"tavern"', "tavern"), ('"the ""old"" one"', 'the "old" one'), ('"a\tb"', "a b"),
     ('"two\nlines"', "two lines"), ('5\'9" tall', '5\'9" tall'),
     ('said "hi" loudly', 'said "hi" loudly'),
     ("living_thing", "living thing"), (" spaced  out ", "spaced out")],
)  # fmt: skip
def test_a_field_is_read_as_a_spreadsheet_shows_it(tmp_path: Path, field: str, words: str) -> None:
    (fact,) = read_table(table(tmp_path, f"{field}\thypernym\tplace\r\n")).facts
    assert fact.subject_words == words


def test_a_quote_without_its_end_names_its_row(tmp_path: Path) -> None:
    path = table(tmp_path, 'inn\tr\tplace\n"Hamlet" by him\tr\tplay\n')
    with pytest.raises(ValueError, match=r"t\.tsv:3: .*a field that begins with a quote"):
        read_table(path)


def test_words_of_their_own_column_stay_as_they_are(tmp_path: Path) -> None:
    path = table(tmp_path, "f\tr\tobj_a\tsnake_case\n", header=f"{HEADER[:-1]}\tsubject_words\n")
    (fact,) = read_table(path).facts
    assert (fact.subject_words, fact.object_words) == ("snake_case", "obj a")


def test_conceptnets_terms_become_words(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"sub": "living_thing", "pred": "IsA", "obj": "/c/en/wine_bar/n"}\n')
    (fact,) = read_conceptnet(path).facts
    assert (fact.subject_words, fact.object_words) == ("living thing", "wine bar")


def test_a_sample_does_not_depend_on_the_order_of_the_rows() -> None:
    facts = [Fact(f"s{i}", "r", "o", f"s{i}", "o") for i in range(200)]
    drawn = draw_facts(facts, 40, 0, "target facts")
    assert set(draw_facts(facts[::-1], 40, 0, "target facts")) == set(drawn)
    assert drawn != tuple(facts[:40])
    assert set(draw_facts(facts, 40, 1, "target facts")) != set(drawn), "the seed counts"
    assert set(draw_facts(facts, 20, 0, "target facts")) < set(drawn), "smaller ones are nested"
    assert draw_facts(facts, 300, 0, "target facts") == tuple(facts)


def test_a_target_that_is_a_sample_is_drawn_and_says_of_how_many(tmp_path: Path) -> None:
    table(tmp_path, "".join(f"s{i}\thypernym\to{i % 7}\n" for i in range(100)))
    table(tmp_path, "".join(f"c{i}\tUsedFor\tp{i % 7}\n" for i in range(60)), "control.tsv")
    chosen = own(tmp_path, target_facts=40)
    facts = collect_facts(["t"], chosen)
    assert {fact.subject for fact in facts.targets["t"]} != {f"s{i}" for i in range(40)}
    assert draw_summary(facts, ["t"], chosen) == ["t: 40 of 100 facts (drawn by hash)"]


def test_a_target_that_two_files_spell_in_two_ways_is_one_targets(tmp_path: Path) -> None:
    table(tmp_path, "café\tr\tbar\ninn\tr\tbar\npub\tr\tbar\n", "a.tsv")
    table(tmp_path, "cafe\u0301\tr\tbar\noak\tr\ttree\nelm\tr\ttree\n", "b.tsv")
    table(tmp_path, "".join(f"c{i}\tUsedFor\tp{i % 7}\n" for i in range(60)), "control.tsv")
    facts = collect_facts(["a", "b"], own(tmp_path))
    assert [fact.subject for fact in facts.targets["b"]] == ["oak", "elm"]


@pytest.mark.parametrize("policy", list(OverlapPolicy))
def test_an_empty_control_file_is_named_as_such(tmp_path: Path, policy: OverlapPolicy) -> None:
    table(tmp_path, "inn\tr\tbar\npub\tr\tbar\n")
    table(tmp_path, "", "control.tsv")
    with pytest.raises(ValueError, match="its control files hold no fact"):
        collect_facts(["t"], own(tmp_path, overlap=policy))
