"""Muon: torch's updates without their rounding, on any processor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from knowsub.embedded.model import Muon, orthogonalize

COEFFICIENTS = (3.4445, -4.775, 2.0315)
SHAPES = [(8, 8), (8, 24), (24, 8)]


def matrices(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_torch_to_the_rounding_of_bfloat16(nesterov: bool) -> None:
    weights = [nn.Parameter(each) for each in matrices(0)]
    twins = [nn.Parameter(each.clone()) for each in matrices(0)]
    chosen = {"lr": 0.1, "weight_decay": 0.3, "momentum": 0.9, "nesterov": nesterov}
    ours = Muon(weights, **chosen)
    theirs = torch.optim.Muon(twins, adjust_lr_fn="match_rms_adamw", **chosen)
    for step in range(4):
        for weight, twin, gradient in zip(weights, twins, matrices(step + 1), strict=True):
            weight.grad, twin.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
    for weight, twin, start in zip(weights, twins, matrices(0), strict=True):
        assert (weight - twin).norm() < 0.02 * (weight - start).norm()
        assert torch.equal(
            ours.state[weight]["momentum_buffer"], theirs.state[twin]["momentum_buffer"]
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_vectors_stay_and_singular_values_come_near_one(
    shape: tuple[int, int], scale: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(size, 8, generator=generator))[0] for size in shape)
    values = torch.linspace(0.2, 1.0, 8)
    result = orthogonalize(scale * (left * values) @ right.T, COEFFICIENTS, 5)
    inside = left.T @ result @ right
    assert (inside - inside.diag().diag()).abs().max() < 1e-4
    assert (inside.diag() > 0.65).all()
    assert (inside.diag() < 1.25).all()


def test_a_matrix_without_a_gradient_stays_as_it_is() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    Muon([weight], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(weight, torch.ones(2, 2))
