from __future__ import annotations

import pytest
import torch

from knowsub.architectures import ModuleType, maskable_matrices
from knowsub.masks.options import Granularity
from knowsub.masks.weights import GateSlice, fuse_slices, gate_slices
from tests.architectures import CONFIGS, tiny


def by_parameter(spans: tuple[GateSlice, ...]) -> dict[str, list[GateSlice]]:
    held: dict[str, list[GateSlice]] = {}
    for span in spans:
        held.setdefault(span.matrix.parameter, []).append(span)
    return held


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize(
    "unit", [Granularity.WEIGHT, Granularity.INPUT, Granularity.OUTPUT, Granularity.MATRIX]
)
@pytest.mark.parametrize("parts", [None, [ModuleType.Q, ModuleType.V], [ModuleType.K]])
def test_patches_pair_every_weight_with_the_gate_of_its_site(
    kind: str, unit: Granularity, parts: list[ModuleType] | None
) -> None:
    model = tiny(kind)
    spans = gate_slices(maskable_matrices(model, parts=parts), unit)
    gates = torch.arange(max(span.start + span.size for span in spans), dtype=torch.float64)
    for name, held in by_parameter(spans).items():
        shape = model.get_parameter(name).shape
        one, other = torch.full(shape, -1.0).double(), torch.full(shape, -1.0).double()
        for span in held:
            span.matrix.view(one).copy_(span.take(gates))
        for patch in fuse_slices(held):
            patch.view(other).copy_(patch.take(gates))
        assert torch.equal(one, other)


def test_fused_matrices_are_multiplied_at_once_where_every_weight_has_its_gate() -> None:
    for kind, unit, parts, expected in (
        ("gpt2", Granularity.WEIGHT, None, 1), ("gpt_neox", Granularity.WEIGHT, None, 1),
        ("gpt2", Granularity.OUTPUT, None, 3), ("gpt2", Granularity.WEIGHT, [ModuleType.Q, ModuleType.K], 2),
        ("llama", Granularity.WEIGHT, None, 1),
    ):  # fmt: skip
        held = by_parameter(gate_slices(maskable_matrices(tiny(kind), parts=parts), unit))
        (first, *_) = held.values()
        assert len(fuse_slices(first)) == expected
