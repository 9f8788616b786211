"""The worked example of docs/own-facts.md, from an empty table and the preset to its facts."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.pipeline.conftest import ROOT, make_clone

COMMAND = (sys.executable, "-c", "from knowsub.cli import app; app()")
EXAMPLE = ROOT / "examples/capitals"


def test_the_example_holds_what_the_pipeline_reads() -> None:
    for name in ("capitals.tsv", "control.tsv", "templates.yaml"):
        assert (EXAMPLE / name).resolve() == ROOT / "data/raw/capitals" / name
    preset = EXAMPLE / "preset.yaml"
    assert preset.resolve() == ROOT / "presets/capitals.yaml"
    values = yaml.safe_load(preset.read_text(encoding="utf-8"))
    with (EXAMPLE / "control.tsv").open(encoding="utf-8") as file:
        relations = {row["relation"] for row in csv.DictReader(file, delimiter="\t")}
    templates = yaml.safe_load((EXAMPLE / "templates.yaml").read_text(encoding="utf-8"))
    assert relations | {"capital"} == templates.keys()
    roles = [
        name for key, each in values["verbalize"].items() if "families" in key for name in each
    ]
    assert all(set(roles) <= families.keys() for families in templates.values())


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


@pytest.mark.slow
def test_an_empty_table_is_refused_with_what_it_needs_and_runs_once_filled(tmp_path: Path) -> None:
    repository = make_clone(tmp_path / "clone")
    blocks = re.findall(r"```bash\n(.*?)```", (EXAMPLE / "README.md").read_text("utf-8"), re.DOTALL)
    begin = [line for line in blocks[1].splitlines() if not line.startswith("dvc")]
    done = repository.run("bash", "-ec", "\n".join(begin))
    assert done.returncode == 0, done.stderr
    written = repository.run(*COMMAND, "preset", "mine", "--write", "--force")
    assert written.returncode == 0, written.stderr
    prepare = (sys.executable, "-m", "stages.prepare")
    refused = repository.run(*prepare)
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert "target 'mine' has no fact; a target KG needs at least 2" in refused.stderr
    mine = repository.folder / "data/raw/mine"
    for name, source in {"mine": "capitals", "control": "control"}.items():
        (mine / f"{name}.tsv").write_bytes((EXAMPLE / f"{source}.tsv").read_bytes())
    done = repository.run(*prepare)
    assert done.returncode == 0, done.stderr
