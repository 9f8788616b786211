"""Adam's moments in 8 bits against Adam in float32."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from knowsub.discovery.adam import (
    BLOCK,
    CUT,
    SIGNED_TOP,
    UNSIGNED_TOP,
    ByteMoments,
    FloatMoments,
    GateAdam,
    decode,
    encode,
)
from knowsub.masks.gates import UniformNoise

PARTS = [slice(0, 300), slice(300, 556), slice(556, 1000)]
"""Two blocks, one, and two again, the last of them not full."""


def round_trip(values: torch.Tensor, top: int, words: torch.Tensor) -> torch.Tensor:
    scales = torch.zeros(-(-len(values) // BLOCK))
    return decode(encode(values, scales, top, words), scales, top)


@pytest.mark.parametrize("top", [SIGNED_TOP, UNSIGNED_TOP])
def test_eight_codes_halve_a_number_and_the_largest_of_a_block_is_exact(top: int) -> None:
    numbers = decode(torch.arange(top + 1, dtype=torch.int32), torch.tensor([3.0]), top)
    assert numbers[-1] == 3.0
    assert numbers[-9] == 1.5
    assert numbers[-2] == 3.0 * 15 / 16
    assert numbers[0] == pytest.approx(3.0 * 2.0 ** -(top // 8) * 9 / 16 if top % 8 else 0)
    assert all(below < above for below, above in pairwise(numbers.tolist()))


@pytest.mark.parametrize("top", [SIGNED_TOP, UNSIGNED_TOP])
def test_numbers_are_at_most_an_eighth_off_and_right_on_average(top: int) -> None:
    noise = UniformNoise(0)
    values = torch.rand(BLOCK, generator=torch.Generator().manual_seed(0)).add_(1e-3)
    mean = torch.zeros(BLOCK)
    for _ in range(2000):
        drawn = round_trip(values, top, noise.words(BLOCK))
        assert ((drawn - values).abs() <= values / 8).all()
        mean += drawn / 2000
    assert ((mean - values) / values).abs().max() < 0.01


def test_blocks_of_zeros_stay_zeros() -> None:
    words = torch.full((BLOCK,), (1 << CUT) - 1, dtype=torch.int32)
    assert not round_trip(torch.zeros(BLOCK), UNSIGNED_TOP, words).any()


def test_parts_keep_their_numbers_apart_and_a_sign_where_there_is_one() -> None:
    moments = ByteMoments(1000, PARTS, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    mean, square = torch.randn(1000, generator=generator), torch.rand(1000, generator=generator)
    for part in PARTS:
        moments.write(part, mean[part], square[part] + 0.1, UniformNoise(part.start))
    for part in PARTS:
        read_mean, read_square = moments.read(part)
        torch.testing.assert_close(read_mean, mean[part], rtol=1 / 8, atol=1e-3)
        torch.testing.assert_close(read_square, square[part] + 0.1, rtol=1 / 8, atol=0)


def test_moments_take_two_bytes_per_gate_and_eight_per_block() -> None:
    moments = ByteMoments(1000, PARTS, torch.device("cpu"))
    taken = sum(each.numel() * each.element_size() for each in moments.state().values())
    assert taken == 2 * 1000 + 8 * 5


def drift(made: GateAdam, steps: int, scale: torch.Tensor, signal: float) -> torch.Tensor:
    """Return how far logits have moved under noisy gradients of very different sizes."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        grad = (signal + torch.randn(1000, generator=generator)) * scale
        for part in PARTS:
            made.update(part, grad[part], 0.1, UniformNoise((step, part.start)))
        made.advance()
    return made.logits


def test_logits_move_as_with_float32_whatever_the_sizes_of_their_gradients() -> None:
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    scale = torch.logspace(-4, 0, 1000)[order]
    exact = GateAdam(torch.zeros(1000), FloatMoments(1000, torch.device("cpu")))
    short = GateAdam(torch.zeros(1000), ByteMoments(1000, PARTS, torch.device("cpu")))
    expected, moved = drift(exact, 400, scale, -0.3), drift(short, 400, scale, -0.3)
    assert moved.mean().item() == pytest.approx(expected.mean().item(), rel=0.05)
    # all have the same signal, so that this is the correlation of what noise did to them
    assert torch.corrcoef(torch.stack([expected, moved]))[0, 1] > 0.85


def test_adam_in_parts_is_torchs_adam() -> None:
    logits, generator = torch.randn(1000), torch.Generator().manual_seed(0)
    whole = logits.clone()
    made = GateAdam(logits, FloatMoments(1000, torch.device("cpu")))
    adam = torch.optim.Adam([whole], lr=0.1)
    for _ in range(5):
        whole.grad = torch.randn(1000, generator=generator)
        adam.step()
        for part in PARTS:
            made.update(part, whole.grad[part], 0.1, UniformNoise(0))
        made.advance()
    torch.testing.assert_close(logits, whole, rtol=1e-5, atol=1e-6)
