"""The whole evidence for one mask: the one evaluation behind `test` and every comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch

from knowsub.anatomy import block_count, sites
from knowsub.evaluation.bench import Bench, View
from knowsub.evaluation.cross import cross_row, row_dominance
from knowsub.evaluation.exam import Exam, judge
from knowsub.evaluation.finding import Finding
from knowsub.evaluation.minimality import located, minimality, sufficiency
from knowsub.evaluation.options import TestOptions
from knowsub.evaluation.perplexity import fact_difference, ppl_ratio
from knowsub.evaluation.quantise import quantise
from knowsub.evaluation.records import best_items, top_answers
from knowsub.evaluation.relearning import folds, relearn, relearning
from knowsub.evaluation.residual import residual
from knowsub.masks.mask import Mask
from knowsub.masks.removal import remaining_weights

COMPARED = ("text",)
"""The texts that methods are compared on; the corpus used nowhere in training is not."""


@dataclass
class Evidence:
    """All that was found about one mask."""

    finding: Finding
    """Its figures."""
    random: list[float] = field(default_factory=list)
    """dNLL on the target after each random mask of the same size per site [nats per token]."""
    cross: dict[str, float] = field(default_factory=dict)
    """Its row of the cross matrix, without the diagonal [nats per tail token]."""
    views: dict[str, View] = field(default_factory=dict)
    """`original`, `remaining`, `random` (the first random mask) -> what each says."""
    answers: dict[str, dict[str, list[list[str | float]]]] = field(default_factory=dict)
    """`original`, `remaining` -> top answers per target fact."""


def examine(
    bench: Bench,
    mask: Mask,
    randoms: Iterable[Mask],
    options: TestOptions,
    exam: Exam,
    generator: torch.Generator,
) -> Evidence:
    """Return the evidence for one mask, every group that the options ask for.

    Args:
        bench: The bench of the mask's target, its model at the original weights.
        mask: The critical subnetwork.
        randoms: Random masks of the same size per site, at least one; more are not drawn than
            `random_masks` asks for.
        options: The groups wanted.
        exam: The exam on the target.
        generator: Source of randomness.

    Returns:
        The evidence.
    """
    best = best_items(bench)
    evidence = Evidence(_sizes(bench, mask), views={"original": bench.original})
    evidence.answers["original"] = top_answers(bench, best)
    with bench.removed(mask):
        finding, evidence.views["remaining"] = judge(bench, exam, options)
        evidence.answers["remaining"] = top_answers(bench, best)
        evidence.cross = cross_row(bench, exam.others)
        if evidence.cross:
            own = finding.figures["target_dnll"]
            finding.figures["diagonal_dominance"] = row_dominance(own, evidence.cross)
        if exam.residual is not None and exam.quiz is not None:
            finding = finding | residual(
                bench.reader.model,
                bench.sets["target"],
                exam.quiz.swapped,
                exam.residual,
                options.residual_budget,
            )
    evidence.finding = evidence.finding | finding | Finding(skipped=exam.skipped)
    first = _randoms(bench, evidence, islice(randoms, options.random_masks), options)
    evidence.finding = evidence.finding | _intrusive(bench, mask, first, options, exam, generator)
    return evidence


def _sizes(bench: Bench, mask: Mask) -> Finding:
    parameters = sum(parameter.numel() for parameter in bench.reader.model.parameters())
    return Finding({"sparsity": mask.sparsity, "removed_share": mask.size / parameters})


def _randoms(
    bench: Bench, evidence: Evidence, randoms: Iterable[Mask], options: TestOptions
) -> Mask:
    """Fill in the random masks' figures and return the first of them."""
    first: Mask | None = None
    ratios: dict[str, list[float]] = {"target": []}
    for index, mask in enumerate(randoms):
        first = first or mask
        texts = None if index < options.random_text_masks else ()
        with bench.removed(mask):
            now = bench.look(sets=None if index == 0 else ("target",), texts=texts)
        if index == 0:
            evidence.views["random"] = now
        target = bench.original.sets["target"]
        difference = fact_difference(bench.sets["target"], now.sets["target"], target)
        evidence.random.append(float(difference.mean()))
        ratios["target"].append(ppl_ratio(now.sets["target"], target))
        for name, scores in now.texts.items():
            ratios.setdefault(name, []).append(ppl_ratio(scores, bench.original.texts[name]))
    if first is None:
        raise ValueError("the evidence needs at least one random mask")
    for name, values in ratios.items():
        evidence.finding.figures[f"random_{name}_ppl_ratio"] = sum(values) / len(values)
    return first


def _intrusive(
    bench: Bench,
    mask: Mask,
    random: Mask,
    options: TestOptions,
    exam: Exam,
    generator: torch.Generator,
) -> Finding:
    """Return the groups that set weights of their own."""
    finding, model = Finding(), bench.reader.model
    if options.located:
        finding = finding | located(bench, mask)
    if options.minimality:
        finding = finding | sufficiency(bench, mask)
        finding = finding | minimality(bench, mask, options.resize, generator)
    if options.quantise:
        weights = remaining_weights(model, bench.sites, mask)
        every = sites(model, range(block_count(model)))
        known = exam.known["target"]
        finding = finding | quantise(bench, known, every, weights, options.bits)
    if options.relearning:
        finding = finding | _relearning(bench, mask, random, options)
    return finding


def _relearning(bench: Bench, mask: Mask, random: Mask, options: TestOptions) -> Finding:
    generator = torch.Generator().manual_seed(options.seed)
    try:
        parts = folds(bench.sets["target"].statements, options.folds, generator)
    except ValueError as error:
        return Finding(skipped={"relearning": str(error)})
    original, remaining, other = (
        relearn(
            bench.reader,
            bench.sites,
            removed,
            parts,
            options.relearning_steps,
            options.relearning_lr,
            options.seed,
        )
        for removed in (None, mask, random)
    )
    return relearning(original, remaining, other, parts)


def compare(
    bench: Bench, masks: Mapping[str, Mask], options: TestOptions, exam: Exam
) -> dict[str, Finding]:
    """Return the figures that methods are compared by, for each of several masks.

    Args:
        bench: The bench, its model at the original weights.
        masks: Name of each method -> its mask.
        options: The groups wanted.
        exam: The exam on the target.

    Returns:
        Method -> its figures.
    """
    found = {}
    for name, mask in masks.items():
        with bench.removed(mask):
            found[name] = _sizes(bench, mask) | judge(bench, exam, options, COMPARED)[0]
    return found
