"""Keys of experiments and of checkpoints: the same for the same inputs, and for no others."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from knowsub.config import load_params
from knowsub.discovery.checkpoint import Checkpoints
from knowsub.discovery.trainer import find_subnetwork
from knowsub.provenance import (
    code_commit,
    described,
    flatten,
    main_root,
    parameters_shown,
    run_key,
    stage_key,
)
from tests.discovery.setting import search, validation

ROOT = Path(__file__).parents[1]
ITEM = {"target": "building.n.01", "seed": 0}


def test_the_key_follows_parameters_and_code_but_not_the_machine(tmp_path: Path) -> None:
    code = tmp_path / "knowsub" / "room" / "file.py"
    code.parent.mkdir(parents=True)
    code.write_text("one")
    params = load_params(path=ROOT / "params.yaml")
    key = run_key(params, tmp_path)
    params.machine.threads += 1
    (tmp_path / "knowsub" / "__pycache__").mkdir()
    (tmp_path / "knowsub" / "__pycache__" / "file.pyc").write_text("bytes")
    (tmp_path / "note.txt").write_text("text")
    assert run_key(params, tmp_path) == key
    params.train.steps += 1
    changed = run_key(params, tmp_path)
    code.write_text("two")
    moved = run_key(params, tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages:")
    assert len({key, changed, moved, run_key(params, tmp_path)}) == 4


def test_a_temporary_copy_knows_the_checkout_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1"
    (copy / ".dvc").mkdir(parents=True)
    (copy / "stages").mkdir()
    for place in (copy, copy / "stages", tmp_path):
        monkeypatch.chdir(place)
        assert main_root() == tmp_path.resolve()
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")
    assert main_root() == Path("/elsewhere")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The code of this checkout, without results."""
    for name in ("knowsub", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_of(stage: str) -> list[str]:
    """Return what `dvc.yaml` says that a stage of one mask depends on."""
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"][stage]["deps"]
    return [
        dep.replace("${item.target}", str(ITEM["target"])).replace("${item.seed}", "0")
        for dep in deps
    ]


@pytest.mark.parametrize("stage", ["train", "finetune"])
def test_every_file_that_a_stage_depends_on_changes_the_key_of_its_checkpoints(
    checkout: Path, stage: str
) -> None:
    params = load_params()
    keys = [stage_key(stage, ITEM, params)]
    for name in files_of(stage):
        path = checkout / name
        inside = path / "new" if path.is_dir() or not path.suffix else path
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_bytes(inside.read_bytes() + b"#" if inside.is_file() else b"new")
        keys.append(stage_key(stage, ITEM, params))
    assert len(set(keys)) == len(files_of(stage)) + 1
    assert stage_key(stage, ITEM, load_params()) == keys[-1]


def test_a_changed_byte_of_a_room_that_a_search_only_uses_changes_its_key(checkout: Path) -> None:
    before = stage_key("train", ITEM, load_params())
    path = checkout / "knowsub" / "lm" / "score.py"
    path.write_bytes(path.read_bytes() + b"#")
    assert stage_key("train", ITEM, load_params()) != before


def test_the_key_of_checkpoints_follows_item_and_own_parameters_alone(checkout: Path) -> None:
    params = load_params()
    keys = [
        stage_key("train", ITEM, params),
        stage_key("train", ITEM | {"seed": 1}, params),
        stage_key("train", ITEM | {"target": "location.n.01"}, params),
        stage_key("train", ITEM, load_params(["train.lr=0.1"])),
        stage_key("finetune", ITEM, params),
    ]
    assert len(set(keys)) == len(keys)
    elsewhere = load_params(["finetune.steps=3", "machine.threads=1", "seeds=[0]"])
    assert stage_key("train", ITEM, elsewhere) == keys[0]


class KilledError(Exception):
    pass


def kill_after(step: int) -> Callable[[dict[str, float]], None]:
    def log(metrics: dict[str, float]) -> None:
        if metrics["step"] > step:
            raise KilledError

    return log


def test_a_search_killed_under_another_validation_text_is_begun_anew(checkout: Path) -> None:
    text = checkout / "data" / "prepare" / "text" / "validation.txt"
    text.parent.mkdir(parents=True)

    def store(content: str) -> Checkpoints:
        text.write_text(content)
        key = stage_key("train", ITEM, load_params())
        return Checkpoints(checkout / ".checkpoints" / key[:16], key)

    def judged(by: float) -> Callable[[], dict[str, float]]:
        """Validate on a text on which the ratio is as given."""
        return lambda: validation(made) | {"text_ratio": by}

    made = search()
    fresh = find_subnetwork(made, judged(1.5), lambda metrics: None)
    made = search()
    with pytest.raises(KilledError):
        find_subnetwork(made, judged(1.0), kill_after(4), store("one text"))
    made = search()
    assert store("one text").load() is not None
    again = find_subnetwork(made, judged(1.5), lambda metrics: None, store("another text"))
    assert torch.equal(again.bits, fresh.bits)
    assert (again.chosen, again.curve) == (fresh.chosen, fresh.curve)


def test_parameters_that_change_no_result_are_not_shown() -> None:
    text = "seeds: [0]\nmachine:\n  threads: 2\ntrain:\n  lr: 1\n# end\ntrack:\n  a: b\n"
    assert parameters_shown(text) == "seeds: [0]\ntrain:\n  lr: 1\n# end\n"


def test_the_commit_is_the_last_one_that_changed_the_sources(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    assert code_commit(tmp_path) == "unknown"
    git("init")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    git("add", ".")
    git("commit", "-m", "code")
    first = code_commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", first)
    (tmp_path / "dvc.lock").write_text("results\n")
    git("add", ".")
    git("commit", "-m", "results")
    assert code_commit(tmp_path) == first
    (tmp_path / "params.yaml").write_text("a: 2\n")
    assert code_commit(tmp_path) == f"{first}, changed since"


def test_an_experiment_is_called_by_model_suppression_term_and_targets() -> None:
    values = flatten(load_params(["targets=[building.n.01,location.n.01]"]))
    assert described(values) == "embedded zscore_all building.n.01, location.n.01"
