"""Everything that is asked of a mask, prepared while the original weights are in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from knowsub.evaluation.bench import Bench, View
from knowsub.evaluation.cross import Known as CrossKnown
from knowsub.evaluation.cross import other_targets
from knowsub.evaluation.finding import Finding
from knowsub.evaluation.forgetting import Known, forgetting, prior_over_tails
from knowsub.evaluation.options import TestOptions
from knowsub.evaluation.paraphrase import paraphrase
from knowsub.evaluation.perplexity import perplexity
from knowsub.evaluation.recall import Quiz, recall, set_quiz
from knowsub.evaluation.residual import residual_hits
from knowsub.evaluation.specificity import HELD_OUT, Answers, answers, specificity
from knowsub.kg.triple import Role, Statement

FORGETTING = {
    "target": ("forgetting", Role.TRAIN),
    "paraphrase": ("paraphrase_forgetting", Role.TEST),
}
"""Set -> name of its forgetting figure, and the template families that its prior is taken over."""


@dataclass
class Exam:
    """What the original model answered, group by group; a group that is off is None or empty."""

    quiz: Quiz | None = None
    """Choice, random tails and head information."""
    known: dict[str, Known] = field(default_factory=dict)
    """`target` and `paraphrase` -> what was known."""
    answers: dict[str, Answers] = field(default_factory=dict)
    """`near` and `far` -> whole distributions."""
    residual: Float[Tensor, " fact"] | None = None
    """Residual hits per target fact."""
    others: CrossKnown = field(default_factory=dict)
    """The facts of other targets."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Group -> why it cannot be asked."""


def set_exam(
    bench: Bench,
    options: TestOptions,
    others: Mapping[str, Sequence[Statement]],
    generator: torch.Generator,
) -> Exam:
    """Return the exam on one target KG; the original weights must be in place.

    Args:
        bench: The bench.
        options: The groups wanted.
        others: Name of each other target -> its statements.
        generator: Source of randomness.

    Returns:
        The exam.
    """
    exam = Exam()
    if options.recall or options.residual:
        try:
            exam.quiz = set_quiz(bench, options.distractors, options.reference_draws, generator)
        except ValueError as error:
            exam.skipped["recall"] = str(error)
    if options.forgetting or options.quantise:
        exam.known = _known(bench, options.reference_heads, generator)
    if options.specificity:
        named = {name: source for name, source in HELD_OUT.items() if source in bench.sets}
        exam.answers = {name: answers(bench.upper, bench.sets[one]) for name, one in named.items()}
    if options.residual:
        items = bench.sets["target"]
        hits = residual_hits(bench.reader.model, items, options.residual_budget)
        exam.residual = items.per_fact(hits)
    if options.cross:
        exam.others = other_targets(bench, others)
    return exam


def _known(bench: Bench, heads: int, generator: torch.Generator) -> dict[str, Known]:
    known = {}
    for name, (_, role) in FORGETTING.items():
        if name in bench.sets:
            items = bench.sets[name]
            pool = [one for one in bench.statements if one.role == role]
            prior = prior_over_tails(bench.reader, bench.upper, items, pool, heads, generator)
            nll = items.per_fact(bench.original.sets[name].mean_nll)
            known[name] = Known(items, nll, prior)
    return known


def judge(
    bench: Bench, exam: Exam, options: TestOptions, texts: Sequence[str] | None = None
) -> tuple[Finding, View]:
    """Return the figures that every method is compared by, of the model as it is now.

    Args:
        bench: The bench.
        exam: The exam.
        options: The groups wanted.
        texts: Names of the texts to score; None = all.

    Returns:
        Perplexity, forgetting, recall, paraphrase and specificity; and the scores behind them.
    """
    now = bench.look(texts=texts)
    finding = perplexity(bench, now)
    if options.forgetting:
        for name, known in exam.known.items():
            finding = finding | forgetting(FORGETTING[name][0], known, now.sets[name])
    if options.recall and exam.quiz is not None:
        finding = finding | recall(bench, exam.quiz)
    if options.paraphrase:
        finding = finding | paraphrase(bench, now)
    if options.specificity:
        finding = finding | specificity(bench, exam.answers, now)
    return finding, now
