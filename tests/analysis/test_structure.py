from __future__ import annotations

import pytest
import torch
from scipy import stats

from knowsub.analysis.structure import neurons, placement, placements, structure
from knowsub.masks.mask import Mask
from tests.analysis.setting import drawn, empty, places, wide_places


def test_the_exact_test_agrees_with_a_hand_computed_table():
    found = placement("part", {"q": (10, 3), "mlp": (30, 1)})
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
    sites, generator = wide_places(), torch.Generator().manual_seed(0)
    seen: dict[str, list[float]] = {}
    for _ in range(200):
        mask = drawn(sites, 0.05, generator)
        for found in placements(mask, sites):
            seen.setdefault(f"{found.level} all", []).append(found.p)
            first = min(found.groups, key=lambda group: group.name)
            seen.setdefault(f"{found.level} first", []).append(first.p)
        last = Mask({sites[-1].name: mask.bits[sites[-1].name]}, "m")
        seen.setdefault("neurons", []).append(neurons(last, sites)[0].p)
    assert set(seen) >= {"block all", "part all", "cell all", "head all", "head first"}
    for name, values in seen.items():
        assert stats.kstest(values, "uniform").pvalue > 0.005, name


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "opt"])
def test_a_mask_within_one_head_is_named_first(kind):
    sites = places(kind)
    mask = empty(sites)
    for site in sites:
        if site.block == 3 and site.module_type == "q":
            mask.bits[site.name].select(site.axes.index("head"), 2)[:] = True
    heads = next(found for found in placements(mask, sites) if found.level == "head")
    assert heads.groups[0].name == "block 3 head 2"
    assert heads.groups[0].p_holm < 1e-9
    assert heads.groups[1].members == 0


def test_shared_key_value_heads_are_heads_of_their_own():
    sites = places("llama")
    levels = {found.level for found in placements(drawn(sites, 0.1, torch.Generator()), sites)}
    assert {"head", "kv head"} <= levels


def test_a_mask_within_one_neuron_is_concentrated_there_only():
    sites = wide_places()
    mask = drawn(sites, 0.02, torch.Generator().manual_seed(1))
    mask.bits["blocks.3.mlp_in"][:, 7] = True
    rows = {(row.site, row.unit): row for row in neurons(mask, sites)}
    hit = rows["blocks.3.mlp_in", "output"]
    assert hit.p_holm < 1e-9
    assert hit.top_share > 2 * hit.top_share_uniform
    assert all(row.p_holm > 0.001 for key, row in rows.items() if key != (hit.site, hit.unit))


def test_empty_and_full_masks_are_described_without_a_division_by_zero():
    sites = wide_places(16)
    full = empty(sites)
    for bits in full.bits.values():
        bits[:] = True
    for mask in (empty(sites), full):
        found = structure(mask, sites)
        assert all(level["p"] == 1.0 for level in found["levels"].values())
        assert all(row["gini"] == 0 for row in found["neurons"])


def test_a_site_that_the_model_lacks_is_refused():
    mask = drawn(wide_places(), 0.1, torch.Generator())
    with pytest.raises(ValueError, match=r"matrix 'blocks\.2\.mlp_in', which the model lacks"):
        structure(mask, wide_places()[:2])
