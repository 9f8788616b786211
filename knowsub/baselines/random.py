"""Random masks: what removing as much from the same places does, whatever is removed."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from knowsub.masks.mask import Mask


def random_masks(mask: Mask, number: int, generator: torch.Generator) -> Iterator[Mask]:
    """Yield masks of exactly as many weights in each site, each set of weights as likely.

    Args:
        mask: The mask whose counts are matched.
        number: Masks wanted.
        generator: Source of randomness.

    Yields:
        The masks, one at a time: a large model's do not fit into memory together.
    """
    for _ in range(number):
        bits = {}
        for name, own in mask.bits.items():
            chosen = torch.randperm(own.numel(), generator=generator)[: int(own.sum())]
            flat = torch.zeros(own.numel(), dtype=torch.bool)
            flat[chosen] = True
            bits[name] = flat.view(own.shape)
        yield Mask(bits, mask.model, {"method": "random"})


def random_scores(mask: Mask, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return a random score for each weight, so that masks of several sizes lie in one another.

    Args:
        mask: A mask over the sites.
        generator: Source of randomness.

    Returns:
        Site name -> scores.
    """
    return {
        name: torch.randperm(own.numel(), generator=generator).double().view(own.shape)
        for name, own in mask.bits.items()
    }
