"""The Muon optimiser in the parameters' own precision.

`torch.optim.Muon` makes its updates orthogonal in bfloat16, whose products take ten times as long
as float32's on processors without instructions for them: most desktops and laptops.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, its Newton-Schulz iteration in the precision of the parameters.

    State and errors are torch's; updates are scaled as its `match_rms_adamw` says.

    Args:
        params: Matrices.
        lr: Learning rate, for updates of the size of AdamW's.
        weight_decay: Share of a weight that a step with learning rate 1 takes off.
        momentum: Share of the momentum that a step keeps.
        nesterov: Whether a step looks ahead along it.

    Source:
        Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scale: Liu et al. 2025, "Muon
        is Scalable for LLM Training", section 2.2.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        nesterov: bool = True,
    ) -> None:
        super().__init__(
            params,
            lr,
            weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            adjust_lr_fn="match_rms_adamw",
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for own in group["params"]:
                if own.grad is None:
                    continue
                state, rate = self.state[own], group["momentum"]
                momentum = state.setdefault("momentum_buffer", torch.zeros_like(own))
                momentum.lerp_(own.grad, 1 - rate)
                told = own.grad.lerp(momentum, rate) if group["nesterov"] else momentum
                direction = orthogonal(
                    told, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                own.mul_(1 - group["lr"] * group["weight_decay"])
                own.add_(direction, alpha=-0.2 * max(own.shape) ** 0.5 * group["lr"])


def orthogonal(
    matrix: Float[Tensor, "row column"],
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float = 1e-7,
) -> Float[Tensor, "row column"]:
    """Return a matrix with the same singular vectors and singular values near 1.

    Args:
        matrix: Any matrix.
        coefficients: Of X, of (X X^T) X and of (X X^T)^2 X in one step.
        steps: Newton-Schulz steps.
        eps: Least norm that the matrix is divided by.

    Returns:
        A new matrix in the same precision; singular values lie within about 0.7 to 1.2 but for
        those that are very small beside the others.
    """
    first, third, fifth = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    wide = wide / wide.norm().clamp_min(eps)
    for _ in range(steps):
        gram = wide @ wide.T
        gram = torch.addmm(gram, gram, gram, beta=third, alpha=fifth)
        wide = torch.addmm(wide, gram, wide, beta=first)
    return wide.T if tall else wide
