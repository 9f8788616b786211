"""A small hand-made WordNet for the tests of this room, and where the files lie."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from knowsub.kg.facts import Fact
from knowsub.kg.options import (
    NOUNS,
    Contradictions,
    FactSource,
    OverlapPolicy,
    Paraphrases,
    PrepareOptions,
    RoleAssignment,
    VerbalizeOptions,
)
from knowsub.kg.wordnet import WordNet, load

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests/fixtures/kg"
SAMPLES = ROOT / "../shared/samples/know-subnet"
TREE = ROOT / "../shared/samples/know-subnet-tree"
"""The same files as in `SAMPLES`, under the reference's own names."""
SEVEN = [
    "building.n.01",
    "change.n.01",
    "communication.n.02",
    "location.n.01",
    "magnitude.n.01",
    "representation.n.02",
    "statement.n.01",
]

needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason=f"the reference's files are not at {SAMPLES}"
)

NOUN_ROWS = """
entity.n.01|entity|11||
place.n.01|place|50|entity.n.01|
building.n.01|building edifice|48 2|place.n.01|
house.n.01|house|90|building.n.01 dwelling.n.01|
house.n.02|house firm|7 0|business.n.01|
business.n.01|business|30|entity.n.01|
dwelling.n.01|dwelling|5|place.n.01|
school.n.01|school|40|building.n.01|
temple.n.01|temple|4|building.n.01|
ziggurat.n.01|ziggurat|0|temple.n.01|
pagoda.n.01|pagoda|0|temple.n.01|
shrine.n.01|shrine|1|temple.n.01|
tower_block.n.01|tower_block|0|building.n.01|
farm_building.n.01|farm_building|0|building.n.01|
barn.n.01|barn|3|farm_building.n.01|
minster.n.01|minster|0|temple.n.01|
eiffel_tower.n.01|Eiffel_Tower|0||building.n.01
""".strip()


def write_nouns(path: Path, rows: str = NOUN_ROWS) -> Path:
    """Write a facts table whose fields are separated by bars here."""
    header = "synset\tlemmas\tcounts\thypernyms\tinstance_hypernyms"
    text = "\n".join([header, *rows.replace("|", "\t").split("\n"), ""])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return path


def real_wordnet() -> WordNet:
    """Return the table that comes with the product."""
    return load(ROOT / NOUNS)


def options(**changes: object) -> PrepareOptions:
    """Return the default options of `prepare`, changed."""
    default = PrepareOptions(
        fact_source=FactSource.wordnet,
        source_folder="",
        extra_targets=list(SEVEN),
        hypernym_levels=3,
        target_facts=40,
        candidate_facts=0,
        max_object_share=0.3,
        neighborhood_facts=60,
        unseen_entities=100,
        unseen_facts=10,
        control_facts=1185,
        facts_per_object=8,
        max_subject_words=2,
        max_object_words=1,
        validation_share=0.1,
        heldout_share=0.2,
        overlap=OverlapPolicy.refuse,
        contradictions=Contradictions.keep,
        text="embedded",
        text_validation_share=0.05,
        text_test_share=0.1,
        other_text="embedded-other",
        seed=0,
    )
    return replace(default, **changes)  # type: ignore[arg-type]


def verbalize_options(**changes: object) -> VerbalizeOptions:
    """Return the default options of `verbalize`, changed."""
    default = VerbalizeOptions(
        templates="data/raw/templates.yaml",
        role_assignment=RoleAssignment.families,
        paraphrases=Paraphrases.best,
        max_object_tokens=0,
        train_families=["kind", "type", "sort", "form"],
        validation_families=["variety"],
        test_families=["isa", "hyponym", "example"],
        article=True,
        bare=False,
        leading_space=False,
        known_max_nll=0.0,
        known_max_rank=9,
        known_distractors=9,
    )
    return replace(default, **changes)  # type: ignore[arg-type]


def fact(subject: str, answer: str, relation: str = "hypernym") -> Fact:
    """Return a fact whose words are its names."""
    return Fact(subject, relation, answer, subject_words=subject, object_words=answer)
