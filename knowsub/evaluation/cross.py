"""The cross matrix: what removing one target's subnetwork does to the facts of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from knowsub.evaluation.bench import Bench
from knowsub.evaluation.items import Items, scored
from knowsub.evaluation.perplexity import fact_difference
from knowsub.kg.triple import Role, Split, Statement
from knowsub.lm.score import Scores

SMALLEST = 1e-3
"""Mean off-diagonal damage that is told from none [nats]; it bounds the dominance."""

Known = dict[str, tuple[Items, Scores]]
"""Target -> its items and the original model's scores on them."""


def other_targets(bench: Bench, statements: Mapping[str, Sequence[Statement]]) -> Known:
    """Return the facts of other targets, cached and scored; the original weights must be in place.

    Args:
        bench: The bench of this target.
        statements: Name of each other target -> its statements.

    Returns:
        Their target facts on training families, facts of this bench's own target left out;
        targets without any others are passed over.
    """
    own = {fact.key for fact in bench.sets["target"].facts}
    result: Known = {}
    for name, rows in statements.items():
        chosen = [
            one
            for one in rows
            if one.split == Split.TARGET and one.role == Role.TRAIN and one.fact.key not in own
        ]
        if chosen:
            items = bench.reader.items(chosen)
            result[name] = (items, scored(bench.upper, items))
    return result


def cross_row(bench: Bench, others: Known) -> dict[str, float]:
    """Return one row of the cross matrix without its diagonal, of the model as it is now.

    Args:
        bench: The bench of the target whose subnetwork is removed now.
        others: The other targets.

    Returns:
        Target -> dNLL, mean over its facts [nats per tail token].
    """
    return {
        name: float(fact_difference(items, scored(bench.upper, items), original).mean())
        for name, (items, original) in others.items()
    }


def row_dominance(own: float, others: Mapping[str, float]) -> float:
    """Return how much more one subnetwork damages its own target than the others.

    Args:
        own: dNLL on its own target [nats].
        others: dNLL on each other target, at least one [nats].

    Returns:
        Own damage over the mean absolute damage to the others, which is taken as at least 0.001
        nat.
    """
    apart = [abs(value) for value in others.values()]
    return own / max(sum(apart) / len(apart), SMALLEST)


def diagonal_dominance(matrix: Mapping[str, Mapping[str, float]]) -> float:
    """Return mean diagonal over mean absolute off-diagonal of a cross matrix.

    Args:
        matrix: E[a][b]: dNLL on target b after removing the subnetwork of a [nats].

    Returns:
        The ratio; the denominator is at least 0.001 nat.

    Raises:
        ValueError: If there are fewer than two targets, or the matrix is not square.
    """
    if len(matrix) < 2 or any(row.keys() != matrix.keys() for row in matrix.values()):
        raise ValueError("diagonal dominance needs a square matrix over at least two targets")
    own = sum(matrix[a][a] for a in matrix) / len(matrix)
    apart = [abs(matrix[a][b]) for a in matrix for b in matrix if a != b]
    return own / max(sum(apart) / len(apart), SMALLEST)
