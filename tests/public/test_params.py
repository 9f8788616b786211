"""What `dvc exp run -S` writes into params.yaml is read as it was meant, and can be edited on.

Reported as: treeverse/dvc #8067 and #4883 (values of -S pass through Hydra's grammar and are
written by ruamel.yaml, which rewrites lists and drops quotes that YAML 1.2 does not need).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from knowsub.cli.presets import applied_lines, apply_presets
from knowsub.config import load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of params.yaml with the presets beside it, in the working directory."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


def test_a_preset_edits_a_file_that_dvc_has_rewritten(params: Path) -> None:
    apply_overrides(params, ["train.lr=0.3"])
    assert "\n- building.n.01\n" in params.read_text(encoding="utf-8"), "DVC rewrites lists"
    result = apply_presets(["paper-gpt2"], write=True, force=True)
    assert result["written"], applied_lines(result)
    written = load_params()
    assert written == load_params(presets=["paper-gpt2"])
    assert "building.n.01" in written.targets
    apply_overrides(params, ["train.lr=0.4"])
    assert load_params().train.lr == 0.4
    assert not apply_presets(["paper-gpt2"], write=False, force=True)["changes"].keys() - {
        "train.lr"
    }


@pytest.mark.parametrize("given", ["2:4", "'2:4'", '"2:4"', "2-4", "'2-4'"])
def test_a_range_of_blocks_is_given_in_any_quoting(params: Path, given: str) -> None:
    apply_overrides(params, [f"train.blocks={given}"])
    assert load_params().train.block_range(4) == range(2, 4)


@pytest.mark.parametrize("blocks", ["4-2", "2-2", "2-", "-4", "2--4", "2:4:6", "24"])
def test_a_range_that_is_none_is_refused(params: Path, blocks: str) -> None:
    with pytest.raises(ValueError, match=r"train\.blocks"):
        load_params([f"train.blocks='{blocks}'"])


@pytest.mark.parametrize(
    ("given", "target"),
    [("no", "no"), ("on", "on"), ("y", "y"), ("2020", "2020"), ("'007'", "007"), ("1-2", "1-2"),
     ("building", "building")],
)  # fmt: skip
def test_a_target_may_be_called_what_yaml_1_1_takes_for_a_truth_value(
    params: Path, given: str, target: str
) -> None:
    own = ["prepare.fact_source=table", "prepare.source_folder=data/raw/mine"]
    apply_overrides(params, [f"targets=[{given}]", *own])
    assert load_params().targets == [target]
    assert load_params([f"targets=[{given}]"]).targets == [target]


def test_a_revision_of_digits_alone_is_text(params: Path) -> None:
    apply_overrides(params, ["pretrain.revision=1234567"])
    assert load_params().pretrain.revision == "1234567"
    apply_overrides(params, ["pretrain.revision='1e10'"])
    assert load_params().pretrain.revision == "1e10"


@pytest.mark.parametrize(
    ("key", "value"), [("train.lr", "no"), ("verbalize.article", "no"), ("seeds", "[010]")]
)
def test_where_no_text_is_wanted_such_values_stay_refused(
    params: Path, key: str, value: str
) -> None:
    text = params.read_text(encoding="utf-8").split("\n")
    section, _, name = key.rpartition(".")
    start = next((i for i, line in enumerate(text) if line.startswith(f"{section}:")), 0)
    start = start if section else 0
    indent = "  " if section else ""
    at = next(i for i in range(start, len(text)) if text[i].startswith(f"{indent}{name}:"))
    text[at] = f"{indent}{name}: {value}"
    params.write_text("\n".join(text), encoding="utf-8")
    with pytest.raises(ValueError, match=f"line {at + 1}: {key}: value"):
        load_params()
