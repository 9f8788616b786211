"""Gates over the maskable matrices of any model: sampling them, and their exact gradient.

No layer is replaced. A step writes the remaining model's weights into buffers, which are installed
for the forward and backward pass; the gradient that arrives at the buffers is carried to the
logits by hand, matrix by matrix, while the backward pass goes on.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from knowsub.anatomy import Site
from knowsub.masks.gates import SAMPLERS, Sample, chunks, expected_open
from knowsub.masks.gathering import gathering
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
        self._original = {site.parameter: model.get_parameter(site.parameter) for site in sites}

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
        logits = self.logits
        sample = out or Sample(torch.empty_like(logits), torch.empty_like(logits))
        for chunk in chunks(self.logits):
            part, here = logits[chunk], Sample(sample.value[chunk], sample.slope[chunk])
            uniform = noise.uniform(len(part))
            SAMPLERS[self.estimator](part, uniform, temperature, scale, here)
        return sample

    def buffers(self) -> dict[str, Tensor]:
        """Return new trainable copies of the parameters that hold a site, to write samples into."""
        return {name: own.detach().clone().requires_grad_() for name, own in self._original.items()}

    @torch.no_grad()
    def write(
        self,
        values: Float[Tensor, " unit"] | Bool[Tensor, " unit"],
        buffers: dict[str, Tensor],
        *,
        keep: bool = False,
    ) -> None:
        """Write the weights of the remaining model, or of the subnetwork alone, into the buffers.

        Args:
            values: Values of the gates, from a `sample` or `open_bits`.
            buffers: Tensors from `buffers`.
            keep: If true, the subnetwork is kept: weights are multiplied by the gate and not by
                one minus the gate.
        """
        for span in self.spans:
            site = span.site
            own = site.view(self._original[site.parameter])
            value, out = span.take(values), site.view(buffers[site.parameter].detach())
            if keep:
                torch.mul(own, value, out=out)
            else:
                torch.addcmul(own, own, value.to(own.dtype), value=-1.0, out=out)

    def gathering(
        self, buffers: dict[str, Tensor], total: Float[Tensor, " unit"]
    ) -> AbstractContextManager[None]:
        """Return a block in which gradients that arrive at the buffers are added to a vector.

        Args:
            buffers: The buffers that backward passes within the block reach.
            total: Gradient of the loss by what `write` multiplies the weights with; added to.

        Returns:
            The context.
        """
        return gathering(self.spans, self._original, buffers, total)

    def carry(
        self, total: Float[Tensor, " unit"], sample: Sample, *, keep: bool = False
    ) -> Float[Tensor, " unit"]:
        """Turn what `gathering` gave into the gradient by the logits, in place.

        Args:
            total: The gradient by the factors of the weights.
            sample: The draw that was written.
            keep: As in `write`.

        Returns:
            The same tensor: gradient of the data terms; the sparsity term has its own, `press`.
        """
        for chunk in chunks(self.logits):
            part = total[chunk].mul_(sample.slope[chunk])
            if not keep:
                part.neg_()
        return total

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
