from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.kg.build import build_kg, check_splits
from knowsub.kg.facts import Split
from knowsub.kg.options import Contradictions, FactSource, OverlapPolicy, PrepareOptions
from knowsub.kg.sources import check_name, folder_facts
from tests.kg.setting import FIXTURES, SAMPLES, needs_samples, options


def read(knowledge: FactSource, source: Path, **changes: object) -> PrepareOptions:
    given = {"fact_source": knowledge, "source_folder": str(source), "taught": [], **changes}
    return options(**given)


def test_a_lama_folder_becomes_a_world() -> None:
    chosen = read(FactSource.conceptnet, FIXTURES / "lama", overlap=OverlapPolicy.filter)
    world = folder_facts(["kettle"], chosen)
    check_splits(world)
    assert len(world.targets["kettle"]) == 4
    assert {fact.subject for fact in world.control} == {"saw", "drill", "lion", "rope"}
    assert {fact.subject for fact in world.neighborhood["kettle"]} == {"pan", "pot"}
    counts = world.counts["control"]
    assert counts["shares the same fact with a target"] == 1
    assert counts["read"] == 7


def test_overlap_is_refused_by_default() -> None:
    with pytest.raises(ValueError, match=r"prepare.overlap: 3 control facts.*kettle.AtLocation"):
        folder_facts(["kettle"], read(FactSource.conceptnet, FIXTURES / "lama"))


def test_the_references_files_become_a_world() -> None:
    chosen = read(FactSource.reference, FIXTURES / "reference", overlap=OverlapPolicy.filter)
    world = folder_facts(["pond.n.01"], chosen)
    assert [fact.subject for fact in world.targets["pond.n.01"]] == ["pond.n.01", "tidal_pool.n.02"]
    assert [fact.subject for fact in world.neighborhood["pond.n.01"]] == ["lagoon.n.01"]
    assert len(world.control) == 3


def test_a_users_table_becomes_a_world() -> None:
    world = folder_facts(["planets", "moons"], read(FactSource.table, FIXTURES / "table"))
    assert {name: len(facts) for name, facts in world.targets.items()} == {"planets": 3, "moons": 3}
    rows = build_kg(world, "planets", 0.25, 0.25, 0)
    assert sum(split == Split.CONTROL_TRAIN for _, split in rows) == 2


def test_a_commonsenseqa_folder_becomes_a_world(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "csqa/questions.json", tmp_path / "csqa.json")
    control = [{"head": f"thing{n}", "rel": "IsA", "tail": f"kind{n}"} for n in range(4)]
    (tmp_path / "control_train.json").write_text(json.dumps(control[:2]))
    (tmp_path / "control_val.json").write_text(json.dumps(control[1:]))
    world = folder_facts(["csqa"], read(FactSource.commonsenseqa, tmp_path))
    assert len(world.targets["csqa"]) == 3
    assert len(world.control) == 4


def test_contradictions_are_skipped_on_demand() -> None:
    skip = read(FactSource.table, FIXTURES / "table", contradictions=Contradictions.skip)
    world = folder_facts(["moons"], skip)
    assert [fact.object for fact in world.targets["moons"]] == ["Saturn", "Uranus"]
    assert world.counts["moons"]["contradiction: the head has another tail already"] == 1


def test_every_fact_of_a_target_file_is_accounted_for() -> None:
    cut = read(
        FactSource.conceptnet, FIXTURES / "lama", overlap=OverlapPolicy.filter, target_facts=2
    )
    counts = folder_facts(["kettle"], cut).counts["kettle"]
    assert counts["read"] == counts["target"] + counts["beyond the number of facts asked for"] == 4


def test_facts_beyond_the_size_of_a_target_stay_out_of_control() -> None:
    cut = read(
        FactSource.conceptnet, FIXTURES / "lama", overlap=OverlapPolicy.filter, target_facts=2
    )
    world = folder_facts(["kettle"], cut)
    assert "pot" not in {fact.subject for fact in world.control}


@pytest.mark.parametrize("name", ["../kettle", "a/b", "a\\b", "..", ".hidden", "", " ", "control"])
def test_no_target_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(ValueError, match="targets: value"):
        check_name(name)
    with pytest.raises(ValueError, match="targets: value"):
        folder_facts([name], read(FactSource.conceptnet, FIXTURES / "lama"))


@settings(deadline=None)
@given(st.text())
def test_a_checked_name_stays_inside_its_folder(name: str) -> None:
    try:
        check_name(name)
    except ValueError:
        return
    assert (Path("/folder") / f"{name}.tsv").parent == Path("/folder")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"target 'kettles'.*kettles\.jsonl"):
        folder_facts(["kettles"], read(FactSource.conceptnet, FIXTURES / "lama"))
    shutil.copy(FIXTURES / "lama/kettle.jsonl", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no control file; allowed: control\*\.jsonl"):
        folder_facts(["kettle"], read(FactSource.conceptnet, tmp_path))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        folder_facts(["kettle"], read(FactSource.conceptnet, tmp_path / "none"))


@needs_samples
def test_the_references_wordnet_sample_is_usable_as_it_is() -> None:
    chosen = read(FactSource.reference, SAMPLES / "wordnet", overlap=OverlapPolicy.filter)
    world = folder_facts(["building.n.01", "communication.n.02"], chosen)
    check_splits(world)
    assert {name: len(facts) for name, facts in world.targets.items()} == {
        "building.n.01": 11,
        "communication.n.02": 16,
    }
    assert len(world.control) > 300
