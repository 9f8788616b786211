"""Magnitude: the largest weights, whatever they do."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from knowsub.anatomy import Site


def magnitude_scores(model: nn.Module, sites: Sequence[Site]) -> dict[str, Tensor]:
    """Return |w| of each weight.

    Args:
        model: The original model.
        sites: The maskable matrices.

    Returns:
        Site name -> scores.
    """
    return {
        site.name: site.view(model.get_parameter(site.parameter)).detach().abs().cpu()
        for site in sites
    }
