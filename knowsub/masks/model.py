"""Gates over the maskable matrices of any model: sampling them, and their exact gradient.

No layer is replaced. A step writes the remaining model's weights into buffers, which are installed
for the forward and backward pass; the gradient that arrives there, times the slope of the sample,
is that of the logits.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from knowsub.anatomy import Site
from knowsub.masks.buffers import Buffers
from knowsub.masks.gates import SAMPLERS, Sample, chunks, expected_open
from knowsub.masks.kinds import Estimator, Unit
from knowsub.masks.mask import Mask
from knowsub.masks.noise import Noise
from knowsub.masks.units import lay_out


class Gates:
    """One logit per unit of the maskable matrices of a model.

    Args:
        model: The original model; it is read, never written.
        sites: The maskable matrices.
        unit: What one gate covers.
        estimator: How gates are sampled.
        initial: Initial probability of a gate being open, in (0, 1) [fraction].

    Raises:
        ValueError: If the unit does not fit the sites.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: tuple[Site, ...],
        unit: Unit = Unit.WEIGHT,
        estimator: Estimator = Estimator.GUMBEL_SIGMOID,
        initial: float = 0.45,
    ) -> None:
        self.model = model
        self.sites = sites
        self.estimator = estimator
        self.spans = lay_out(sites, unit)
        count = max(span.start + span.size for span in self.spans)
        device = model.get_parameter(sites[0].parameter).device
        level = torch.logit(torch.tensor(float(initial), dtype=torch.float64)).item()
        self.logits = torch.full((count,), level, dtype=torch.float32, device=device)

    def sample(
        self,
        noise: Noise,
        temperature: float = 1.0,
        scale: float = 1.0,
        out: Sample | None = None,
    ) -> Sample:
        """Return one draw of every gate.

        Args:
            noise: Source of randomness, on the logits' device.
            temperature: Temperature of the relaxation, above 0.
            scale: Factor of the noise, 0 to 1.
            out: An earlier draw that is no longer needed, to write this one into.

        Returns:
            Values and slopes of the gates.
        """
        logits, draw = self.logits, SAMPLERS[self.estimator]
        sample = out or Sample(torch.empty_like(logits), torch.empty_like(logits))
        for chunk in chunks(self.logits):
            part, here = logits[chunk], Sample(sample.value[chunk], sample.slope[chunk])
            draw(part, noise.uniform(len(part)), temperature, scale, here)
        return sample

    def buffers(self, dtype: torch.dtype | None = None) -> Buffers:
        """Return new buffers for the parameters that hold a site, to write samples into.

        Args:
            dtype: Theirs; None for that of the parameters.

        Returns:
            The buffers.
        """
        return Buffers(self.model, self.spans, dtype)

    def press(
        self, gradient: Float[Tensor, " unit"], weight: float, temperature: float = 1.0
    ) -> Float[Tensor, ""]:
        """Add the weighted gradient of the sparsity term; return the term, where the gates are.

        Args:
            gradient: Gradient by the logits, added to in place and in closed form.
            weight: Coefficient of the term.
            temperature: Temperature of the relaxation; only the hard concrete gate depends on it.

        Returns:
            Mean probability of an open gate [fraction].
        """
        total = torch.zeros((), dtype=torch.float64, device=self.logits.device)
        for chunk in chunks(self.logits):
            chance = expected_open(self.logits[chunk], self.estimator, temperature)
            total += chance.sum()
            slope = chance.addcmul_(chance, chance, value=-1)
            gradient[chunk].add_(slope, alpha=weight / len(self.logits))
            del chance, slope  # before the next ones are made
        return total / len(self.logits)

    def open_bits(self, limit: float = 1.0) -> Bool[Tensor, " unit"]:
        """Return the deterministic gates, 1[logit > 0], trimmed to the largest logits.

        Args:
            limit: Largest share of the gates that may be open [fraction].

        Returns:
            Which gates are open: never more than the positive logits, never more than the limit.
        """
        bits = self.logits > 0
        most = int(limit * len(bits))
        if int(bits.count_nonzero()) > most:
            positive = bits.nonzero()[:, 0]
            bits.zero_()[positive[self.logits[positive].topk(most).indices]] = True
        return bits

    def mask(self, bits: Bool[Tensor, " unit"], model: str, meta: dict[str, str]) -> Mask:
        """Return gates as a mask over weights.

        Args:
            bits: Which gates are open, from `open_bits`.
            model: Fingerprint of the model.
            meta: How the mask was made.

        Returns:
            The mask, on the CPU.
        """
        expanded = {
            span.site.name: span.take(bits).expand(span.site.shape).bool().cpu().contiguous()
            for span in self.spans
        }
        return Mask(expanded, model, meta)
