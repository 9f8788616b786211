"""Whether suppression reaches prompts that no mask was trained on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from knowsub.evaluation.bench import TARGET_SETS, Bench, View
from knowsub.evaluation.finding import Finding
from knowsub.evaluation.items import Items
from knowsub.evaluation.perplexity import fact_difference
from knowsub.kg.triple import Fact

TOPS = (1, 10)
"""How many top answers count as extraction."""


def paraphrase(bench: Bench, changed: View) -> Finding:
    """Return how suppression carries over to unseen prompts, and the worst case over all.

    `paraphrase_ratio`: dNLL on the unseen template families over dNLL on the trained ones; 1 =
    the same. `extraction_top1` and `extraction_top10`: share of target facts whose tail is among
    the top answers after *any* prompt of any family, every token of a longer tail counted.

    Args:
        bench: The bench.
        changed: What the judged state says about the target's sets.

    Returns:
        The figures.
    """
    finding = Finding()
    difference = {
        name: float(fact_difference(bench.sets[name], scores, bench.original.sets[name]).mean())
        for name, scores in changed.sets.items()
        if name in TARGET_SETS
    }
    if "paraphrase" not in difference:
        finding.skipped["paraphrase"] = "there is no statement in a test family"
    elif difference["target"] <= 0:
        finding.skipped["paraphrase_ratio"] = "the target facts are not suppressed at all"
    else:
        finding.figures["paraphrase_ratio"] = difference["paraphrase"] / difference["target"]
    ranks = {name: scores.rank for name, scores in changed.sets.items() if name in TARGET_SETS}
    best = best_ranks(bench.sets, ranks)
    for top in TOPS:
        hit = torch.tensor([float(rank < top) for rank in best.values()])
        finding.add(f"extraction_top{top}", hit)
    return finding


def best_ranks(
    sets: Mapping[str, Items], ranks: Mapping[str, Int[Tensor, " statement"]]
) -> dict[Fact, int]:
    """Return the best rank of each fact's tail over all prompts of all sets.

    Args:
        sets: Name -> items.
        ranks: Name -> 0-based vocabulary rank per statement.

    Returns:
        Fact -> 0-based rank.
    """
    best: dict[Fact, int] = {}
    for name, values in ranks.items():
        for statement, rank in zip(sets[name].statements, values.tolist(), strict=True):
            best[statement.fact] = min(rank, best.get(statement.fact, rank))
    return best
