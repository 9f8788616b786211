"""Uniform noise for gates: one number per gate and step is a tenth of a step if drawn slowly."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

INSIDE = 1 - 2.0**-22
"""Width of the interval around 1/2 that noise lies in; next to 1, float32 has steps of 2^-24."""


class Noise:
    """A stream of uniform noise between 0 and 1, never at either end.

    On a CPU it is SFC64 of Doty-Humphrey as numpy has it, 2.5 times as fast as torch's Mersenne
    twister; elsewhere it is torch's generator of the device. One seed gives different numbers on
    different devices.

    Args:
        seed: Seed of the stream.
        device: Where the noise is used.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._source: np.random.SFC64 | torch.Generator = (
            np.random.SFC64(seed)
            if self.device.type == "cpu"
            else torch.Generator(self.device).manual_seed(seed)
        )

    def uniform(self, count: int) -> Float[Tensor, " unit"]:
        """Return the next numbers, in steps of 2^-24 at the finest.

        Args:
            count: How many; on a CPU those drawn in several calls are the same as drawn in one, as
                long as all calls but the last ask for an even number.

        Returns:
            Numbers from 2^-23 to 1 - 2^-23.
        """
        if isinstance(self._source, torch.Generator):
            drawn = torch.rand(count, generator=self._source, device=self.device)
            return drawn.mul_(INSIDE).add_((1 - INSIDE) / 2)
        words = self._source.random_raw((count + 1) // 2).view(np.int32)[:count]
        return torch.from_numpy(words).float().mul_(INSIDE * 2.0**-32).add_(0.5)

    def get_state(self) -> Tensor:
        """Return where the stream stands, as a tensor on the CPU."""
        if isinstance(self._source, torch.Generator):
            return self._source.get_state()
        return torch.from_numpy(self._source.state["state"]["state"].view(np.int64).copy())

    def set_state(self, state: Tensor) -> None:
        """Continue where a stream of the same kind of device stood.

        Args:
            state: As `get_state` returned it.
        """
        if isinstance(self._source, torch.Generator):
            self._source.set_state(state)
            return
        words = state.numpy().view(np.uint64)
        self._source.state = self._source.state | {"state": {"state": words}}
