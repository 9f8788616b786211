from __future__ import annotations

import subprocess
import sys

import pytest

from knowsub.kg.options import FactSource, RoleAssignment
from tests.kg.setting import options, verbalize_options


def test_the_defaults_are_allowed() -> None:
    assert options().levels == 3
    assert verbalize_options().article


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("levels", 0),
        ("levels", 7),
        ("target_facts", 1),
        ("max_object_share", 0.0),
        ("max_object_share", 1.5),
        ("neighborhood_facts", -1),
        ("control_facts", 9),
        ("facts_per_object", 1),
        ("max_subject_words", 0),
        ("max_object_words", 10),
        ("validation_share", 0.0),
        ("heldout_share", 1.0),
        ("text_validation_share", -0.1),
        ("text_test_share", 0.9),
        ("seed", -1),
        ("text", ""),
        ("other_text", ""),
        ("taught", ["building.n.01", "building.n.01"]),
        ("source", "somewhere"),
    ],
)
def test_an_impossible_value_names_its_key_and_what_is_allowed(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{key}: value .* is not allowed; allowed: "):
        options(**{key: value})


def test_files_need_a_source() -> None:
    with pytest.raises(ValueError, match=r"^source: value '' .*the folder of the table files"):
        options(knowledge=FactSource.table)
    assert options(knowledge=FactSource.table, source="facts").source == "facts"


@pytest.mark.parametrize(
    "keys", ["validation_share heldout_share", "text_validation_share text_test_share"]
)
def test_shares_leave_something_to_train_on(keys: str) -> None:
    with pytest.raises(ValueError, match=r"at most 0.9 together"):
        options(**dict.fromkeys(keys.split(), 0.46))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"templates": ""}, "templates"),
        ({"article": False}, "article"),
        ({"train_families": []}, "train_families"),
        ({"validation_families": []}, "validation_families"),
        ({"test_families": []}, "test_families"),
        ({"test_families": ["kind"]}, "families"),
        ({"train_families": ["kind", "kind"]}, "families"),
    ],
)
def test_impossible_verbalisation_is_refused(changes: dict[str, object], key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key}: value .* is not allowed"):
        verbalize_options(**changes)


def test_the_papers_rule_needs_no_families() -> None:
    none = {"train_families": [], "validation_families": [], "test_families": []}
    assert (
        verbalize_options(choice=RoleAssignment.best, **none).role_assignment == RoleAssignment.best
    )


def test_the_room_imports_no_torch() -> None:
    modules = "options files source split universe verbalize wordnet"
    lines = [f"import knowsub.kg.{name}" for name in modules.split()]
    code = "; ".join([*lines, "import sys", "sys.exit('torch' in sys.modules)"])
    subprocess.run([sys.executable, "-c", code], check=True)
