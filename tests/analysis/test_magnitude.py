from __future__ import annotations

import pytest
import torch
from scipy import stats

from knowsub.analysis.concentration import magnitude_quantiles, magnitude_test
from knowsub.architectures import maskable_matrices
from tests.analysis.setting import drawn, empty
from tests.architectures import tiny


def test_the_distance_within_a_site_is_scipys_two_sample_distance():
    model = tiny("gpt2")
    places = maskable_matrices(model)
    mask = drawn(places, 0.2, torch.Generator().manual_seed(0))
    found = magnitude_test(mask, places, magnitude_quantiles(model, places))
    for site in places:
        weights = site.view(model.get_parameter(site.parameter)).detach().abs()
        bits = mask.bits[site.name]
        expected = stats.ks_2samp(weights[bits].numpy(), weights[~bits].numpy()).statistic
        assert found.by_site[site.name] == pytest.approx(expected, abs=1e-6)
    assert found.p > 0.01


def test_a_mask_of_the_largest_weights_is_known_by_their_size():
    model = tiny("llama")
    places = maskable_matrices(model)
    quantiles = magnitude_quantiles(model, places)
    mask = empty(places)
    for name, values in quantiles.items():
        mask.bits[name][values > 0.9] = True
    found = magnitude_test(mask, places, quantiles)
    assert found.mean_quantile == pytest.approx(0.95, abs=0.005)
    assert found.ks == pytest.approx(1.0, abs=0.01)
    assert found.p < 1e-9


def test_an_empty_mask_has_no_magnitudes_to_speak_of():
    model = tiny("gpt2")
    places = maskable_matrices(model)
    found = magnitude_test(empty(places), places, magnitude_quantiles(model, places))
    assert (found.ks, found.p, found.mean_quantile) == (0.0, 1.0, 0.5)
