"""The part of `make torture` that is quick: files, parameters, safety, and what a stage says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.torture.damage import checkpoints, damaged, facts, killed_writes, masks
from tests.torture.ground import Ground, Outcome, differences
from tests.torture.page import page, table
from tests.torture.parameters import parameters
from tests.torture.safety import safety


def nothing_lost(*outcomes: Outcome) -> None:
    for outcome in outcomes:
        assert outcome.tried
        assert not outcome.lost, outcome.lost[:5]


@pytest.mark.slow
def test_no_params_yaml_ends_in_more_than_one_line(tmp_path: Path) -> None:
    outcomes = parameters(Ground(tmp_path, seed=7, amount=0.1))
    assert outcomes[0].tried == 100
    nothing_lost(*outcomes)


def test_no_damaged_mask_is_ever_applied(tmp_path: Path) -> None:
    outcome = masks(tmp_path, random.Random(0), 1000)
    assert outcome.tried == 1000
    nothing_lost(outcome)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(tmp_path: Path) -> None:
    nothing_lost(checkpoints(tmp_path, random.Random(0), 60))


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_a_whole_file(tmp_path: Path) -> None:
    nothing_lost(killed_writes(tmp_path, random.Random(0), 5))


def test_damaged_fact_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    nothing_lost(facts(tmp_path, random.Random(0), 300))


def test_no_code_hides_in_what_is_read_and_no_name_leaves_its_folder(tmp_path: Path) -> None:
    nothing_lost(*safety(Ground(tmp_path)))


def test_damage_is_never_the_file_as_it_was() -> None:
    assert b"whole" not in set(damaged(b"whole", random.Random(0), 200))


def test_a_figure_that_differs_is_seen_and_another_commit_is_not(tmp_path: Path) -> None:
    for name, commit, figure in (("a", "0" * 40, "1.5"), ("b", "f" * 40, "1.5"), ("c", "", "1.25")):
        (tmp_path / name / "data" / "report").mkdir(parents=True)
        file = tmp_path / name / "data" / "report" / "summary.json"
        file.write_text(f'{{"commit": "{commit}", "ppl": {figure}}}')
    assert differences(tmp_path / "a", tmp_path / "b") == []
    assert differences(tmp_path / "a", tmp_path / "c") == ["report/summary.json"]


def test_the_page_lists_what_was_lost() -> None:
    found = [Outcome("Kill: all", 3, ["mask differs"]), Outcome("Disk: full", 0, note="skipped")]
    assert "| Kill: all | 3 | 2 | 1 |" in table(found)
    assert "- Kill: all: mask differs" in table(found)
    assert "skipped" in page(found, 60.0)
    assert "does not survive" in page(found, 60.0)
