"""DVC notices a file or a folder outside the checkout that is replaced in place.

Reported as: treeverse/dvc #764 and #774 (dependencies outside the repository, links to them), #5801
and #8854 (files that git does not track are missing in copies of the checkout).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from knowsub.config import INPUTS
from knowsub.inputs import link_inputs, require_copied


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout, which is the working directory, beside a model."""
    checkout = tmp_path / "checkout"
    (checkout / "data/raw/mine").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("one")
    monkeypatch.chdir(checkout)
    return checkout


def test_what_a_parameter_names_is_linked_and_the_rest_never_changes(here: Path) -> None:
    folder, model = here / "data/check/inputs", here.parent / "model"
    raw = "data/raw/mine"
    link_inputs(folder, {"pretrain.model": str(model), "prepare.source_folder": raw})
    assert (folder / "pretrain.model/config.json").read_text() == "one"
    plain = (folder / "prepare.source_folder").read_text()
    link_inputs(folder, {"pretrain.model": "Qwen/Qwen3-0.6B", "prepare.source_folder": ""})
    assert not (folder / "pretrain.model").is_symlink()
    assert (folder / "pretrain.model").read_text() == plain
    assert (model / "config.json").read_text() == "one", "what was linked stays"


def test_a_relative_path_and_a_file_are_linked_too(here: Path) -> None:
    (here / "own.txt").write_text("text")
    link_inputs(here / "in", {"prepare.text": "own.txt", "finetune.question_folder": "data/raw"})
    assert (here / "in/prepare.text").read_text() == "text"
    assert (here / "in/finetune.question_folder").is_symlink(), "finetune depends on no data/raw"


def test_a_folder_around_the_checkout_is_not_linked(here: Path) -> None:
    link_inputs(here / "in", {"pretrain.model": ".."})
    assert not (here / "in/pretrain.model").is_symlink()


def test_what_is_left_out_of_a_copy_of_the_checkout_is_named(here: Path) -> None:
    copy = here / ".dvc/tmp/exps/tmp1"
    copy.mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match=r"'data/raw/mine' is in .*; `git add data/raw/mine"
    ):
        require_copied("prepare.source_folder", "data/raw/mine", copy)
    for value in ("", "embedded", "data/raw/none", str(here / "data/raw/mine")):
        require_copied("prepare.source_folder", value, copy)
    require_copied("prepare.source_folder", "data/raw/mine", here)


def test_every_parameter_that_may_name_a_path_is_linked() -> None:
    text = (Path(__file__).parents[2] / "dvc.yaml").read_text(encoding="utf-8")
    for key in INPUTS:
        assert text.count(f"data/check/inputs/{key}") >= 2, "an output and a dependency"
