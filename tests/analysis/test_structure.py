from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from knowsub.analysis.placement import EMBEDDING, placement, placements, two_sided_p
from knowsub.analysis.structure import (
    concentration,
    gini,
    magnitude_quantiles,
    magnitude_test,
    neuron_concentration,
    structure,
)
from knowsub.architectures import maskable_matrices
from knowsub.masks import ablation
from knowsub.masks.mask import Mask
from tests.analysis.setting import empty_mask, random_mask, tiny_matrices, wide_matrices
from tests.architectures import tiny


@pytest.mark.parametrize(("total", "chosen"), [(40, 4), (393_216, 7_828), (50, 0), (50, 50)])
def test_the_exact_test_agrees_with_scipys_distribution(total: int, chosen: int) -> None:
    draw = np.random.default_rng(0)
    weights = draw.integers(1, total, 60)
    likely = weights * chosen // total
    members = np.clip(
        likely + draw.integers(-60, 60, 60), np.maximum(0, weights + chosen - total),
        np.minimum(weights, chosen),
    )  # fmt: skip
    tails = stats.hypergeom.cdf(members, total, weights, chosen), stats.hypergeom.sf(
        members - 1, total, weights, chosen
    )  # fmt: skip
    expected = np.minimum(2 * np.minimum(*tails), 1.0)
    found = two_sided_p(members, total, weights, chosen)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-15)
    assert chosen in (0, 50) or 0 < np.count_nonzero(found < 0.05) < 60


def test_the_embedding_has_one_name() -> None:
    assert EMBEDDING == ablation.EMBEDDING


def test_the_exact_test_agrees_with_a_hand_computed_table():
    found = placement("module_type", {"q": (10, 3), "mlp": (30, 1)})
    top, bottom = found.groups
    tail = stats.hypergeom(40, 10, 4).sf(2)
    assert (top.name, bottom.name) == ("q", "mlp")
    assert top.p == pytest.approx(2 * tail)
    assert top.p_holm == pytest.approx(min(1.0, 4 * tail))
    assert top.enrichment == pytest.approx(0.3 / 0.1)
    raw = (3 - 1) ** 2 / 1 + (1 - 3) ** 2 / 3
    assert found.chi2 == pytest.approx(raw * 39 / 36)
    assert found.effect == pytest.approx((raw / 4) ** 0.5, rel=0.02)


def test_uniform_masks_give_uniform_p_values():
    matrices, generator = wide_matrices(), torch.Generator().manual_seed(0)
    p_values: dict[str, list[float]] = {}
    for _ in range(200):
        mask = random_mask(matrices, 0.05, generator)
        for found in placements(mask, matrices):
            p_values.setdefault(f"{found.grouping} all", []).append(found.p)
            first = min(found.groups, key=lambda group: group.name)
            p_values.setdefault(f"{found.grouping} first", []).append(first.p)
        last = Mask({matrices[-1].name: mask.bits[matrices[-1].name]}, "m")
        p_values.setdefault("neurons", []).append(neuron_concentration(last, matrices)[0].p)
    assert set(p_values) >= {"block all", "module_type all", "matrix all", "head all", "head first"}
    for name, values in p_values.items():
        assert stats.kstest(values, "uniform").pvalue > 0.005, name


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "opt", "phi3"])
def test_a_mask_within_one_head_is_named_first(kind):
    matrices = tiny_matrices(kind)
    mask = empty_mask(matrices)
    for matrix in matrices:
        if matrix.block == 3 and matrix.module_type == "q":
            mask.bits[matrix.name].select(matrix.axes.index("head"), 2)[:] = True
    heads = next(found for found in placements(mask, matrices) if found.grouping == "head")
    assert heads.groups[0].name == "block 3 head 2"
    assert heads.groups[0].p_holm < 1e-9
    assert heads.groups[1].members == 0


def test_shared_key_value_heads_are_heads_of_their_own():
    matrices = tiny_matrices("llama")
    groupings = {
        found.grouping
        for found in placements(random_mask(matrices, 0.1, torch.Generator()), matrices)
    }
    assert {"head", "kv head"} <= groupings


def test_a_mask_within_one_neuron_is_concentrated_there_only():
    matrices = wide_matrices()
    mask = random_mask(matrices, 0.02, torch.Generator().manual_seed(1))
    mask.bits["blocks.3.mlp_in"][:, 7] = True
    rows = {(row.matrix, row.direction): row for row in neuron_concentration(mask, matrices)}
    hit = rows["blocks.3.mlp_in", "output"]
    assert hit.p_holm < 1e-9
    assert hit.top_share > 2 * hit.top_share_uniform
    assert all(
        row.p_holm > 0.001 for key, row in rows.items() if key != (hit.matrix, hit.direction)
    )


def test_every_part_of_a_head_is_counted_on_its_own() -> None:
    matrices = wide_matrices(16)  # heads of 4 x 16 weights in q and in output
    mask = empty_mask(matrices)
    mask.bits["blocks.3.q"][:8, 2, :] = True
    mask.bits["blocks.3.output"][2, :, 0] = True
    groupings = {each.grouping: each for each in placements(mask, matrices)}
    parts = {g.name: (g.members, g.weights) for g in groupings["head part"].groups}
    assert len(parts) == 2 * 4 * 2  # blocks, heads, q and output
    assert parts["block 3 head 2 q"] == (32, 64)
    assert parts["block 3 head 2 output"] == (4, 64)
    assert sum(members for members, _ in parts.values()) == 36
    heads = {g.name: (g.members, g.weights) for g in groupings["head"].groups}
    assert heads["block 3 head 2"] == (36, 128)


def test_a_neuron_is_dead_where_all_its_weights_are_removed_and_not_where_one_stays() -> None:
    matrices = wide_matrices(16)
    mask = empty_mask(matrices)
    mask.bits["blocks.3.mlp_in"][:, 5:8] = True  # three neurons are no longer written to
    mask.bits["blocks.3.mlp_in"][0, 7] = False
    mask.bits["blocks.3.q"][4] = True  # one is no longer read from
    rows = neuron_concentration(mask, matrices)
    dead = {(row.matrix, row.direction): (row.dead, row.neurons) for row in rows if row.dead}
    assert dead == {("blocks.3.mlp_in", "output"): (2, 64), ("blocks.3.q", "input"): (1, 16)}
    for bits in mask.bits.values():
        bits[:] = True
    assert all(row.dead == row.neurons for row in neuron_concentration(mask, matrices))


def test_empty_and_full_masks_are_described_without_a_division_by_zero():
    matrices = wide_matrices(16)
    full = empty_mask(matrices)
    for bits in full.bits.values():
        bits[:] = True
    for mask in (empty_mask(matrices), full):
        found = structure(mask, matrices)
        assert all(each["p"] == 1.0 for each in found["groupings"].values())
        assert all(row["gini"] == 0 for row in found["neurons"])


def test_a_matrix_that_the_model_lacks_is_refused():
    mask = random_mask(wide_matrices(), 0.1, torch.Generator())
    with pytest.raises(ValueError, match=r"matrix 'blocks\.2\.mlp_in', which the model lacks"):
        structure(mask, wide_matrices()[:2])


def test_the_gini_coefficient_is_0_when_even_and_1_in_the_limit():
    assert gini(np.array([3, 3, 3])) == pytest.approx(0)
    assert gini(np.array([0] * 999 + [5])) == pytest.approx(0.999)
    assert gini(np.array([1, 3])) == pytest.approx(0.25)


def test_expectations_under_uniform_placement_are_what_draws_give_on_average():
    generator = np.random.default_rng(0)
    neurons, size, chosen = 200, 50, 400
    draws = generator.multivariate_hypergeometric([size] * neurons, chosen, size=300)
    rows = [concentration("m", "output", row, neurons * size) for row in draws]
    assert np.mean([row.gini for row in rows]) == pytest.approx(rows[0].gini_uniform, rel=0.02)
    tops = [row.top_share for row in rows]
    assert np.mean(tops) == pytest.approx(rows[0].top_share_uniform, rel=0.03)


def test_the_distance_within_a_matrix_is_scipys_two_sample_distance():
    model = tiny("gpt2")
    matrices = maskable_matrices(model)
    mask = random_mask(matrices, 0.2, torch.Generator().manual_seed(0))
    found = magnitude_test(mask, matrices, magnitude_quantiles(model, matrices))
    for matrix in matrices:
        weights = matrix.view(model.get_parameter(matrix.parameter)).detach().abs()
        bits = mask.bits[matrix.name]
        expected = stats.ks_2samp(weights[bits].numpy(), weights[~bits].numpy()).statistic
        assert found.by_matrix[matrix.name] == pytest.approx(expected, abs=1e-6)
    assert found.p > 0.01


def test_a_mask_of_the_largest_weights_is_known_by_their_size():
    model = tiny("llama")
    matrices = maskable_matrices(model)
    quantiles = magnitude_quantiles(model, matrices)
    mask = empty_mask(matrices)
    for name, values in quantiles.items():
        mask.bits[name][values > 0.9] = True
    found = magnitude_test(mask, matrices, quantiles)
    assert found.mean_quantile == pytest.approx(0.95, abs=0.005)
    assert found.ks == pytest.approx(1.0, abs=0.01)
    assert found.p < 1e-9


def test_an_empty_mask_has_no_relation_to_magnitude():
    model = tiny("gpt2")
    matrices = maskable_matrices(model)
    found = magnitude_test(empty_mask(matrices), matrices, magnitude_quantiles(model, matrices))
    assert (found.ks, found.p, found.mean_quantile) == (0.0, 1.0, 0.5)
