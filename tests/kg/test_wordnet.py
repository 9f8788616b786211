from __future__ import annotations

import gzip
import json
import runpy
import zlib
from pathlib import Path

import pytest

from knowsub.kg.options import NOUNS
from knowsub.kg.wordnet import WordNet, load
from tests.kg.setting import ROOT, SAMPLES, needs_samples, real_wordnet, write_nouns

DATABASE = Path("/usr/share/wordnet")


@pytest.fixture(scope="module")
def nouns() -> WordNet:
    return real_wordnet()


@pytest.fixture
def small(tmp_path: Path) -> WordNet:
    return load(write_nouns(tmp_path / "nouns.tsv.gz"))


@pytest.mark.skipif(not DATABASE.is_dir(), reason=f"no WordNet database at {DATABASE}")
def test_the_table_is_what_its_script_derives_from_the_database() -> None:
    derived = runpy.run_path(str(ROOT / NOUNS.with_name("derive.py")))["derive"](DATABASE)
    shipped = (ROOT / NOUNS).read_bytes()
    assert gzip.decompress(derived) == gzip.decompress(shipped)
    if zlib.ZLIB_RUNTIME_VERSION.startswith("1.2."):  # others compress to other bytes
        assert derived == shipped


def test_the_table_holds_no_time_stamp_and_no_file_name() -> None:
    head = (ROOT / NOUNS).read_bytes()[:10]
    assert head[3] == 0
    assert head[4:8] == b"\0\0\0\0"


def test_the_licence_lies_beside_the_table() -> None:
    assert "Princeton University" in (ROOT / NOUNS).with_name("LICENSE").read_text()


def test_wordnet_has_its_known_synsets(nouns: WordNet) -> None:
    assert len(nouns.synsets) == 82115
    building = nouns.synset("building.n.01")
    assert building.lemmas == ("building", "edifice")
    assert building.hypernyms == ("structure.n.01",)
    assert building.frequency == 48
    assert nouns.synset("physical_entity.n.01").words == "physical entity"


def test_instances_are_marked(nouns: WordNet) -> None:
    paris = nouns.synset("paris.n.01")
    assert paris.hypernyms == ()
    assert "national_capital.n.01" in paris.instance_hypernyms


@needs_samples
@pytest.mark.parametrize("name", ["building.n.01", "communication.n.02"])
def test_three_levels_reach_every_fact_of_the_paper(nouns: WordNet, name: str) -> None:
    rows = json.loads((SAMPLES / f"wordnet/{name}_best_format.json").read_text())
    around = {(fact.subject, fact.object) for fact in nouns.neighborhood(name, 3)}
    assert {(row["head"], row["tail"]) for row in rows} <= around


def test_the_walk_goes_up_and_down_but_not_sideways(small: WordNet) -> None:
    around = small.neighborhood("temple.n.01", 2)
    pairs = {(fact.subject_words, fact.object_words): distance for fact, distance in around.items()}
    assert pairs == {
        ("temple", "building"): 0,
        ("ziggurat", "temple"): 0,
        ("pagoda", "temple"): 0,
        ("shrine", "temple"): 0,
        ("minster", "temple"): 0,
        ("building", "place"): 1,
    }


def test_more_levels_only_add_facts(small: WordNet) -> None:
    fewer, more = (small.neighborhood("building.n.01", levels) for levels in (1, 3))
    assert set(fewer) < set(more)
    assert all(more[fact] == distance for fact, distance in fewer.items())


def test_instances_come_only_when_asked_for(small: WordNet) -> None:
    assert not any(fact.subject == "eiffel_tower.n.01" for fact in small.facts())
    named = small.neighborhood("building.n.01", 1, instances=True)
    assert small.fact("eiffel_tower.n.01", "instance_hypernym", "building.n.01") in named


def test_an_unknown_synset_names_close_ones(nouns: WordNet) -> None:
    with pytest.raises(ValueError, match=r"'building.n.09'.*building.n.01"):
        nouns.neighborhood("building.n.09", 3)
    with pytest.raises(ValueError, match=r"'bilding.n.01'.*building.n.01"):
        nouns.neighborhood("bilding.n.01", 3)


def test_no_level_is_refused(small: WordNet) -> None:
    with pytest.raises(ValueError, match="levels: value 0"):
        small.neighborhood("temple.n.01", 0)


def test_a_synset_knows_its_words_and_parents(tmp_path: Path) -> None:
    rows = "thing.n.01|thing|3||\nbig_thing.n.01|Big_thing giant|2 9|thing.n.01|thing.n.01"
    big = load(write_nouns(tmp_path / "nouns.tsv.gz", rows)).synsets["big_thing.n.01"]
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
        load(write_nouns(tmp_path / "nouns.tsv.gz", rows))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nouns\.tsv\.gz"):
        load(tmp_path / "nouns.tsv.gz")
