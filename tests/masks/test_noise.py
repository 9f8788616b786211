from __future__ import annotations

import pytest
import torch
from scipy import stats

from knowsub.masks.noise import Noise


def test_the_noise_is_uniform_from_end_to_end() -> None:
    drawn = Noise(3).uniform(200_000)
    assert drawn.dtype == torch.float32
    assert 0 <= drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() <= 1
    assert stats.kstest(drawn.double().numpy(), "uniform").pvalue > 0.001
    pairs = torch.stack([drawn[:-1], drawn[1:]]).double()
    assert abs(float(pairs.corrcoef()[0, 1])) < 0.01


def test_a_seed_gives_one_stream_and_another_seed_another() -> None:
    assert torch.equal(Noise(1).uniform(10), Noise(1).uniform(10))
    assert not torch.equal(Noise(1).uniform(10), Noise(2).uniform(10))


@pytest.mark.parametrize("count", [10, 11])
def test_drawn_in_pieces_it_is_what_is_drawn_at_once(count: int) -> None:
    pieces = Noise(5)
    drawn = torch.cat([pieces.uniform(4), pieces.uniform(count - 4)])
    assert torch.equal(drawn, Noise(5).uniform(count))


def test_a_stream_goes_on_where_another_stood() -> None:
    first, second = Noise(7), Noise(8)
    first.uniform(100)
    second.set_state(first.get_state())
    assert torch.equal(first.uniform(9), second.uniform(9))
