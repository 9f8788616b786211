from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowsub.kg.build import FactSplits, build_kg, check_splits
from knowsub.kg.facts import Role, Split, Statement
from knowsub.kg.folders import check_name, control_files, folder_facts, target_files
from knowsub.kg.given import Given, read_given, write_given
from knowsub.kg.options import (
    Contradictions,
    FactSource,
    OverlapPolicy,
    Paraphrases,
    PrepareOptions,
    RoleAssignment,
)
from knowsub.kg.templates import load_templates
from knowsub.kg.verbalize import verbalize
from tests.kg.setting import (
    FIXTURES,
    ROOT,
    SAMPLES,
    TREE,
    needs_samples,
    options,
    verbalize_options,
)


def read(knowledge: FactSource, source: Path, **changes: object) -> PrepareOptions:
    given = {"fact_source": knowledge, "source_folder": str(source), "extra_targets": [], **changes}
    return options(**given)


def test_a_lama_folder_becomes_fact_splits() -> None:
    chosen = read(FactSource.conceptnet, FIXTURES / "lama", overlap=OverlapPolicy.filter)
    splits = folder_facts(["kettle"], chosen)
    check_splits(splits)
    assert len(splits.targets["kettle"]) == 4
    assert {fact.subject for fact in splits.control} == {"saw", "drill", "lion", "rope"}
    assert {fact.subject for fact in splits.neighborhood["kettle"]} == {"pan", "pot"}
    counts = splits.counts["control"]
    assert counts["shares the same fact with a target"] == 1
    assert counts["read"] == 7


def test_overlap_is_refused_by_default() -> None:
    with pytest.raises(ValueError, match=r"prepare.overlap: 3 control facts.*kettle.AtLocation"):
        folder_facts(["kettle"], read(FactSource.conceptnet, FIXTURES / "lama"))


def test_the_references_files_become_fact_splits() -> None:
    chosen = read(FactSource.reference, FIXTURES / "reference", overlap=OverlapPolicy.filter)
    splits = folder_facts(["pond.n.01"], chosen)
    assert [fact.subject for fact in splits.targets["pond.n.01"]] == [
        "pond.n.01",
        "tidal_pool.n.02",
    ]
    assert [fact.subject for fact in splits.neighborhood["pond.n.01"]] == ["lagoon.n.01"]
    assert len(splits.control) == 3


def test_a_users_table_becomes_fact_splits() -> None:
    splits = folder_facts(["planets", "moons"], read(FactSource.table, FIXTURES / "table"))
    assert {name: len(facts) for name, facts in splits.targets.items()} == {
        "planets": 3,
        "moons": 3,
    }
    rows = build_kg(splits, "planets", 0.25, 0.25, 0)
    assert sum(split == Split.CONTROL_TRAIN for _, split in rows) == 2


def test_a_commonsenseqa_folder_becomes_fact_splits(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "csqa/questions.json", tmp_path / "csqa.json")
    control = [{"head": f"thing{n}", "rel": "IsA", "tail": f"kind{n}"} for n in range(4)]
    (tmp_path / "control_train.json").write_text(json.dumps(control[:2]))
    (tmp_path / "control_val.json").write_text(json.dumps(control[1:]))
    splits = folder_facts(["csqa"], read(FactSource.commonsenseqa, tmp_path))
    assert len(splits.targets["csqa"]) == 3
    assert len(splits.control) == 4


def test_contradictions_are_skipped_on_demand() -> None:
    skip = read(FactSource.table, FIXTURES / "table", contradictions=Contradictions.skip)
    splits = folder_facts(["moons"], skip)
    assert [fact.object for fact in splits.targets["moons"]] == ["Saturn", "Uranus"]
    assert splits.counts["moons"]["contradiction: the subject has another object already"] == 1


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
    splits = folder_facts(["building.n.01", "communication.n.02"], chosen)
    check_splits(splits)
    assert {name: len(facts) for name, facts in splits.targets.items()} == {
        "building.n.01": 11,
        "communication.n.02": 16,
    }
    assert len(splits.control) > 300


BEST = verbalize_options(
    templates="data/raw/templates-paper.yaml",
    role_assignment=RoleAssignment.best,
    paraphrases=Paraphrases.all,
    bare=True,
    leading_space=True,
)


def by_length(wordings: Sequence[Statement]) -> list[float]:
    return [float(len(wording.text)) for wording in wordings]


def stated(splits: FactSplits, target: str, given: Given, model: str = "gpt2") -> list[Statement]:
    """Return a target's statements by the paper's rule; the shortest text is the likeliest."""
    kg = build_kg(splits, target, 0.1, 0.1, 0)
    templates = load_templates(ROOT / BEST.templates)
    return verbalize(kg, templates, BEST, by_length, given=given, model=model)


def carried(splits: FactSplits, folder: Path) -> Given:
    """Return what the sources say of the facts, through the file that `prepare` writes."""
    write_given(folder / "statements.jsonl", splits.given)
    return read_given(folder / "statements.jsonl")


def unaccounted(splits: FactSplits, target: str, entries: int, control_entries: int) -> list[str]:
    """Return the files whose entries are not all a fact of a KG, or counted with a reason."""
    found = []
    for name, expected in ((target, entries), ("control", control_entries)):
        counts = {key: n for key, n in splits.counts[name].items() if "statement" not in key}
        kept = counts.pop("target", 0) + counts.pop("control", 0)
        of_statements = "shares the same statement with a target"
        counts[of_statements] = splits.counts[name].get(of_statements, 0)
        read = counts.pop("read")
        counts.pop("neighborhood", None)
        before = {"duplicate", "the same words as an earlier fact"}
        after = sum(n for key, n in counts.items() if key not in before)
        skipped = sum(n for key, n in counts.items() if key in before)
        if read != kept + after or expected != read + skipped:
            found.append(f"{name}: {expected} entries, {read} read, {kept} kept, {counts}")
    return found


def entry(head: str, tail: str, text: str, **fields: object) -> dict[str, object]:
    return {"head": head, "tail": tail, "best_gpt2_label": text, "gpt2_perp": 9.5, **fields}


def write_reference_tree(folder: Path) -> None:
    """Write files named and laid out as the reference's: WordNet, ConceptNet, CommonsenseQA."""
    things = [("Lion", "cat"), ("Oak", "tree"), ("Rose", "flower"), ("Tulip", "bulb")]
    control = [entry(f"{a.lower()}.n.01", f"{b}.n.01", f"{a} is a type of {b}") for a, b in things]
    relation = [
        entry(a.lower(), b, f"A {a.lower()} is at a {b}", rel="AtLocation") for a, b in things
    ]
    worse = [
        entry("pond.n.01", "lake.n.01", text) | {"gpt2_perp": None}
        for text in ("Pond is a kind of lake", "Pond is a sort of lake", "Pond is a lake")
    ]
    worse.append(entry("pond.n.01", "lake.n.01", "Pond is lake") | {"gpt2_perp": None})
    pond = entry("pond.n.01", "lake.n.01", "A pond is a type of lake")
    pond["best_gpt2-xl_label"] = "Pond is a lake"
    pool = entry("tidal_pool.n.02", "pool.n.01", " Tidal pool is a kind of pool")
    questions = [
        entry("pan", "stove", " A pan is at a stove", rel="AtLocation", id="q1"),
        entry("spoon", "drawer", "A spoon is in a drawer", rel="AtLocation", id="q2"),
        entry("stamp", "letter", " A stamp is on a letter", rel="AtLocation", id="q3"),
    ]
    files = {
        "wordnet/targetkg/Synset('pond.n.01')_best_format.json": [pond, pool],
        "wordnet/targetkg/Synset('pond.n.01')_worse_format.json": worse,
        "wordnet/controlkg/controlkg_train_best_format.json": control[1:],
        "wordnet/controlkg/controlkg_val_best_format.json": control[:2],
        "conceptnet_lama/targetkg/best_format/pan_best_format.json": questions[:2],
        "conceptnet_lama/controlkg_train_best_format.json": relation[:3],
        "conceptnet_lama/controlkg_val_best_format.json": relation[3:],
        "csqa/csqa1_targetkg_best_format.json": questions[:2],
        "csqa/csqa2_targetkg_best_format.json": questions[2:],
        "csqa/csqa_controlkg_best_format_train.json": relation[:3],
        "csqa/csqa_controlkg_best_format_val.json": relation[3:],
    }
    for name, rows in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(rows))


REFERENCE_FOLDERS = [
    (FactSource.reference, "wordnet", "pond.n.01", 2, 5),
    (FactSource.reference, "conceptnet_lama", "pan", 2, 4),
    (FactSource.commonsenseqa, "csqa", "csqa", 3, 4),
]
"""Kind, folder, target, and entries of the target and control files of `write_reference_tree`."""


@pytest.mark.parametrize(("source", "folder", "target", "facts", "control"), REFERENCE_FOLDERS)
def test_the_references_folders_are_read_as_they_are_and_every_fact_is_accounted_for(
    tmp_path: Path, source: FactSource, folder: str, target: str, facts: int, control: int
) -> None:
    write_reference_tree(tmp_path)
    splits = folder_facts([target], read(source, tmp_path / folder))
    check_splits(splits)
    assert unaccounted(splits, target, facts, control) == []
    assert len(splits.targets[target]) == facts
    rows = stated(splits, target, carried(splits, tmp_path))
    assert {row.fact for row in rows} == set(splits.facts)
    trained = {row.fact: row.text for row in rows if row.role is Role.TRAIN}
    said = {
        each.statement.fact: each.statement.text
        for each in splits.given
        if each.model == "gpt2" and each.statement.role is Role.TRAIN
    }
    assert trained == said


def test_the_statement_of_the_model_at_hand_trains_and_the_paraphrases_are_the_losing_families(
    tmp_path: Path,
) -> None:
    write_reference_tree(tmp_path)
    splits = folder_facts(["pond.n.01"], read(FactSource.reference, tmp_path / "wordnet"))
    given, pond = carried(splits, tmp_path), splits.targets["pond.n.01"][0]

    def of_model(model: str) -> dict[Role, set[str]]:
        rows = [row for row in stated(splits, "pond.n.01", given, model) if row.fact == pond]
        return {role: {row.text for row in rows if row.role is role} for role in Role}

    assert of_model("openai-community/gpt2") == {
        Role.TRAIN: {"A pond is a type of lake"},
        Role.VALIDATION: {"Pond is lake"},
        Role.TEST: {"Pond is a lake", "Pond is a kind of lake", "Pond is a sort of lake"},
    }
    assert of_model("/models/gpt2-xl") == {
        Role.TRAIN: {"Pond is a lake"},
        Role.VALIDATION: {"Pond is a kind of lake"},
        Role.TEST: {"A pond is a type of lake", "Pond is a sort of lake"},
    }
    assert of_model("another")[Role.TRAIN] == {"Pond is a lake"}


def test_what_the_reference_sets_apart_for_validation_stays_apart(tmp_path: Path) -> None:
    write_reference_tree(tmp_path)
    splits = folder_facts(["csqa"], read(FactSource.commonsenseqa, tmp_path / "csqa"))
    kg = build_kg(splits, "csqa", 0.5, 0.1, 0)
    assert [fact.subject for fact, split in kg if split is Split.CONTROL_VALIDATION] == ["tulip"]
    (tmp_path / "csqa/csqa_controlkg_best_format_train.json").unlink()
    alone = folder_facts(["csqa"], read(FactSource.commonsenseqa, tmp_path / "csqa"))
    assert alone.validation == ()


def test_a_target_that_two_subfolders_have_is_refused(tmp_path: Path) -> None:
    write_reference_tree(tmp_path)
    folder = tmp_path / "wordnet"
    shutil.copytree(folder / "targetkg", folder / "best_format")
    with pytest.raises(ValueError, match="are one target"):
        target_files(folder, "pond.n.01", FactSource.reference)
    # the folders of the three sources are not mixed
    with pytest.raises(FileNotFoundError, match="has no control file"):
        control_files(tmp_path, FactSource.reference)


def test_every_row_of_a_file_of_ones_own_becomes_a_fact() -> None:
    for source, folder, target, entries, control in (
        (FactSource.table, "table", "planets", 3, 4),
        (FactSource.conceptnet, "lama", "kettle", 5, 7),
    ):
        chosen = read(source, FIXTURES / folder, overlap=OverlapPolicy.filter)
        assert unaccounted(folder_facts([target], chosen), target, entries, control) == []


@needs_samples
@pytest.mark.parametrize(
    ("source", "folder", "target", "facts", "control"),
    [
        (FactSource.reference, "wordnet", "building.n.01", 11, 400),
        (FactSource.reference, "wordnet", "communication.n.02", 16, 400),
        (FactSource.reference, "conceptnet_lama", "fruit", 37, 606),
        (FactSource.commonsenseqa, "csqa", "csqa", 181, 1185),
        (FactSource.commonsenseqa, "csqa", "csqa1", 181, 1185),
    ],
)
def test_every_fact_of_the_samples_under_their_own_names_is_accounted_for(
    tmp_path: Path, source: FactSource, folder: str, target: str, facts: int, control: int
) -> None:
    chosen = read(
        source,
        TREE / folder,
        overlap=OverlapPolicy.filter,
        control_facts=10_000,
        target_facts=10_000,
    )
    splits = folder_facts([target], chosen)
    check_splits(splits)
    assert unaccounted(splits, target, facts, control) == []
    assert len(splits.targets[target]) == facts
    rows = stated(splits, target, carried(splits, tmp_path))
    entries = [
        row
        for path in target_files(TREE / folder, target, source)
        for row in json.loads(path.read_text())
    ]
    trained = [row for row in rows if row.split is Split.TARGET and row.role is Role.TRAIN]
    assert {row.text for row in trained} == {row["best_gpt2_label"] for row in entries}
    assert {row.fact for row in rows} >= {*splits.targets[target], *splits.control}


@needs_samples
def test_the_papers_templates_give_the_references_paraphrases() -> None:
    chosen = read(FactSource.reference, TREE / "wordnet", overlap=OverlapPolicy.filter)
    splits = folder_facts(["building.n.01"], chosen)
    best = {
        each.statement.text
        for each in splits.given
        if each.model == "gpt2" and each.statement.role is Role.TRAIN
    }
    worse = {each.statement.text for each in splits.given if each.statement.role is Role.TEST}
    kg = [(fact, Split.TARGET) for fact in splits.targets["building.n.01"]]
    templates = load_templates(ROOT / BEST.templates)
    rows = verbalize(kg, templates, BEST, lambda wordings: [w.text not in best for w in wordings])
    facts = {row.fact for row in rows}
    of_facts = {
        each.statement.text
        for each in splits.given
        if each.statement.role is Role.TEST and each.statement.fact in facts
    }
    assert {row.text for row in rows if row.role is Role.TRAIN} < best
    assert {row.text for row in rows if row.role is not Role.TRAIN} == of_facts < worse
