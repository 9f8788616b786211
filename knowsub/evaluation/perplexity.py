"""NLL, PPL, rank and accuracy of one state of the model beside the original: pure figures."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from knowsub.evaluation.bench import Bench, View
from knowsub.evaluation.finding import Finding
from knowsub.evaluation.items import Items
from knowsub.lm.score import Scores


def ppl_ratio(changed: Scores, original: Scores) -> float:
    """Return PPL over PPL on the same items.

    Args:
        changed: Scores of the state that is judged.
        original: Scores of the original model.

    Returns:
        Ratio of exp(token-weighted mean NLL); 1 = unchanged.
    """
    return changed.perplexity / original.perplexity


def fact_difference(items: Items, changed: Scores, original: Scores) -> Float[Tensor, " fact"]:
    """Return how much worse each fact has become.

    Args:
        items: The items that were scored.
        changed: Scores of the state that is judged.
        original: Scores of the original model.

    Returns:
        dNLL per fact, mean over its prompts [nats per tail token].
    """
    return items.per_fact(changed.mean_nll.double() - original.mean_nll.double())


def perplexity(bench: Bench, changed: View) -> Finding:
    """Return the figures of every set and text in a view.

    For each set: `<set>_ppl_ratio`; `<set>_dnll`, the mean over facts [nats per tail token];
    `<set>_nll` and `<set>_original_nll`, token-weighted means [nats per token];
    `<set>_median_rank`, the median over statements of the 0-based vocabulary rank (worst token of
    the tail); `<set>_accuracy`, the share of statements whose tail is the top answer. The samples
    behind the intervals are per fact and unweighted, which for one-token tails is the same.
    For each text: `<text>_ppl_ratio`, `<text>_nll`, `<text>_original_nll`.

    Args:
        bench: The bench.
        changed: What the judged state says.

    Returns:
        The figures.
    """
    finding = Finding()
    for name, scores in changed.sets.items():
        original, items = bench.original.sets[name], bench.sets[name]
        difference = fact_difference(items, scores, original)
        finding.add(f"{name}_ppl_ratio", difference, exponential=True)
        finding.add(f"{name}_dnll", difference)
        finding.add(f"{name}_accuracy", items.per_fact(scores.correct))
        finding.figures |= _compared(name, scores, original)
        finding.figures[f"{name}_median_rank"] = float(scores.rank.double().quantile(0.5))
        finding.figures[f"{name}_original_accuracy"] = float(original.correct.double().mean())
        finding.figures[f"{name}_original_median_rank"] = float(
            original.rank.double().quantile(0.5)
        )
    for name, scores in changed.texts.items():
        finding.figures |= _compared(name, scores, bench.original.texts[name])
    return finding


def _compared(name: str, changed: Scores, original: Scores) -> dict[str, float]:
    return {
        f"{name}_ppl_ratio": ppl_ratio(changed, original),
        f"{name}_nll": float(changed.nll.double().sum() / changed.tokens.sum()),
        f"{name}_original_nll": float(original.nll.double().sum() / original.tokens.sum()),
    }
