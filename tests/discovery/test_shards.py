"""One search whose gates, moments and weights several processes divide, against one process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from knowsub.discovery.checkpoint import Checkpoints
from knowsub.discovery.distributed import ProcessGroup
from knowsub.discovery.options import GateMemory
from knowsub.discovery.trainer import MaskTrainer, SearchResult, find_subnetwork
from tests.discovery.setting import launched, options, search, validation

CASES: dict[str, dict[str, Any]] = {
    "gpt2": {"gate_memory": GateMemory.REDRAWN},
    "llama": {"gate_memory": GateMemory.EIGHT_BIT, "activation_checkpointing": True},
    "phi3": {"gate_memory": GateMemory.EIGHT_BIT, "noise_final": 0.0},
}
PROGRAM = """
import sys
from pathlib import Path
import torch
from knowsub.discovery.distributed import init_processes
from tests.discovery.test_shards import CASES, divided, kept, run

out = Path(sys.argv[1])
with init_processes("cpu") as processes:
    for kind in CASES:
        trainer = divided(kind, processes)
        found = run(trainer)
        logits = processes.gather(trainer.gates.logits).flatten()
        torch.save((logits, found, kept(trainer)), out / f"{kind}-{processes.rank}.pt")
    resumed = divided("gpt2", processes)
    found = run(resumed, out / "store")
    torch.save(found, out / f"resumed-{processes.rank}.pt")
    found = run(divided("llama", processes), out / "stopped", last=int(sys.argv[2]))
    torch.save(found, out / f"stopped-{processes.rank}.pt")
"""


class StoppedError(Exception):
    """A search was ended where a test wants it."""


def divided(kind: str, processes: ProcessGroup | None = None) -> MaskTrainer:
    settings = {"attention": "sdpa", "shards": 4, "target_batch": 4}
    return search(kind=kind, processes=processes, **(settings | CASES[kind]))


def run(trainer: MaskTrainer, store: Path | None = None, last: int = 99) -> SearchResult | None:
    """Search, from a checkpoint and into a store if there is one, to the end or to a step."""

    def log(metrics: dict[str, float]) -> None:
        if metrics["step"] >= last:
            raise StoppedError

    checkpoints = None if store is None else Checkpoints(store, "same")
    try:
        return find_subnetwork(trainer, lambda: validation(trainer), log, checkpoints)
    except StoppedError:
        return None


def kept(trainer: MaskTrainer) -> dict[str, int]:
    """Return the bytes of what a process keeps of the masked blocks from step to step."""
    weights = trainer.gradient.masked_weights
    own = [view for views in weights._views.values() for _, *pair in views for view in pair]
    held = {
        "logits": [trainer.gates.logits],
        "moments": list(trainer.adam.moments.state().values()),
        "weights": own,
    }

    def size(tensor: Tensor) -> int:
        return tensor.numel() * tensor.element_size()

    return {name: sum(map(size, tensors)) for name, tensors in held.items()}


def equal(found: SearchResult | None, expected: SearchResult | None) -> None:
    assert found is not None
    assert expected is not None
    assert torch.equal(found.bits, expected.bits)
    assert found.bits.any()
    assert found.chosen.step == expected.chosen.step
    for own, other in zip(found.curve, expected.curve, strict=True):
        assert own == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_two_and_four_processes_find_the_mask_of_one_each_with_its_share_of_the_memory(
    tmp_path: Path,
) -> None:
    alone = {}
    for kind in CASES:
        trainer = divided(kind)
        alone[kind] = (run(trainer), trainer.gates.logits, kept(trainer))
    # a search that one process left is gone on with by 4 and by 2; what 4 left, by 2 and 1
    for count, last in ((4, 3), (2, 99)):
        (out := tmp_path / str(count)).mkdir()
        assert run(divided("gpt2"), out / "store", last=3) is None
        if count == 2:
            shutil.copytree(tmp_path / "4/stopped", out / "stopped")
        done = launched(PROGRAM, count, str(out), str(last))
        assert [each.returncode for each in done] == [0] * count, done[0].stderr[-2000:]
        for rank in range(count):
            for kind, (expected, logits, bytes_kept) in alone.items():
                path = out / f"{kind}-{rank}.pt"
                own_logits, found, own_kept = torch.load(path, weights_only=False)
                equal(found, expected)
                assert (own_logits - logits).abs().max() < 0.01
                for name, size in bytes_kept.items():
                    assert own_kept[name] == pytest.approx(size / count, rel=0.01), name
            equal(torch.load(out / f"resumed-{rank}.pt", weights_only=False), alone["gpt2"][0])
    equal(torch.load(tmp_path / "2/stopped-0.pt", weights_only=False), alone["llama"][0])
    equal(run(divided("llama"), tmp_path / "4/stopped"), alone["llama"][0])


def test_a_search_in_parts_that_is_stopped_ends_as_one_that_is_not_bit_for_bit(
    tmp_path: Path,
) -> None:
    whole, resumed = divided("llama"), divided("llama")
    expected = run(whole)
    assert run(divided("llama"), tmp_path, last=3) is None
    newest = sorted(tmp_path.glob("step-*.safetensors"))
    assert len(newest) == 1 + 4
    equal(run(resumed, tmp_path), expected)
    assert torch.equal(whole.gates.logits, resumed.gates.logits)


def test_a_checkpoint_without_one_of_its_parts_is_none(tmp_path: Path) -> None:
    assert run(divided("gpt2"), tmp_path, last=5) is None
    store, shards = Checkpoints(tmp_path, "same"), divided("gpt2").gates.shards
    loaded = store.load(shards)
    assert loaded is not None
    assert loaded[0] == 4
    (tmp_path / "step-00000004.part-2.safetensors").write_bytes(b"damaged")
    before = store.load(shards)
    assert before is not None
    assert (before[0], sorted(before[3])) == (2, [0, 1, 2, 3])
    store.clear()
    assert not tmp_path.exists()


def test_parts_without_gate_memory_in_pieces_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.shards: value 4 .* 1, or gate_memory: redrawn"):
        options(shards=4)
