"""The statistics that go with the evidence for one mask: what `figures.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knowsub.evaluation.finding import Finding
from knowsub.evaluation.suite import Evidence
from knowsub.statistics.hypotheses import paired_wilcoxon, permutation_p
from knowsub.statistics.intervals import hierarchical_bootstrap

BEATEN = "target_dnll"
"""The figure by which the trained mask is compared with the masks of other methods."""


def intervals(finding: Finding, level: float, resamples: int) -> dict[str, list[float]]:
    """Return a bootstrap interval over facts for every figure that is a mean over facts.

    Args:
        finding: The figures with their values per fact.
        level: Confidence level [fraction].
        resamples: Number of resamples.

    Returns:
        Figure -> lower and upper end, in its unit.
    """
    found = {}
    for name, sample in finding.samples.items():
        ends = hierarchical_bootstrap([sample.values], level, resamples)
        found[name] = [sample.scaled(ends.low), sample.scaled(ends.high)]
    return found


def against_methods(
    finding: Finding, methods: Mapping[str, Finding]
) -> dict[str, dict[str, float]]:
    """Return whether the trained mask damages the target more than other methods' masks do.

    Null hypothesis: as much, fact by fact. Alternative: more. Wilcoxon signed-rank over facts; no
    correction here, the report corrects over targets.

    Args:
        finding: Figures of the trained mask.
        methods: Method -> figures of its mask at the same size.

    Returns:
        Method -> `pvalue` and `effect`, the Hodges-Lehmann difference [nats per tail token].
    """
    own, found = finding.samples[BEATEN].values, {}
    for name, other in methods.items():
        result = paired_wilcoxon(own, other.samples[BEATEN].values, "greater")
        found[name] = {"pvalue": result.pvalue, "effect": result.effect}
    return found


def written(
    evidence: Evidence, methods: Mapping[str, Finding], level: float, resamples: int
) -> dict[str, Any]:
    """Return everything about one mask as JSON holds it.

    Args:
        evidence: The evidence.
        methods: Method -> figures of its mask at the same size.
        level: Confidence level of the intervals [fraction].
        resamples: Bootstrap resamples.

    Returns:
        `figures`, `intervals`, `methods`, `method_intervals`, `against_methods`, `cross` (dNLL on
        other targets), `random_target_dnll` (one per random mask) and `skipped`.
    """
    finding = evidence.finding
    p = permutation_p(finding.figures[BEATEN], evidence.random)
    return {
        "figures": finding.figures | {"random_p": p.pvalue},
        "intervals": intervals(finding, level, resamples),
        "methods": {name: other.figures for name, other in methods.items()},
        "method_intervals": {
            name: intervals(other, level, resamples) for name, other in methods.items()
        },
        "against_methods": against_methods(finding, methods),
        "cross": evidence.cross,
        "random_target_dnll": evidence.random,
        "skipped": finding.skipped,
    }
