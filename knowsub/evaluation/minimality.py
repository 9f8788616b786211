"""Located, sufficient, minimal: everything removed, the mask alone, more and less of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from knowsub.evaluation.bench import Bench
from knowsub.evaluation.finding import Finding
from knowsub.evaluation.perplexity import fact_difference, ppl_ratio
from knowsub.masks.algebra import grow, shrink
from knowsub.masks.mask import Mask
from knowsub.masks.removal import alone


def everything(mask: Mask) -> Mask:
    """Return the mask of all maskable weights, over the same sites."""
    bits = {name: torch.ones_like(own) for name, own in mask.bits.items()}
    return Mask(bits, mask.model, {"method": "everything"})


def located(bench: Bench, mask: Mask) -> Finding:
    """Return what is left with every maskable weight removed.

    `all_removed_target_ppl_ratio`: near 1 means that the facts live elsewhere, so that any
    suppression by a mask is interference, not removal. `all_removed_target_accuracy` [fraction].

    Args:
        bench: The bench.
        mask: Any mask over the sites.

    Returns:
        The figures.
    """
    with bench.removed(everything(mask)):
        now = bench.look(sets=("target",), texts=()).sets["target"]
    return Finding(
        {
            "all_removed_target_ppl_ratio": ppl_ratio(now, bench.original.sets["target"]),
            "all_removed_target_accuracy": float(now.correct.double().mean()),
        }
    )


def sufficiency(bench: Bench, mask: Mask) -> Finding:
    """Return what the subnetwork says alone, every other maskable weight removed.

    `alone_target_nll`, `alone_heldout_nll` [nats per tail token] and their `_ppl_ratio`;
    `alone_target_accuracy` [fraction].

    Args:
        bench: The bench.
        mask: The critical subnetwork.

    Returns:
        The figures.
    """
    finding = Finding()
    with alone(bench.reader.model, bench.sites, mask):
        view = bench.look(sets=("target", "heldout"), texts=())
    for name, now in view.sets.items():
        finding.figures[f"alone_{name}_nll"] = float(now.nll.double().sum() / now.tokens.sum())
        finding.figures[f"alone_{name}_ppl_ratio"] = ppl_ratio(now, bench.original.sets[name])
    finding.figures["alone_target_accuracy"] = float(view.sets["target"].correct.double().mean())
    return finding


def minimality(
    bench: Bench, mask: Mask, shares: Sequence[float], generator: torch.Generator
) -> Finding:
    """Return what removing somewhat more or less than the subnetwork does.

    `grown<p>_target_dnll` and `shrunk<p>_target_dnll`, and the same for `heldout`: dNLL after p
    percent of the mask's weights are added from outside it or taken from it at random, per site
    [nats per tail token].

    Args:
        bench: The bench.
        mask: The critical subnetwork.
        shares: Shares of the mask [fraction].
        generator: Source of randomness.

    Returns:
        The figures.
    """
    finding = Finding()
    for share in shares:
        for verb, change in (("grown", grow), ("shrunk", shrink)):
            with bench.removed(change(mask, share, generator)):
                view = bench.look(sets=("target", "heldout"), texts=())
            for name, now in view.sets.items():
                moved = fact_difference(bench.sets[name], now, bench.original.sets[name])
                figure = f"{verb}{round(100 * share)}_{name}_dnll"
                finding.figures[figure] = float(moved.mean())
    return finding
