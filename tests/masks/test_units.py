from __future__ import annotations

import pytest
import torch

from knowsub.anatomy import ATTENTION, sites
from knowsub.masks.kinds import Unit
from knowsub.masks.patches import Patch
from knowsub.masks.units import lay_out, unit_shape
from tests.architectures import CONFIGS, tiny


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("unit", [Unit.WEIGHT, Unit.INPUT, Unit.OUTPUT, Unit.MATRIX])
def test_gates_cover_every_weight_of_their_site_once(kind: str, unit: Unit) -> None:
    spans = lay_out(sites(tiny(kind)), unit)
    covered = 0
    for span in spans:
        assert span.start == covered
        covered += span.size
        weights, total = torch.ones(span.site.shape), torch.zeros(covered)
        Patch((span,)).add_product(weights, 2 * weights, 1.0, total)
        assert total[: span.start].sum() == 0
        assert total[span.start :].sum() == 2 * span.site.size
        assert span.take(torch.arange(covered)).expand(span.site.shape).shape == span.site.shape


@pytest.mark.parametrize(
    ("part", "unit", "count"),
    [("q", Unit.INPUT, 16), ("q", Unit.OUTPUT, 16), ("output", Unit.INPUT, 16),
     ("mlp_in", Unit.INPUT, 16), ("mlp_in", Unit.OUTPUT, 64), ("mlp_out", Unit.INPUT, 64),
     ("mlp_out", Unit.OUTPUT, 16), ("mlp_out", Unit.MATRIX, 1), ("q", Unit.HEAD, 4)],
)  # fmt: skip
def test_a_site_has_as_many_gates_as_its_layer_has_neurons(
    part: str, unit: Unit, count: int
) -> None:
    (site,) = (site for site in sites(tiny("gpt2"), [3]) if site.part == part)
    size = 1
    for extent in unit_shape(site, unit):
        size *= extent
    assert size == count


def test_a_head_is_one_gate_over_its_queries_keys_values_and_outputs() -> None:
    spans = lay_out(sites(tiny("gpt2"), [2, 3], ATTENTION), Unit.HEAD)
    assert {span.start for span in spans if span.site.block == 2} == {0}
    assert {span.start for span in spans if span.site.block == 3} == {4}


def test_grouped_key_value_heads_have_gates_of_their_own() -> None:
    spans = lay_out(sites(tiny("llama"), [3], ATTENTION), Unit.HEAD)
    starts = {span.site.part.value: (span.start, span.size) for span in spans}
    assert starts == {"q": (0, 4), "k": (4, 2), "v": (4, 2), "output": (0, 4)}


def test_heads_of_an_mlp_are_refused() -> None:
    with pytest.raises(ValueError, match=r"blocks\.2\.mlp_in has no heads"):
        lay_out(sites(tiny("gpt2")), Unit.HEAD)
