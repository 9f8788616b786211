"""A search is not resumed over an input that changed since it was interrupted.

Reported as: NVIDIA-NeMo/RL #2519 (resumed over another data set, samples skipped without a word),
TensorAuto/OpenTau #502 (a changed data set moves the validation split of a resumed run).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from knowsub.config import load_params
from knowsub.discovery.checkpoint import Checkpoints
from knowsub.provenance import stage_key

ROOT = Path(__file__).parents[2]
ITEM = {"target": "building.n.01", "seed": "0"}
INPUTS = [
    "data/prepare/text/validation.txt",
    "data/prepare/text/train.txt",
    "data/pretrain/model.json",
    "data/verbalize/building.n.01.jsonl",
    "data/verbalize/unseen/building.n.01.jsonl",
    "requirements/run.lock",
    "knowsub/lm/score.py",
]


@pytest.mark.parametrize("name", INPUTS)
def test_a_search_killed_under_one_input_begins_anew_under_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text("one", encoding="utf-8")

    def resumed() -> Checkpoints:
        key = stage_key("train", ITEM, load_params())
        return Checkpoints(tmp_path / ".checkpoints" / key[:16], key)

    resumed().save(4, {"logits": torch.zeros(3)}, {"best": None})
    found = resumed().load()
    assert found is not None
    assert found[0] == 4
    path.write_text("two", encoding="utf-8")
    assert resumed().load() is None
    path.write_text("one", encoding="utf-8")
    assert resumed().load() is not None, "the first search goes on"
