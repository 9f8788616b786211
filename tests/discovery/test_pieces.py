"""Steps on pieces of the gates against steps on all gates at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from knowsub.discovery.options import GateMemory, Samples
from knowsub.discovery.trainer import MaskTrainer
from knowsub.masks import gates as gates_module
from knowsub.masks.gates import UniformNoise
from knowsub.masks.options import Estimator, Granularity
from tests.architectures import PACKABLE
from tests.discovery.setting import options, search


class PieceNoise(UniformNoise):
    """The numbers that a search in pieces draws for its pieces, one step after the other."""

    pieces: tuple[tuple[int, int], ...] = ()
    step = -1

    def uniform(self, count: int) -> torch.Tensor:
        self.step += 1
        drawn = torch.zeros(count)
        for start, end in self.pieces:
            drawn[start:end] = UniformNoise(0).at(self.step, start).uniform(end - start)
        return drawn


def pieces(trainer: MaskTrainer) -> tuple[tuple[int, int], ...]:
    parts = [each.slices[0].part for each in trainer.gradient.masked_weights.pieces()]
    return tuple((part.start, part.stop) for part in parts)


CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in PACKABLE),
    ("gpt2", {"estimator": Estimator.HARD_CONCRETE, "temperature": 0.7}),
]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_a_sample_that_is_drawn_twice_gives_the_logits_of_one_that_is_kept_bit_for_bit(
    kind: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = search(kind=kind, attention="sdpa", steps=3, **changes)
    monkeypatch.setattr(gates_module, "CPU_CHUNK", 200)  # several pieces a matrix
    redrawn = search(
        kind=kind, attention="sdpa", steps=3, gate_memory=GateMemory.REDRAWN, **changes
    )
    monkeypatch.undo()
    kept.gradient.single_pass = kept.gradient.in_place = True
    noise = PieceNoise(0)
    noise.pieces = pieces(redrawn)
    kept.noise = noise
    assert len(noise.pieces) > len(redrawn.gates.slices)
    assert sum(end - start for start, end in noise.pieces) == len(kept.gates.logits)
    for _ in range(3):
        one, two = kept.train_step(), redrawn.train_step()
        assert torch.equal(kept.gates.logits, redrawn.gates.logits)
        assert one == pytest.approx(two, rel=1e-6)


def test_in_8_bits_logits_stay_near_those_of_float32() -> None:
    exact, short = (
        search(attention="sdpa", gate_memory=memory, noise_final=1.0, steps=30)
        for memory in (GateMemory.REDRAWN, GateMemory.EIGHT_BIT)
    )
    for _ in range(30):
        exact.train_step()
        short.train_step()
    one, two = exact.gates.logits, short.gates.logits
    assert torch.corrcoef(torch.stack([one, two]))[0, 1] > 0.9
    assert not torch.equal(one, two)


def per_gate(trainer: MaskTrainer) -> float:
    """Return the bytes that a search keeps per gate from one step to the next."""
    kept = [trainer.gates.logits, *trainer.adam.moments.state().values()]
    kept += trainer.gradient.masked_weights.weights.values()
    if (sample := trainer._used_sample) is not None:
        kept += [sample.value, sample.ste_grad]
    return sum(each.numel() * each.element_size() for each in kept) / len(trainer.gates.logits)


@pytest.mark.parametrize(
    ("memory", "expected"),
    [(GateMemory.FULL, 24), (GateMemory.REDRAWN, 16), (GateMemory.EIGHT_BIT, 10)],
)
def test_a_search_keeps_so_many_bytes_per_gate(memory: GateMemory, expected: int) -> None:
    trainer = search(attention="sdpa", gate_memory=memory)
    trainer.train_step()
    blocks = 8 * len(trainer.gates.slices) / len(trainer.gates.logits)
    assert expected <= per_gate(trainer) <= expected + 8 / 256 + blocks


@pytest.mark.parametrize(
    "changes",
    [
        {"grad_accumulation": 2}, {"samples": Samples.PER_TERM}, {"expression_weight": 1.0},
        {"distinction_weight": 1.0}, {"embeddings": True}, {"granularity": Granularity.OUTPUT},
    ],
)  # fmt: skip
def test_options_with_which_a_gradient_arrives_in_parts_are_refused(
    changes: dict[str, Any],
) -> None:
    options(**changes)
    with pytest.raises(ValueError, match=r"train\.gate_memory: value '?8bit'? .*full, or"):
        options(gate_memory=GateMemory.EIGHT_BIT, **changes)


def test_an_attention_that_needs_two_passes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.gate_memory: value '8bit' needs .* one pass"):
        search(attention="eager", gate_memory=GateMemory.EIGHT_BIT)
