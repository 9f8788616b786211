from __future__ import annotations

import pytest
import torch

from knowsub.analysis.counts import head_counts, implied_matrices, unit_counts
from knowsub.masks.mask import Mask
from knowsub.masks.options import Granularity
from tests.analysis.setting import drawn, places
from tests.architectures import CONFIGS


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_what_shapes_imply_counts_as_the_model_does(kind):
    sites = places(kind)
    mask = drawn(sites, 0.3, torch.Generator().manual_seed(0))
    implied = implied_matrices(mask)
    assert {site.name for site in implied} == {site.name for site in sites}
    assert head_counts(mask, implied) == head_counts(mask, sites)


def test_every_unit_counts_every_weight_once():
    sites = places("gpt2")
    mask = drawn(sites, 0.3, torch.Generator().manual_seed(0))
    for site in sites:
        members = int(mask.bits[site.name].sum())
        for unit in (Granularity.INPUT, Granularity.OUTPUT, Granularity.MATRIX, Granularity.WEIGHT):
            assert unit_counts(mask.bits[site.name], site, unit).sum() == members
    total = sum(found[2] for found in head_counts(mask, sites).values())
    attention = [site.name for site in sites if "head" in site.axes]
    assert total == sum(int(mask.bits[name].sum()) for name in attention)


def test_a_foreign_site_name_is_refused():
    mask = Mask({"transformer.h.0": torch.zeros(2, 2, dtype=torch.bool)}, "m")
    with pytest.raises(ValueError, match=r"site 'transformer\.h\.0' is not of the form"):
        implied_matrices(mask)
