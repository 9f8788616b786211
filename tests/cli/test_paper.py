"""The paper's presets against the table of `docs/paper.md`, value by value."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from knowsub.cli.presets import _flat
from knowsub.config import compose_values, load_params, read_yaml

ROOT = Path(__file__).parents[2]
LEFT_OUT = {"report", "track", "machine"}
"""Sections that change no mask and no metric."""
ROW = re.compile(r"^\| `(?P<key>[\w.]+)` \| `(?P<value>.+)` \| (?P<whose>\w+) \| (?P<why>.+) \|$")
CHANGED = re.compile(r"^\| `(?P<names>[\w -]+)` \| `(?P<key>[\w.]+)` \| `(?P<value>.+)` \|$")


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def composed(*names: str) -> dict[str, object]:
    """Return every value that presets lead to, those of `params.yaml` included."""
    load_params(presets=names)
    source = read_yaml(Path("params.yaml").read_text("utf-8"), "params.yaml")
    values = _flat(compose_values(source.values, names))
    return {key: each for key, each in values.items() if key.split(".")[0] not in LEFT_OUT}


def lines() -> list[str]:
    return Path("docs/paper.md").read_text("utf-8").splitlines()


def test_every_value_of_the_papers_preset_stands_in_the_table_with_its_source() -> None:
    rows = [found for line in lines() if (found := ROW.match(line))]
    table = {row["key"]: json.loads(row["value"]) for row in rows}
    assert len(table) == len(rows)
    assert table == composed("paper-gpt2")
    assert {row["whose"] for row in rows} == {"paper", "reference", "ours"}


def test_what_the_paper_fixes_is_in_the_preset_and_not_left_to_the_default() -> None:
    given = _flat(compose_values({}, ["paper-gpt2"]))
    fixed = [row["key"] for line in lines() if (row := ROW.match(line)) and row["whose"] != "ours"]
    allowed = {"prepare.fact_source", "prepare.source_folder", "prepare.extra_targets"}
    assert [key for key in fixed if key not in given] == []
    assert allowed <= given.keys()


def test_the_relatives_of_the_papers_preset_change_what_the_table_says() -> None:
    base, table = composed("paper-gpt2"), dict[str, dict[str, object]]()
    for line in lines():
        if row := CHANGED.match(line):
            table.setdefault(row["names"], {})[row["key"]] = json.loads(row["value"])
    for names, changes in table.items():
        assert composed(*names.split()) == base | changes, names
    ablations = {path.stem for path in Path("presets").glob("ablation-*.yaml")}
    assert {name.removeprefix("paper-gpt2 ") for name in table} >= ablations
    assert {"paper-gpt2-xl", "commonsenseqa-paper", "reference-faults"} <= table.keys()


def test_an_ablation_alone_is_the_papers_and_not_the_defaults() -> None:
    paper = composed("paper")
    for path in Path("presets").glob("ablation-*.yaml"):
        changed = {key for key, each in composed(path.stem).items() if paper[key] != each}
        assert changed <= {f"train.{name}" for name in OBJECTIVE}, path.stem
        assert changed, path.stem


OBJECTIVE = (
    "suppression_weight", "control_weight", "text_weight", "expression_weight",
    "sparsity_weight_start", "sparsity_weight_end",
)  # fmt: skip
