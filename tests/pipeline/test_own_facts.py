"""The worked example of docs/own-facts.md, from the preset to its prepared facts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import make_clone

COMMAND = (sys.executable, "-c", "from knowsub.cli import app; app()")


@pytest.mark.slow
def test_the_preset_of_the_worked_example_prepares_its_facts(tmp_path: Path) -> None:
    repository = make_clone(tmp_path / "clone")
    written = repository.run(*COMMAND, "preset", "capitals", "--write", "--force")
    assert written.returncode == 0, written.stderr
    assert repository.dvc("repro", "prepare")[-1] == "prepare"
    data = repository.folder / "data/prepare"
    splits = json.loads((data / "counts.json").read_text(encoding="utf-8"))["kg"]["capitals"]
    assert splits["target"] == 8
    assert splits["neighborhood_train"] > 0
    relations = json.loads((data / "templates.json").read_text(encoding="utf-8"))
    assert set(relations) == {"capital", "young", "home", "color", "stands_in"}
