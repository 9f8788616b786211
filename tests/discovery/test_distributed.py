from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from knowsub.discovery.checkpoint import Checkpoints
from knowsub.discovery.distributed import ProcessGroup, init_processes
from knowsub.discovery.trainer import find_subnetwork
from tests.discovery.setting import launched, search, validation

PROGRAM = """
import os, sys
from pathlib import Path
import torch
from knowsub.discovery.checkpoint import Checkpoints
from knowsub.discovery.distributed import init_processes
from knowsub.discovery.trainer import find_subnetwork
from tests.discovery.setting import search, validation

out, last = Path(sys.argv[1]), int(sys.argv[2])
try:
    with init_processes("cpu") as processes:
        made = search(grad_accumulation=2, processes=processes)

        def log(figures):
            if figures["step"] >= last and processes.rank == 1:
                os._exit(3)

        store = Checkpoints(out / "store", "same")
        found = find_subnetwork(made, lambda: validation(made), log, store)
        torch.save((made.gates.logits, found.bits, found.curve), out / f"{processes.rank}.pt")
except ValueError as error:
    sys.exit(f"refused: {error}")
"""


def launch(folder: Path, last: int = 99) -> list[subprocess.CompletedProcess[str]]:
    return launched(PROGRAM, 2, str(folder), str(last))


@pytest.mark.slow
def test_two_processes_find_the_bits_of_one_that_computes_the_same_pieces(tmp_path: Path) -> None:
    alone = search(grad_accumulation=2)
    found = find_subnetwork(alone, lambda: validation(alone))
    assert [done.returncode for done in launch(tmp_path)] == [0, 0]
    for rank in (0, 1):
        logits, bits, curve = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(logits, alone.gates.logits)
        assert torch.equal(bits, found.bits)
        assert curve == found.curve


@pytest.mark.slow
def test_if_one_process_dies_the_other_says_so_and_one_process_goes_on_from_its_checkpoint(
    tmp_path: Path,
) -> None:
    first, second = launch(tmp_path, last=3)
    assert second.returncode == 3
    assert first.returncode == 1
    assert "refused: process 0 of 2: another process of this search has ended" in first.stderr
    whole, resumed = search(grad_accumulation=2), search(grad_accumulation=2)
    expected = find_subnetwork(whole, lambda: validation(whole))
    store = Checkpoints(tmp_path / "store", "same")
    assert store.load() is not None
    found = find_subnetwork(resumed, lambda: validation(resumed), checkpoints=store)
    assert torch.equal(found.bits, expected.bits)
    assert torch.equal(whole.gates.logits, resumed.gates.logits)


def test_microbatches_that_the_processes_cannot_share_are_an_error() -> None:
    ProcessGroup(0, 2).require_shareable(4)
    with pytest.raises(ValueError, match="grad_accumulation: value 3 cannot be shared by 2"):
        ProcessGroup(0, 2).require_shareable(3)


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with init_processes("cpu") as processes:
        assert (processes.rank, processes.count, processes.is_main) == (0, 1, True)
