"""Which sequences a step learns from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from knowsub.discovery.step import draw_minibatch, near_counts
from tests.discovery.setting import search


def test_facts_and_untold_heads_have_their_shares_of_the_near_statements() -> None:
    made = search(neighborhood_batch=4, unseen_share=0.5)
    for seed in range(20):
        near = draw_minibatch(
            made.data, made.options, torch.Generator().manual_seed(seed)
        ).neighborhood.tolist()
        assert sorted(set(near)) == sorted(near)
        assert sum(row < made.data.n_neighborhood for row in near) == 2
        assert sum(row >= made.data.n_neighborhood for row in near) == 2


@pytest.mark.parametrize(("told", "expected"), [(5, (4, 0)), (0, (0, 4)), (3, (1, 3))])
def test_where_one_kind_is_missing_the_other_takes_its_place(
    told: int, expected: tuple[int, int]
) -> None:
    made = search(neighborhood_batch=4, unseen_share=0.75)
    assert near_counts(replace(made.data, n_neighborhood=told), made.options) == expected


def test_nothing_near_is_drawn_where_there_is_none() -> None:
    made = search()
    bare = replace(made.data, neighborhood=None, n_neighborhood=0)
    assert len(draw_minibatch(bare, made.options, torch.Generator()).neighborhood) == 0
