from __future__ import annotations

import json

import pytest
import torch

from knowsub.architectures import ATTENTION, maskable_matrices
from knowsub.masks.gates import Gates
from knowsub.masks.mask import Mask, random_masks
from knowsub.masks.options import Granularity
from knowsub.masks.units import mask_granularity, matched_random_masks
from knowsub.masks.weights import gate_slices
from tests.architectures import tiny

STRUCTURED = [each for each in Granularity if each is not Granularity.WEIGHT]


def trained_mask(kind: str, granularity: Granularity, share: float = 0.4) -> tuple[Mask, Gates]:
    """A mask as `train` writes it, of some gates of a tiny model."""
    model = tiny(kind)
    attention = granularity is Granularity.HEAD
    matrices = tuple(
        each for each in maskable_matrices(model) if not attention or each.module_type in ATTENTION
    )
    gates = Gates(model, matrices, granularity)
    generator = torch.Generator().manual_seed(7)
    bits = torch.rand(len(gates.logits), generator=generator) < share
    bits[0], bits[-1] = True, False
    meta = {"options": json.dumps({"granularity": granularity})}
    return gates.to_mask(bits, "tiny", meta), gates


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("granularity", STRUCTURED)
def test_random_units_are_whole_and_as_many_as_the_masks(
    kind: str, granularity: Granularity
) -> None:
    mask, gates = trained_mask(kind, granularity)
    drawn = list(matched_random_masks(mask, gates.matrices, 20, torch.Generator().manual_seed(0)))
    assert len(drawn) == 20
    kinds = {each.name: (each.module_type, each.shape) for each in gates.matrices}
    for one in drawn:
        assert list(one.bits) == list(mask.bits)
        if granularity is Granularity.MATRIX:
            for wanted in set(kinds.values()):
                names = [name for name, each in kinds.items() if each == wanted]
                assert sum(one.counts()[n] for n in names) == sum(mask.counts()[n] for n in names)
        else:
            assert one.counts() == mask.counts()
        for each in gate_slices(gates.matrices, granularity):
            shared = [axis for axis, size in enumerate(each.shape) if size == 1]
            bits = one.bits[each.matrix.name]
            assert torch.equal(bits.amin(dim=shared), bits.amax(dim=shared))
    others = [n for one in drawn for n in mask.bits if not torch.equal(one.bits[n], mask.bits[n])]
    assert others


def test_a_random_head_is_the_same_in_all_matrices_of_its_block() -> None:
    mask, gates = trained_mask("gpt2", Granularity.HEAD)
    for one in matched_random_masks(mask, gates.matrices, 5, torch.Generator().manual_seed(1)):
        by_start: dict[tuple[int, int], set[tuple[bool, ...]]] = {}
        for each in gate_slices(gates.matrices, Granularity.HEAD):
            shared = [axis for axis, size in enumerate(each.shape) if size == 1]
            heads = one.bits[each.matrix.name].amax(dim=shared).tolist()
            by_start.setdefault((each.start, each.size), set()).add(tuple(heads))
        assert all(len(chosen) == 1 for chosen in by_start.values())


def test_every_unit_is_as_likely() -> None:
    mask, gates = trained_mask("gpt2", Granularity.INPUT, share=0.25)
    each = gate_slices(gates.matrices, Granularity.INPUT)[0]
    shared = [axis for axis, size in enumerate(each.shape) if size == 1]
    name, total = each.matrix.name, torch.zeros(each.size)
    for one in matched_random_masks(mask, gates.matrices, 400, torch.Generator().manual_seed(0)):
        total += one.bits[name].amax(dim=shared).flatten()
    expected = float(mask.bits[name].amax(dim=shared).sum()) / each.size
    assert torch.allclose(total / 400, torch.full((each.size,), expected), atol=0.1)


def test_masks_of_weights_have_the_same_random_masks_as_ever() -> None:
    mask, gates = trained_mask("gpt2", Granularity.WEIGHT)
    assert mask_granularity(Mask(mask.bits, "m")) is Granularity.WEIGHT
    ours, theirs = (
        list(matched_random_masks(mask, gates.matrices, 2, torch.Generator().manual_seed(3))),
        list(random_masks(mask, 2, torch.Generator().manual_seed(3))),
    )
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(one.bits[name], other.bits[name]) for name in mask.bits)


def test_a_part_of_a_unit_is_refused() -> None:
    mask, gates = trained_mask("gpt2", Granularity.OUTPUT)
    bits = {name: each.clone() for name, each in mask.bits.items()}
    first = next(iter(bits.values()))
    first.view(-1)[0] = ~first.view(-1)[0]
    broken = Mask(bits, mask.model, mask.meta)
    with pytest.raises(ValueError, match="has a part of a unit of matrix"):
        next(matched_random_masks(broken, gates.matrices, 1, torch.Generator()))
