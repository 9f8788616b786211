from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from knowsub.analysis.overlap import analyze_overlap, compare, summarize_mask
from knowsub.masks.mask import Mask, jaccard
from tests.analysis.setting import random_mask, wide_matrices


def uneven(matrices, generator):
    """A mask whose density differs from matrix to matrix."""
    return Mask(
        {
            matrix.name: torch.rand(matrix.shape, generator=generator) < 0.02 + 0.02 * index
            for index, matrix in enumerate(matrices)
        },
        "m",
    )


def test_independent_masks_share_what_chance_gives():
    matrices, generator = wide_matrices(), torch.Generator().manual_seed(0)
    pairs = [
        compare(
            summarize_mask(uneven(matrices, generator), matrices, "a", 0),
            summarize_mask(uneven(matrices, generator), matrices, "b", 0),
        )
        for _ in range(200)
    ]
    assert np.mean([pair.ratio for pair in pairs]) == pytest.approx(1, abs=0.02)
    assert all(abs(pair.ratio - 1) < 0.15 for pair in pairs)
    assert stats.kstest([pair.p for pair in pairs], "uniform").pvalue > 0.01
    assert np.mean([pair.z for pair in pairs]) == pytest.approx(0, abs=0.25)
    assert np.mean([pair.neuron_correlation for pair in pairs]) == pytest.approx(0, abs=0.02)


def test_large_independent_masks_share_within_5_percent_of_expectation():
    matrices, generator = wide_matrices(128), torch.Generator().manual_seed(1)
    one, two = (
        summarize_mask(random_mask(matrices, 0.1, generator), matrices, name, 0) for name in "ab"
    )
    assert compare(one, two).ratio == pytest.approx(1, abs=0.05)


def test_a_mask_shares_everything_with_itself():
    matrices = wide_matrices()
    one = summarize_mask(
        random_mask(matrices, 0.05, torch.Generator().manual_seed(0)), matrices, "a", 0
    )
    pair = compare(one, one)
    assert pair.jaccard == pair.overlap_coefficient == 1
    assert pair.p == 0
    assert pair.head_correlation == pytest.approx(1)
    assert pair.neuron_correlation == pytest.approx(1)


def test_the_tail_over_one_matrix_is_scipys_hypergeometric():
    matrices = wide_matrices(16)[:1]
    generator = torch.Generator().manual_seed(3)
    one, two = random_mask(matrices, 0.3, generator), random_mask(matrices, 0.3, generator)
    pair = compare(summarize_mask(one, matrices, "a", 0), summarize_mask(two, matrices, "b", 0))
    law = stats.hypergeom(one.maskable, one.size, two.size)
    assert pair.p == pytest.approx(law.sf(pair.shared - 1))
    assert pair.expected == pytest.approx(law.mean())
    assert pair.z == pytest.approx((pair.shared - law.mean()) / law.std())
    assert pair.jaccard == pytest.approx(jaccard(one, two))


def test_pairs_are_of_three_kinds():
    matrices, generator = wide_matrices(16), torch.Generator().manual_seed(0)
    masks = [("a", 0, "trained"), ("a", 1, "trained"), ("b", 0, "trained"), ("a", 0, "snip"),
             ("a", 0, "wanda")]  # fmt: skip
    summaries = [
        summarize_mask(random_mask(matrices, 0.1, generator), matrices, *mask) for mask in masks
    ]
    rows = analyze_overlap(summaries)["pairs"]
    kinds = {(row["first"], row["second"]): row["kind"] for row in rows}
    assert kinds == {
        ("a-0", "a-1"): "other seed",
        ("a-0", "b-0"): "other target",
        ("a-1", "b-0"): "other target",
        ("a-0", "a-0 snip"): "other method",
        ("a-0", "a-0 wanda"): "other method",
    }
    assert all(row["p_holm"] >= row["p"] for row in rows)


def test_masks_of_two_models_are_not_compared():
    matrices = wide_matrices(16)
    mask = random_mask(matrices, 0.1, torch.Generator())
    other = Mask(mask.bits, "another")
    with pytest.raises(ValueError, match="masks of two models: m and another"):
        compare(summarize_mask(mask, matrices, "a", 0), summarize_mask(other, matrices, "b", 0))
