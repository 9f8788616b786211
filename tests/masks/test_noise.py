from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from knowsub.masks.gates import UniformNoise


class Bits(np.random.SFC64):
    """A source whose bits are known."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        super().__init__(0)
        self.words = words

    def random_raw(self, size: int, output: bool = True) -> NDArray[np.uint64]:
        return self.words[:size]


def test_the_noise_is_uniform_from_end_to_end() -> None:
    drawn = UniformNoise(3).uniform(200_000)
    assert drawn.dtype == torch.float32
    assert 0 < drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1
    assert stats.kstest(drawn.double().numpy(), "uniform").pvalue > 0.001
    pairs = torch.stack([drawn[:-1], drawn[1:]]).double()
    assert abs(float(pairs.corrcoef()[0, 1])) < 0.01


def test_the_noise_is_never_at_an_end_whatever_the_bits() -> None:
    noise = UniformNoise(0)
    noise._source = Bits(np.array([-(2**31), -1, 0, 2**31 - 1], np.int32).view(np.uint64))
    drawn = noise.uniform(4)
    assert drawn[0] == 2.0**-23
    assert drawn[1] == drawn[2] == 0.5
    assert drawn[3] == 1 - 2.0**-23


def test_a_seed_gives_one_stream_and_another_seed_another() -> None:
    assert torch.equal(UniformNoise(1).uniform(10), UniformNoise(1).uniform(10))
    assert not torch.equal(UniformNoise(1).uniform(10), UniformNoise(2).uniform(10))


@pytest.mark.parametrize("count", [10, 11])
def test_drawn_in_pieces_it_is_what_is_drawn_at_once(count: int) -> None:
    pieces = UniformNoise(5)
    drawn = torch.cat([pieces.uniform(4), pieces.uniform(count - 4)])
    assert torch.equal(drawn, UniformNoise(5).uniform(count))


def test_a_stream_goes_on_where_another_stood() -> None:
    first, second = UniformNoise(7), UniformNoise(8)
    first.uniform(100)
    second.set_state(first.get_state())
    assert torch.equal(first.uniform(9), second.uniform(9))
