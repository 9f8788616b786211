from __future__ import annotations

from pathlib import Path

import torch

from knowsub.discovery.checkpoint import Checkpoints


def test_a_checkpoint_of_another_search_is_never_resumed(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").save(4, {"x": torch.zeros(1)}, {})
    assert Checkpoints(tmp_path, "two").load() is None


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, "same")
    for step in (2, 4, 6):
        store.save(step, {"x": torch.tensor([float(step)])}, {"note": step})
    newest = sorted(tmp_path.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-3])
    loaded = store.load()
    assert loaded is not None
    step, tensors, state, parts = loaded
    assert (step, tensors["x"].item(), state, parts) == (4, 4.0, {"note": 4}, {})
    assert len(list(tmp_path.iterdir())) == 2
    store.clear()
    assert not tmp_path.exists()
