from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch

from knowsub.architectures import ATTENTION, ModuleType, maskable_matrices
from knowsub.masks.ablation import applied, remaining_weights
from knowsub.masks.gates import Gates, GateSample, UniformNoise
from knowsub.masks.options import Granularity
from knowsub.masks.weights import FusedSlice, GateSlice, fuse_slices, gate_shape, gate_slices
from tests.architectures import CONFIGS, VOCAB, tiny

TOKENS = torch.arange(1, 13).view(2, 6) % VOCAB


def gated_types(granularity: Granularity) -> tuple[ModuleType, ...] | None:
    """Return the module types that a granularity fits; None for all."""
    return ATTENTION if granularity is Granularity.HEAD else None


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize(
    "granularity", [Granularity.WEIGHT, Granularity.INPUT, Granularity.OUTPUT, Granularity.MATRIX]
)
def test_gates_cover_every_weight_of_their_matrix_once(kind: str, granularity: Granularity) -> None:
    slices = gate_slices(maskable_matrices(tiny(kind)), granularity)
    covered = 0
    for each in slices:
        assert each.start == covered
        covered += each.size
        weights, total = torch.ones(each.matrix.shape), torch.zeros(covered)
        FusedSlice((each,)).add_product(weights, 2 * weights, 1.0, total)
        assert total[: each.start].sum() == 0
        assert total[each.start :].sum() == 2 * each.matrix.size
        gates = each.take(torch.arange(covered))
        assert gates.expand(each.matrix.shape).shape == each.matrix.shape


@pytest.mark.parametrize(
    ("module_type", "granularity", "count"),
    [("q", "input", 16), ("q", "output", 16), ("output", "input", 16), ("mlp_in", "input", 16),
     ("mlp_in", "output", 64), ("mlp_out", "input", 64), ("mlp_out", "output", 16),
     ("mlp_out", "matrix", 1), ("q", "head", 4)],
)  # fmt: skip
def test_a_matrix_has_as_many_gates_as_its_layer_has_neurons(
    module_type: str, granularity: str, count: int
) -> None:
    (matrix,) = maskable_matrices(tiny("gpt2"), [3], [ModuleType(module_type)])
    assert math.prod(gate_shape(matrix, Granularity(granularity))) == count


def test_a_head_is_one_gate_over_its_queries_keys_values_and_outputs() -> None:
    slices = gate_slices(maskable_matrices(tiny("gpt2"), [2, 3], ATTENTION), Granularity.HEAD)
    assert {each.start for each in slices if each.matrix.block == 2} == {0}
    assert {each.start for each in slices if each.matrix.block == 3} == {4}


def test_grouped_key_value_heads_have_gates_of_their_own() -> None:
    slices = gate_slices(maskable_matrices(tiny("llama"), [3], ATTENTION), Granularity.HEAD)
    starts = {each.matrix.module_type.value: (each.start, each.size) for each in slices}
    assert starts == {"q": (0, 4), "k": (4, 2), "v": (4, 2), "output": (0, 4)}


def test_heads_of_an_mlp_are_refused() -> None:
    with pytest.raises(ValueError, match=r"blocks\.2\.mlp_in has no heads"):
        gate_slices(maskable_matrices(tiny("gpt2")), Granularity.HEAD)


def by_parameter(slices: tuple[GateSlice, ...]) -> dict[str, list[GateSlice]]:
    held: dict[str, list[GateSlice]] = {}
    for each in slices:
        held.setdefault(each.matrix.parameter, []).append(each)
    return held


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize(
    "granularity", [Granularity.WEIGHT, Granularity.INPUT, Granularity.OUTPUT, Granularity.MATRIX]
)
@pytest.mark.parametrize("module_types", [None, [ModuleType.Q, ModuleType.V], [ModuleType.K]])
def test_fused_slices_pair_every_weight_with_the_gate_of_its_matrix(
    kind: str, granularity: Granularity, module_types: list[ModuleType] | None
) -> None:
    model = tiny(kind)
    slices = gate_slices(maskable_matrices(model, None, module_types), granularity)
    gates = torch.arange(max(each.start + each.size for each in slices), dtype=torch.float64)
    for name, held in by_parameter(slices).items():
        shape = model.get_parameter(name).shape
        one, other = torch.full(shape, -1.0).double(), torch.full(shape, -1.0).double()
        for each in held:
            each.matrix.view(one).copy_(each.take(gates))
        for fused in fuse_slices(held):
            fused.view(other).copy_(fused.take(gates))
        assert torch.equal(one, other)


def test_fused_matrices_are_multiplied_at_once_where_every_weight_has_its_gate() -> None:
    weight, output = Granularity.WEIGHT, Granularity.OUTPUT
    for kind, granularity, module_types, expected in (
        ("gpt2", weight, None, 1), ("gpt_neox", weight, None, 1), ("gpt2", output, None, 3),
        ("gpt2", weight, [ModuleType.Q, ModuleType.K], 2), ("llama", weight, None, 1),
    ):  # fmt: skip
        held = by_parameter(
            gate_slices(maskable_matrices(tiny(kind), None, module_types), granularity)
        )
        (first, *_) = held.values()
        assert len(fuse_slices(first)) == expected


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("granularity", list(Granularity))
def test_the_masked_forward_is_the_forward_of_the_zeroed_model(
    kind: str, granularity: Granularity
) -> None:
    model = tiny(kind)
    matrices = maskable_matrices(model, None, gated_types(granularity))
    gates = Gates(model, matrices, granularity)
    sample = gates.sample(UniformNoise(0))
    masked = gates.masked_weights()
    masked.write(sample.value)
    mask = gates.to_mask(sample.value.bool(), "tiny", {})
    with masked.applied():
        logits = model(TOKENS).logits
    with applied(model, remaining_weights(model, matrices, mask)):
        torch.testing.assert_close(logits, model(TOKENS).logits, atol=1e-5, rtol=1e-5)
    masked.write(sample.value, keep=True)
    for name, weights in remaining_weights(model, matrices, mask, keep=True).items():
        assert torch.equal(weights, masked.weights[name])


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("keep", [False, True])
def test_the_gradient_by_hand_is_autograds(kind: str, granularity: Granularity, keep: bool) -> None:
    model = tiny(kind).double()
    matrices = maskable_matrices(model, None, gated_types(granularity))
    gates = Gates(model, matrices, granularity)
    gates.logits = gates.logits.double()
    noise = torch.rand(
        gates.logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    soft_logits = gates.logits.clone().requires_grad_()
    soft = torch.sigmoid(soft_logits + torch.logit(noise))
    value = (soft > 0.5).double() - soft.detach() + soft
    whole = {
        each.matrix.parameter: model.get_parameter(each.matrix.parameter).clone()
        for each in gates.slices
    }
    for each in gates.slices:
        factor = each.take(value if keep else 1 - value)
        own = each.matrix.view(model.get_parameter(each.matrix.parameter))
        each.matrix.view(whole[each.matrix.parameter]).copy_(own * factor)
    with applied(model, whole):
        loss = model(TOKENS).logits.log_softmax(-1)[..., 3].sum()
        (expected,) = torch.autograd.grad(loss, soft_logits)
    sample = GateSample(value.detach(), (soft * (1 - soft)).detach())
    masked = gates.masked_weights()
    masked.write(sample.value, keep=keep)
    for in_place in (False, True)[: 1 + masked.per_weight_gates]:
        into = sample.ste_grad.clone() if in_place else torch.zeros_like(gates.logits)
        with masked.applied(), masked.accumulate_gate_grads(into, in_place=in_place):
            model(TOKENS).logits.log_softmax(-1)[..., 3].sum().backward()
        assert all(weight.grad is None for weight in masked.weights.values())
        actual = into if in_place else into * sample.ste_grad
        torch.testing.assert_close(actual, expected, atol=1e-8, rtol=1e-6)


def test_masked_weights_are_freed_with_their_last_user_after_a_gradient_too() -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model))
    masked = gates.masked_weights()
    masked.write(torch.zeros_like(gates.logits))
    with masked.applied(), masked.accumulate_gate_grads(torch.zeros_like(gates.logits)):
        model(TOKENS).logits.sum().backward()
    references = [weakref.ref(weight) for weight in masked.weights.values()]
    del masked
    gc.collect()
    assert all(reference() is None for reference in references)


def test_weights_outside_the_matrices_are_kept() -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model, [3], [ATTENTION[0]]))
    masked = gates.masked_weights()
    masked.write(torch.ones_like(gates.logits))
    ((name, weight),) = masked.weights.items()
    assert not weight[:, :16].any()
    assert torch.equal(weight[:, 16:], model.get_parameter(name)[:, 16:])


def test_weights_of_another_dtype_than_the_gates_are_multiplied_too() -> None:
    model = tiny("gpt2").bfloat16()
    gates = Gates(model, maskable_matrices(model))
    sample, masked = gates.sample(UniformNoise(0)), gates.masked_weights()
    masked.write(sample.value)
    mask = gates.to_mask(sample.value.bool(), "tiny", {})
    for name, weights in remaining_weights(model, gates.matrices, mask).items():
        assert torch.equal(weights, masked.weights[name])
