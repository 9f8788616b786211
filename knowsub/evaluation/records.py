"""The evidence as files: metrics with intervals, and figures fact by fact."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from knowsub.evaluation.context import BUCKET, EncodedFacts, EvalContext, ScoreSet, best_prompts
from knowsub.evaluation.metrics import Metrics
from knowsub.hypotheses import hierarchical_bootstrap, paired_wilcoxon, permutation_p
from knowsub.lm.score import Scores, target_logits


@dataclass
class Evidence:
    """All that was found about one mask."""

    metrics: Metrics
    """Its figures."""
    random: list[float] = field(default_factory=list)
    """dNLL on the target after each random mask of the same size per site [nats per token]."""
    cross: dict[str, float] = field(default_factory=dict)
    """Its row of the cross matrix, without the diagonal [nats per tail token]."""
    views: dict[str, ScoreSet] = field(default_factory=dict)
    """`original`, `remaining`, `random` (the first random mask) -> what each says."""
    answers: dict[str, dict[str, list[list[str | float]]]] = field(default_factory=dict)
    """`original`, `remaining` -> top answers per target fact."""


TOP = 5
"""Answers shown per prompt."""


def best_items(bench: EvalContext) -> EncodedFacts:
    """Return the trained prompt of lowest NLL of each target fact, ready to be asked."""
    return bench.encoder.encode(best_prompts(bench.sets["target"].statements, 1))


@torch.no_grad()
def top_answers(bench: EvalContext, items: EncodedFacts) -> dict[str, list[list[str | float]]]:
    """Return the first tokens that the model, as it is now, would answer with.

    Args:
        bench: The bench.
        items: One prompt per fact.

    Returns:
        Key of each fact -> five pairs of token text and probability [fraction], best first.
    """
    found: dict[str, list[list[str | float]]] = {}
    for rows, batch in zip(items.rows, items.batches, strict=True):
        asked = replace(batch, target_mask=batch.first_targets)
        _, logits, _ = next(target_logits(bench.upper, asked, BUCKET))
        top = logits.float().softmax(dim=-1).topk(TOP)
        for row, tokens, values in zip(rows.tolist(), top.indices, top.values, strict=True):
            words = [str(bench.encoder.tokenizer.decode([token])) for token in tokens.tolist()]
            pairs = zip(words, values.tolist(), strict=True)
            key = items.statements[row].fact.key
            found[key] = [[word, round(value, 6)] for word, value in pairs]
    return found


def fact_rows(
    bench: EvalContext,
    views: Mapping[str, ScoreSet],
    answers: Mapping[str, Mapping[str, list[list[str | float]]]],
) -> Iterator[dict[str, Any]]:
    """Yield one row per fact, set and view.

    Args:
        bench: The bench.
        views: `original`, `remaining`, `random` -> what each says.
        answers: View -> `top_answers` of it.

    Yields:
        `fact`, `head`, `tail`, `split`, `role`, `view`, `nll` [nats per tail token], `rank` and
        `correct` (means over the fact's prompts in that role), `prompts` (their number), and
        for target facts on trained prompts `top5` where the view has answers.
    """
    for view, says in views.items():
        for name, scores in says.sets.items():
            for row in _set_rows(bench.sets[name], scores):
                row["view"] = view
                if name == "target" and view in answers:
                    row["top5"] = answers[view][row["fact"]]
                yield row


def _set_rows(items: EncodedFacts, scores: Scores) -> Iterator[dict[str, Any]]:
    first = {one.fact: one for one in reversed(items.statements)}
    prompts = torch.bincount(items.owner, minlength=len(items.facts)).tolist()
    columns = [
        items.per_fact(one).tolist() for one in (scores.mean_nll, scores.rank, scores.correct)
    ]
    for fact, nll, rank, correct, count in zip(items.facts, *columns, prompts, strict=True):
        yield {
            "fact": fact.key,
            "subject": fact.subject_words,
            "object": fact.object_words,
            "split": str(first[fact].split),
            "role": str(first[fact].role),
            "nll": round(nll, 6),
            "rank": rank,
            "correct": correct,
            "prompts": count,
        }


def write_evidence(
    out: Path, found: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> list[Path]:
    """Write what was found about one mask.

    Args:
        out: Folder, made where it is missing.
        found: Figures and their statistics; only finite numbers.
        rows: Rows of `fact_rows`.

    Returns:
        The files `figures.json` and `facts.jsonl`.

    Raises:
        ValueError: If a number is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    figures, facts = out / "figures.json", out / "facts.jsonl"
    figures.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    facts.write_text("".join(lines), encoding="utf-8")
    return [figures, facts]


BEATEN = "target_dnll"
"""The figure by which the trained mask is compared with the masks of other methods."""


def intervals(finding: Metrics, level: float, resamples: int) -> dict[str, list[float]]:
    """Return a bootstrap interval over facts for every figure that is a mean over facts.

    Args:
        finding: The figures with their values per fact.
        level: Confidence level [fraction].
        resamples: Number of resamples.

    Returns:
        Figure -> lower and upper end, in its unit.
    """
    found = {}
    for name, sample in finding.per_fact.items():
        ends = hierarchical_bootstrap([sample.values], level, resamples)
        found[name] = [sample.scaled(ends.low), sample.scaled(ends.high)]
    return found


def against_methods(
    finding: Metrics, methods: Mapping[str, Metrics]
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
    own, found = finding.per_fact[BEATEN].values, {}
    for name, other in methods.items():
        result = paired_wilcoxon(own, other.per_fact[BEATEN].values, "greater")
        found[name] = {"pvalue": result.pvalue, "effect": result.effect}
    return found


def to_json(
    evidence: Evidence, methods: Mapping[str, Metrics], level: float, resamples: int
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
    finding = evidence.metrics
    p = permutation_p(finding.values[BEATEN], evidence.random)
    return {
        "figures": finding.values | {"random_p": p.pvalue},
        "intervals": intervals(finding, level, resamples),
        "methods": {name: other.values for name, other in methods.items()},
        "method_intervals": {
            name: intervals(other, level, resamples) for name, other in methods.items()
        },
        "against_methods": against_methods(finding, methods),
        "cross": evidence.cross,
        "random_target_dnll": evidence.random,
        "skipped": finding.skipped,
    }
