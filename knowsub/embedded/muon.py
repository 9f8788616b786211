"""The Muon optimizer in the parameters' own precision.

`torch.optim.Muon` orthogonalizes its updates in bfloat16, whose products take ten times as long as
float32's on processors without instructions for them: most desktops and laptops.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, its Newton-Schulz iteration in the precision of the parameters.

    State and errors are torch's; updates are scaled as its `match_rms_adamw` says.

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
            beta, lr = group["momentum"], group["lr"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault(
                    "momentum_buffer", torch.zeros_like(weight)
                )
                momentum.lerp_(weight.grad, 1 - beta)
                update = weight.grad.lerp(momentum, beta) if group["nesterov"] else momentum
                direction = orthogonalize(
                    update, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                weight.mul_(1 - lr * group["weight_decay"])
                # 0.2 sqrt(max(m, n)) gives an orthogonal update the root mean square of AdamW's.
                weight.add_(direction, alpha=-0.2 * max(weight.shape) ** 0.5 * lr)


def orthogonalize(
    matrix: Float[Tensor, "row column"],
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float = 1e-7,
) -> Float[Tensor, "row column"]:
    """Return a matrix with the same singular vectors and singular values near 1.

    A Newton-Schulz step is aX + b(XX')X + c(XX')^2 X. Singular values come out within about 0.7 to
    1.2, but for those that are very small beside the others.
    """
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix  # wide, for the smaller of the two Gram matrices
    x = x / x.norm().clamp_min(eps)
    for _ in range(steps):
        gram = x @ x.T
        gram = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, gram, x, beta=a)
    return x.T if is_tall else x
