"""The README says what the program does: its table, its commands, its map."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from knowsub.cli import app
from knowsub.report.metrics import METRIC_SPECS, format_metric
from knowsub.report.tables import BEGIN, END

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def results_table(path: str) -> list[list[str]]:
    """Cells of the first table between the markers of a file."""
    text = (ROOT / path).read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    lines = text.strip().partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("path", ["README.md", "docs/results.md"])
def test_the_results_table_is_the_committed_summary(path: str) -> None:
    masks = json.loads((ROOT / "data/report/summary.json").read_text(encoding="utf-8"))["masks"]
    header, _, *rows = results_table(path)
    names = {spec.label: name for name, spec in METRIC_SPECS.items()}
    for mask, row in zip(masks, rows, strict=False):
        assert row[:2] == [f"`{mask['target']}`", str(mask["seed"])]
        for label, cell in zip(header[2:], row[2:], strict=True):
            if names[label] in mask:
                assert cell.strip("*✗ ") == format_metric(names[label], mask[names[label]]), label
    assert len(rows) == len(masks) + 2, "every mask, the median and the worst"


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert {"repro", "test", "ui", "setup"} <= named
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in named)


def test_every_command_of_the_readme_exists() -> None:
    for command in set(re.findall(r"^knowsub ([a-z]+)", README, re.MULTILINE)):
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command


def test_the_map_names_folders_that_exist() -> None:
    block = next(part for part in README.split("```") if "params.yaml      every" in part)
    for name in re.findall(r"^ *([a-z_/]+/|[a-z]+\.yaml)", block, re.MULTILINE):
        assert (ROOT / name).exists() or (ROOT / "knowsub" / name).exists(), name
