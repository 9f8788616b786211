"""A sample of the gates that is never stored: whoever reads a part of it has it drawn again."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from knowsub.masks.gates import Gates, GateSample, UniformNoise


@dataclass(frozen=True)
class RedrawnSample:
    """One sample of every gate, which takes no memory.

    Every part has a stream of noise of its own, named by its first gate among those of all
    processes; the same parts must be read each time.
    """

    gates: Gates
    """The gates; a part is the same as long as its logits are."""
    noise: UniformNoise
    """Noise of the step."""
    temperature: float
    """Temperature of the relaxation, above 0."""
    scale: float
    """Factor of the noise, 0 to 1."""

    def __getitem__(self, part: slice) -> Float[Tensor, " gate"]:
        """Return the values of some gates, drawn now."""
        return self.draw(part)[0].value

    def draw(self, part: slice) -> tuple[GateSample, UniformNoise]:
        """Return the sample of some gates, and their noise where the sample has left it."""
        noise = self.noise.at(self.gates.first + part.start)
        return self.gates.sample(noise, self.temperature, self.scale, part=part), noise
