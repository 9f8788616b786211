from __future__ import annotations

import pytest
import torch

from knowsub.anatomy import Part, sites
from knowsub.masks.kinds import Unit
from knowsub.masks.patches import lay_patches
from knowsub.masks.units import UnitSpan, lay_out
from tests.architectures import CONFIGS, tiny


def by_parameter(spans: tuple[UnitSpan, ...]) -> dict[str, list[UnitSpan]]:
    held: dict[str, list[UnitSpan]] = {}
    for span in spans:
        held.setdefault(span.site.parameter, []).append(span)
    return held


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("unit", [Unit.WEIGHT, Unit.INPUT, Unit.OUTPUT, Unit.MATRIX])
@pytest.mark.parametrize("parts", [None, [Part.Q, Part.V], [Part.K]])
def test_patches_pair_every_weight_with_the_gate_of_its_site(
    kind: str, unit: Unit, parts: list[Part] | None
) -> None:
    model = tiny(kind)
    spans = lay_out(sites(model, parts=parts), unit)
    gates = torch.arange(max(span.start + span.size for span in spans), dtype=torch.float64)
    for name, held in by_parameter(spans).items():
        shape = model.get_parameter(name).shape
        one, other = torch.full(shape, -1.0).double(), torch.full(shape, -1.0).double()
        for span in held:
            span.site.view(one).copy_(span.take(gates))
        for patch in lay_patches(held):
            patch.view(other).copy_(patch.take(gates))
        assert torch.equal(one, other)


def test_fused_matrices_are_multiplied_at_once_where_every_weight_has_its_gate() -> None:
    for kind, unit, parts, expected in (
        ("gpt2", Unit.WEIGHT, None, 1), ("gpt_neox", Unit.WEIGHT, None, 1),
        ("gpt2", Unit.OUTPUT, None, 3), ("gpt2", Unit.WEIGHT, [Part.Q, Part.K], 2),
        ("llama", Unit.WEIGHT, None, 1),
    ):  # fmt: skip
        held = by_parameter(lay_out(sites(tiny(kind), parts=parts), unit))
        (first, *_) = held.values()
        assert len(lay_patches(first)) == expected
