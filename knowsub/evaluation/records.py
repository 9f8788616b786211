"""The evidence as files: metrics with intervals and tests, and scores fact by fact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from knowsub.artifacts import json_text
from knowsub.evaluation.context import BUCKET, EncodedFacts, EvalContext, ScoreSet
from knowsub.evaluation.metrics import Metrics
from knowsub.evaluation.relearning import Curves, PerFactRatio, curves_to_json
from knowsub.hypotheses import (
    hierarchical_bootstrap,
    paired_wilcoxon,
    permutation_p,
    ratio_interval,
)
from knowsub.lm.score import Scores, target_logits

TopAnswers = dict[str, list[list[str | float]]]
"""Key of a fact -> pairs of token text and probability [fraction], best first."""


@dataclass
class Evidence:
    """All that was found about one mask."""

    metrics: Metrics
    """Its metrics."""
    random: list[float] = field(default_factory=list)
    """dNLL on the target after each random mask of the same size per matrix [nats per token]."""
    cross: dict[str, float] = field(default_factory=dict)
    """Its row of the cross matrix, without the diagonal [nats per object token]."""
    scores: dict[str, ScoreSet] = field(default_factory=dict)
    """`original`, `remaining`, `random` (the first random mask) -> scores of that model."""
    curves: Curves = field(default_factory=dict)
    """Relearning curves by condition and model."""
    answers: dict[str, TopAnswers] = field(default_factory=dict)
    """`original`, `remaining` -> top answers per target fact."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Key of a target fact -> the prompt that was answered."""


TOP_ANSWERS = 5
"""Answers shown per prompt."""


@torch.no_grad()
def top_answers(context: EvalContext, facts: EncodedFacts) -> TopAnswers:
    """Return the five likeliest first tokens after one prompt per fact, of the model as it is."""
    answers: TopAnswers = {}
    decode = context.encoder.tokenizer.decode
    for rows, batch in zip(facts.bucket_rows, facts.batches, strict=True):
        prompt_ends = replace(batch, target_mask=batch.first_targets)
        _, logits, _ = next(target_logits(context.upper, prompt_ends, BUCKET))
        top = logits.float().softmax(dim=-1).topk(TOP_ANSWERS)
        for row, tokens, values in zip(rows.tolist(), top.indices, top.values, strict=True):
            words = [str(decode([token])) for token in tokens.tolist()]
            answers[facts.statements[row].fact.key] = [
                [word, round(value, 6)] for word, value in zip(words, values.tolist(), strict=True)
            ]
    return answers


def fact_rows(context: EvalContext, evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Yield one row per fact, set and state of the model.

    A row has `fact`, `subject`, `object`, `split`, `role`, `nll` [nats per object token], `rank`
    and `correct` (means over the fact's prompts in that role), `prompts` (their number), `view`
    (`original`, `remaining` or `random`), and for target facts on trained prompts `top5`, with the
    `prompt` that they answer, where that state's answers were recorded.
    """
    for state, scored in evidence.scores.items():
        for name, scores in scored.sets.items():
            for row in _set_rows(context.sets[name], scores):
                row["view"] = state
                if name == "target" and state in evidence.answers:
                    row["top5"] = evidence.answers[state][row["fact"]]
                    row["prompt"] = evidence.prompts[row["fact"]]
                yield row


def _set_rows(facts: EncodedFacts, scores: Scores) -> Iterator[dict[str, Any]]:
    """Yield one row per fact of a set."""
    first = {s.fact: s for s in reversed(facts.statements)}
    prompts = torch.bincount(facts.fact_index, minlength=len(facts.facts)).tolist()
    means = [
        facts.per_fact(values).tolist() for values in (scores.mean_nll, scores.rank, scores.correct)
    ]
    for fact, nll, rank, correct, count in zip(facts.facts, *means, prompts, strict=True):
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
    folder: Path, evidence: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> list[Path]:
    """Write the results of `to_json` and `fact_rows` to a folder; return both files.

    They are `figures.json` and `facts.jsonl`. Raises ValueError if a number is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics, facts = folder / "figures.json", folder / "facts.jsonl"
    metrics.write_text(json_text(evidence, metrics, indent=1) + "\n", encoding="utf-8")
    facts.write_text("".join(json_text(row, facts) + "\n" for row in rows), encoding="utf-8")
    return [metrics, facts]


COMPARED_METRIC = "target_dnll"
"""The metric by which the trained mask is compared with random masks and other methods' masks."""


def intervals(metrics: Metrics, level: float, resamples: int) -> dict[str, list[float]]:
    """Return a bootstrap interval over facts for every metric that is a mean or ratio of means.

    Percentile bootstrap, sampled; no null hypothesis, no correction. Metric -> [lower end, upper
    end] in its unit.
    """
    ends = {}
    for name, per_fact in metrics.per_fact.items():
        if isinstance(per_fact, PerFactRatio):
            ends[name] = list(ratio_interval(per_fact.values, per_fact.over, level, resamples))
            continue
        interval = hierarchical_bootstrap([per_fact.values], level, resamples)
        ends[name] = [per_fact.scaled(interval.low), per_fact.scaled(interval.high)]
    return ends


def against_methods(
    metrics: Metrics, methods: Mapping[str, Metrics]
) -> dict[str, dict[str, float]]:
    """Return whether the trained mask damages the target more than other methods' masks do.

    Wilcoxon signed-rank test over facts. Null hypothesis: the differences in dNLL, trained mask
    minus method, are symmetric about 0. Alternative: they lie above 0. Exact for up to 50 facts
    without ties and zeros, else by the normal approximation. No correction here; the report
    corrects over targets.

    Method -> `pvalue` and `effect`, the Hodges-Lehmann difference [nats per object token].
    """
    trained, results = metrics.per_fact[COMPARED_METRIC].values, {}
    for name, other in methods.items():
        test = paired_wilcoxon(trained, other.per_fact[COMPARED_METRIC].values, "greater")
        results[name] = {"pvalue": test.pvalue, "effect": test.effect}
    return results


def answer_changes(original: Scores, remaining: Scores) -> dict[str, list[float]]:
    """Return the mean, the least and the greatest change over the statements of a set.

    `rank`: of the 0-based vocabulary rank; `log_probability`: of the mean over the object's tokens
    [nats per token]. Positive ranks and negative log-probabilities are a worse answer.

    Source: the reference code prints both for every set of facts.
    """
    changes = {
        "rank": (remaining.rank - original.rank).double(),
        "log_probability": original.mean_nll.double() - remaining.mean_nll.double(),
    }
    return {
        name: [float(values.mean()), float(values.min()), float(values.max())]
        for name, values in changes.items()
    }


def to_json(
    evidence: Evidence, methods: Mapping[str, Metrics], level: float, resamples: int
) -> dict[str, Any]:
    """Return everything about one mask as JSON holds it.

    `random_p` is the permutation p of dNLL on the target. Null hypothesis: the mask is one more
    random mask of its size per matrix. Alternative: its dNLL is larger. Sampled, one test, no
    correction.

    Args:
        evidence: The evidence.
        methods: Method -> metrics of its mask at the same size.
        level: Confidence level of the intervals [fraction].
        resamples: Bootstrap resamples.

    Returns:
        `figures`, `intervals`, `methods`, `method_intervals`, `against_methods`, `cross` (dNLL on
        other targets), `random_target_dnll` (one per random mask), `changes` (set ->
        `answer_changes`), `relearning` (see `curves_to_json`) and `skipped`.
    """
    metrics = evidence.metrics
    p = permutation_p(metrics.values[COMPARED_METRIC], evidence.random)
    sets = {view: scores.sets for view, scores in evidence.scores.items()}
    return {
        "figures": metrics.values | {"random_p": p},
        "intervals": intervals(metrics, level, resamples),
        "methods": {name: other.values for name, other in methods.items()},
        "method_intervals": {
            name: intervals(other, level, resamples) for name, other in methods.items()
        },
        "against_methods": against_methods(metrics, methods),
        "cross": evidence.cross,
        "random_target_dnll": evidence.random,
        "changes": {
            name: answer_changes(original, sets["remaining"][name])
            for name, original in sets["original"].items()
        },
        "relearning": curves_to_json(evidence.curves),
        "skipped": metrics.skipped,
    }
