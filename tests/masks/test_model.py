from __future__ import annotations

import gc
import weakref

import pytest
import torch

from knowsub.architectures import ATTENTION, maskable_matrices
from knowsub.masks import gates as pure
from knowsub.masks.ablation import applied, remaining_weights
from knowsub.masks.gates import SAMPLERS, Gates, GateSample, UniformNoise
from knowsub.masks.options import Estimator, Granularity
from tests.architectures import CONFIGS, VOCAB, tiny

TOKENS = torch.arange(1, 13).view(2, 6) % VOCAB


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("unit", list(Granularity))
def test_the_masked_forward_is_the_forward_of_the_zeroed_model(
    kind: str, unit: Granularity
) -> None:
    model = tiny(kind)
    found = maskable_matrices(model, parts=ATTENTION if unit is Granularity.HEAD else None)
    gates = Gates(model, found, unit)
    sample = gates.sample(UniformNoise(0))
    buffers = gates.masked_weights()
    buffers.write(sample.value)
    mask = gates.to_mask(sample.value.bool(), "tiny", {})
    with buffers.applied():
        masked = model(TOKENS).logits
    with applied(model, remaining_weights(model, found, mask)):
        torch.testing.assert_close(masked, model(TOKENS).logits, atol=1e-5, rtol=1e-5)
    buffers.write(sample.value, keep=True)
    for name, weights in remaining_weights(model, found, mask, keep=True).items():
        assert torch.equal(weights, buffers.weights[name])


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("unit", list(Granularity))
@pytest.mark.parametrize("keep", [False, True])
def test_the_gradient_by_hand_is_autograds(kind: str, unit: Granularity, keep: bool) -> None:
    model = tiny(kind).double()
    found = maskable_matrices(model, parts=ATTENTION if unit is Granularity.HEAD else None)
    gates = Gates(model, found, unit)
    gates.logits = gates.logits.double()
    noise = torch.rand(gates.logits.shape, generator=generator(), dtype=torch.float64)
    soft_logits = gates.logits.clone().requires_grad_()
    soft = torch.sigmoid(soft_logits + torch.logit(noise))
    value = (soft > 0.5).double() - soft.detach() + soft
    whole = {
        span.matrix.parameter: model.get_parameter(span.matrix.parameter).clone()
        for span in gates.spans
    }
    for span in gates.spans:
        factor = span.take(value if keep else 1 - value)
        own = span.matrix.view(model.get_parameter(span.matrix.parameter))
        span.matrix.view(whole[span.matrix.parameter]).copy_(own * factor)
    with applied(model, whole):
        loss = model(TOKENS).logits.log_softmax(-1)[..., 3].sum()
        (expected,) = torch.autograd.grad(loss, soft_logits)
    sample = GateSample(value.detach(), (soft * (1 - soft)).detach())
    buffers = gates.masked_weights()
    buffers.write(sample.value, keep=keep)
    for once in (False, True)[: 1 + buffers.own_gates]:
        into = sample.ste_grad.clone() if once else torch.zeros_like(gates.logits)
        with buffers.applied(), buffers.accumulate_gate_grads(into, once=once):
            model(TOKENS).logits.log_softmax(-1)[..., 3].sum().backward()
        assert all(buffer.grad is None for buffer in buffers.weights.values())
        actual = into if once else into * sample.ste_grad
        torch.testing.assert_close(actual, expected, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("estimator", list(Estimator))
def test_the_gradient_of_sparsity_is_that_of_its_closed_form(estimator: Estimator) -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model), estimator=estimator)
    gates.logits.normal_(generator=generator())
    slope = torch.zeros_like(gates.logits)
    mean = gates.add_sparsity_grad(slope, 1.0, 0.7)
    step = 1e-2
    direction = torch.sign(torch.randn(gates.logits.shape, generator=generator(1)))
    gates.logits.add_(direction, alpha=step)
    above = gates.add_sparsity_grad(torch.zeros_like(slope), 1.0, 0.7)
    assert above - mean == pytest.approx(step * float((slope * direction).sum()), abs=2e-5)


def test_at_the_papers_start_the_mask_is_empty_and_a_sample_holds_its_initial_share() -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model), initial=0.45)
    assert gates.hard_mask().sum() == 0
    assert gates.sample(UniformNoise(0)).value.mean().item() == pytest.approx(0.45, abs=0.02)


def test_trimming_keeps_the_largest_positive_logits_and_never_pads() -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model))
    gates.logits.fill_(-1.0)
    gates.logits[:10] = torch.arange(1.0, 11.0)
    assert gates.hard_mask(0.5).nonzero()[:, 0].tolist() == list(range(10))
    limit = 4 / len(gates.logits)
    assert gates.hard_mask(limit).nonzero()[:, 0].tolist() == [6, 7, 8, 9]


def test_buffers_go_with_their_last_user_after_a_gradient_too() -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model))
    buffers = gates.masked_weights()
    buffers.write(torch.zeros_like(gates.logits))
    with buffers.applied(), buffers.accumulate_gate_grads(torch.zeros_like(gates.logits)):
        model(TOKENS).logits.sum().backward()
    weights = [weakref.ref(weight) for weight in buffers.weights.values()]
    del buffers
    gc.collect()
    assert all(weight() is None for weight in weights)


def test_parts_outside_the_sites_keep_their_weights() -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model, [3], [ATTENTION[0]]))
    buffers = gates.masked_weights()
    buffers.write(torch.ones_like(gates.logits))
    ((name, weights),) = buffers.weights.items()
    own = model.get_parameter(name)
    assert not weights[:, :16].any()
    assert torch.equal(weights[:, 16:], own[:, 16:])


@pytest.mark.parametrize("estimator", list(Estimator))
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_a_draw_in_chunks_is_the_draw_of_all_gates_at_once(
    estimator: Estimator, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model), estimator=estimator)
    gates.logits.normal_(generator=generator(1))
    noise = UniformNoise(0).uniform(len(gates.logits))
    whole = SAMPLERS[estimator](gates.logits, noise, 0.7, scale)
    monkeypatch.setattr(pure, "CHUNK", 1024)
    first = gates.sample(UniformNoise(0), 0.7, scale)
    again = gates.sample(
        UniformNoise(0), 0.7, scale, GateSample(first.value, first.ste_grad.clone())
    )
    for drawn in (first, again):
        assert torch.equal(drawn.value, whole.value)
        assert torch.equal(drawn.ste_grad, whole.ste_grad)
    assert again.value is first.value


def test_the_undecided_are_the_logits_nearer_to_zero_than_the_limit() -> None:
    model = tiny("gpt2")
    gates = Gates(model, maskable_matrices(model))
    gates.logits.fill_(-1.0)
    gates.logits[:3] = torch.tensor([0.1, -0.1, 0.2])
    assert pure.undecided_fraction(gates.logits, 0.2) == 2 / len(gates.logits)


def test_weights_of_another_dtype_than_the_gates_are_multiplied_too() -> None:
    model = tiny("gpt2").bfloat16()
    gates = Gates(model, maskable_matrices(model))
    sample, buffers = gates.sample(UniformNoise(0)), gates.masked_weights()
    buffers.write(sample.value)
    mask = gates.to_mask(sample.value.bool(), "tiny", {})
    for name, weights in remaining_weights(model, gates.sites, mask).items():
        assert torch.equal(weights, buffers.weights[name])
