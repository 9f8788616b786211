"""The worked example of docs/own-facts.md, from the preset to the report, on tiny settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import make_clone

COMMAND = (sys.executable, "-c", "from knowsub.cli import app; app()")


@pytest.mark.slow
def test_own_facts_go_from_the_preset_to_the_report(tmp_path: Path) -> None:
    repository = make_clone(tmp_path / "clone")
    written = repository.run(*COMMAND, "preset", "capitals", "--write", "--force")
    assert written.returncode == 0, written.stderr
    assert repository.dvc("repro", "report")[-1] == "report"
    data = repository.folder / "data"
    lines = (data / "verbalize/capitals.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = {json.loads(line)["prompt"] for line in lines}
    assert "The capital of France is" in prompts
    assert not [prompt for prompt in prompts if " a France" in prompt or prompt.startswith("A Fr")]
    assert (data / "verbalize/unseen/capitals.jsonl").read_text(encoding="utf-8") == ""
    splits = json.loads((data / "prepare/counts.json").read_text())["kg"]["capitals"]
    assert splits["target"] == 8
    assert splits["neighborhood_train"] > 0
    page = (data / "report/report.html").read_text(encoding="utf-8")
    assert "<td>0</td>" in page
    assert "capitals" in page
