from __future__ import annotations

import pytest
import torch

from knowsub.architectures import ATTENTION, maskable_matrices
from knowsub.masks.options import Granularity
from knowsub.masks.weights import FusedSlice, gate_shape, gate_slices
from tests.architectures import CONFIGS, tiny


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize(
    "unit", [Granularity.WEIGHT, Granularity.INPUT, Granularity.OUTPUT, Granularity.MATRIX]
)
def test_gates_cover_every_weight_of_their_site_once(kind: str, unit: Granularity) -> None:
    spans = gate_slices(maskable_matrices(tiny(kind)), unit)
    covered = 0
    for span in spans:
        assert span.start == covered
        covered += span.size
        weights, total = torch.ones(span.matrix.shape), torch.zeros(covered)
        FusedSlice((span,)).add_product(weights, 2 * weights, 1.0, total)
        assert total[: span.start].sum() == 0
        assert total[span.start :].sum() == 2 * span.matrix.size
        assert span.take(torch.arange(covered)).expand(span.matrix.shape).shape == span.matrix.shape


@pytest.mark.parametrize(
    ("part", "unit", "count"),
    [("q", Granularity.INPUT, 16), ("q", Granularity.OUTPUT, 16), ("output", Granularity.INPUT, 16),
     ("mlp_in", Granularity.INPUT, 16), ("mlp_in", Granularity.OUTPUT, 64), ("mlp_out", Granularity.INPUT, 64),
     ("mlp_out", Granularity.OUTPUT, 16), ("mlp_out", Granularity.MATRIX, 1), ("q", Granularity.HEAD, 4)],
)  # fmt: skip
def test_a_site_has_as_many_gates_as_its_layer_has_neurons(
    part: str, unit: Granularity, count: int
) -> None:
    (site,) = (site for site in maskable_matrices(tiny("gpt2"), [3]) if site.module_type == part)
    size = 1
    for extent in gate_shape(site, unit):
        size *= extent
    assert size == count


def test_a_head_is_one_gate_over_its_queries_keys_values_and_outputs() -> None:
    spans = gate_slices(maskable_matrices(tiny("gpt2"), [2, 3], ATTENTION), Granularity.HEAD)
    assert {span.start for span in spans if span.matrix.block == 2} == {0}
    assert {span.start for span in spans if span.matrix.block == 3} == {4}


def test_grouped_key_value_heads_have_gates_of_their_own() -> None:
    spans = gate_slices(maskable_matrices(tiny("llama"), [3], ATTENTION), Granularity.HEAD)
    starts = {span.matrix.module_type.value: (span.start, span.size) for span in spans}
    assert starts == {"q": (0, 4), "k": (4, 2), "v": (4, 2), "output": (0, 4)}


def test_heads_of_an_mlp_are_refused() -> None:
    with pytest.raises(ValueError, match=r"blocks\.2\.mlp_in has no heads"):
        gate_slices(maskable_matrices(tiny("gpt2")), Granularity.HEAD)
