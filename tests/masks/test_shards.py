from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor

from knowsub.architectures import ModuleType, maskable_matrices
from knowsub.discovery.distributed import ProcessGroup
from knowsub.masks.ablation import remaining_weights
from knowsub.masks.gates import Gates, chunks, probability_shares
from knowsub.masks.options import Granularity
from knowsub.masks.shards import Shards, shard_slices
from knowsub.masks.trim import pack_largest
from knowsub.masks.weights import gate_slices
from tests.architectures import CONFIGS, tiny

PARTS = 4


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_gates_in_parts_remove_what_their_mask_says(kind: str) -> None:
    model = tiny(kind)
    gates = Gates(model, maskable_matrices(model), shards=Shards(PARTS, range(PARTS)))
    bits = torch.rand(gates.total, generator=torch.Generator().manual_seed(0)) < 0.3
    mask, masked = gates.to_mask(bits, "tiny", {}), gates.masked_weights(in_pieces=True)
    assert mask.size == int(bits.sum())
    masked.write(bits)
    expected = remaining_weights(model, gates.matrices, mask)
    assert masked.weights.keys() == expected.keys()
    for name, weight in masked.weights.items():
        assert torch.equal(weight, expected[name])


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_process_has_the_gates_of_its_rows_of_every_parameter(kind: str, processes: int) -> None:
    model = tiny(kind)
    matrices = maskable_matrices(model)
    names = dict.fromkeys(each.parameter for each in matrices)
    numbered = {
        name: torch.arange(model.get_parameter(name).numel()).view_as(model.get_parameter(name))
        for name in names
    }
    shapes = {name: own.shape for name, own in numbered.items()}
    whole = gate_slices(matrices, Granularity.WEIGHT)
    expected: dict[str, Tensor] = {}
    for rank in range(processes):
        shards = ProcessGroup(rank, processes).shards(PARTS)
        own, places = shard_slices(whole, shapes, shards)
        count = max(each.start + each.size for each in own)
        flat = torch.full((count * processes,), -1)
        for each in own:
            rows = numbered[each.matrix.parameter].chunk(processes)[rank]
            start = rank * count + each.start
            flat[start : start + each.size] = each.matrix.view(rows).flatten()
        for name, parts in places.items():
            found = torch.cat([flat[part] for part in parts])
            expected[name] = torch.maximum(expected.get(name, found), found)
    for matrix in matrices:
        assert torch.equal(
            expected[matrix.name].view(matrix.shape), matrix.view(numbered[matrix.parameter])
        )


def together(processes: int, logits: Tensor, limit: int) -> list[tuple[Tensor, dict[str, float]]]:
    """Trim logits that several processes, here threads, have parts of."""
    barrier, held = Barrier(processes), [torch.zeros(0)] * processes

    def run(rank: int) -> tuple[Tensor, dict[str, float]]:
        def gather(own: Tensor) -> Tensor:
            held[rank] = own
            barrier.wait()
            found = torch.stack(held)
            barrier.wait()
            return found

        each = PARTS // processes
        shards = Shards(PARTS, range(rank * each, (rank + 1) * each), gather)
        own = logits.chunk(processes)[rank]
        packed = pack_largest(own, limit, chunks(own), shards)
        return packed[:], probability_shares(own, shards)

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(run, range(processes)))


@pytest.mark.parametrize("limit", [0, 1, 7, 20, 33, 60, 80])
def test_trimming_in_several_processes_is_that_in_one(limit: int) -> None:
    generator = torch.Generator().manual_seed(limit)
    logits = torch.randint(-5, 6, (80,), generator=generator).float()  # with many ties
    ((expected, shares),) = together(1, logits, limit)
    assert int(expected.sum()) == min(limit, int((logits > 0).sum()))
    for processes in (2, 4):
        found = together(processes, logits, limit)
        assert torch.equal(torch.cat([bits for bits, _ in found]), expected)
        assert all(own == shares for _, own in found)


def test_parts_that_a_model_or_its_processes_cannot_have_are_an_error() -> None:
    gpt2, phi3 = tiny("gpt2"), tiny("phi3")
    with pytest.raises(ValueError, match=r"train\.shards: value 3 is not .* rows or heads of .*c_"):
        Gates(gpt2, maskable_matrices(gpt2), shards=Shards(3, range(3)))
    with pytest.raises(ValueError, match=r"train\.shards: value 4 .* fused parameter is masked in"):
        Gates(phi3, maskable_matrices(phi3, None, [ModuleType.Q]), shards=Shards(4, range(4)))
    with pytest.raises(ValueError, match=r"train\.shards: value 4 cannot be shared by 3 processes"):
        ProcessGroup(0, 3).shards(4)
    with pytest.raises(ValueError, match=r"train\.target_batch: value 3 .* by 4 .* at least 4"):
        ProcessGroup(0, 4).require_rows(3)
