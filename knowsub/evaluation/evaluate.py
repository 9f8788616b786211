"""The whole evidence for one mask: the one evaluation behind `test` and every comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import block_count, maskable_matrices
from knowsub.evaluation.choice import MultipleChoice, multiple_choice, set_multiple_choice
from knowsub.evaluation.context import EvalContext, ScoreSet, open_context, text_blocks
from knowsub.evaluation.logit_lens import logit_lens, logit_lens_hits
from knowsub.evaluation.metrics import (
    KnownFacts,
    Metrics,
    fact_difference,
    forgetting,
    paraphrase,
    perplexity,
    ppl_ratio,
    prior_over_objects,
)
from knowsub.evaluation.options import TestOptions
from knowsub.evaluation.records import Evidence, best_items, top_answers
from knowsub.evaluation.relearning import folds, relearn, relearning
from knowsub.evaluation.robustness import full_ablation, minimality, quantization, sufficiency
from knowsub.evaluation.specificity import (
    HELD_OUT,
    AnswerDistribution,
    answers,
    at_equal_damage,
    control_set,
    cross_row,
    damage,
    other_targets,
    row_dominance,
    specificity,
)
from knowsub.evaluation.specificity import OtherTarget as CrossKnown
from knowsub.kg.facts import Role, Statement
from knowsub.masks.ablation import remaining_weights
from knowsub.masks.mask import Mask, load_mask

FORGETTING = {
    "target": ("forgetting", Role.TRAIN),
    "paraphrase": ("paraphrase_forgetting", Role.TEST),
}
"""Set -> name of its forgetting figure, and the template families that its prior is taken over."""


@dataclass
class References:
    """What the original model answered, group by group; a group that is off is None or empty."""

    multiple_choice: MultipleChoice | None = None
    """Choice, random tails and head information."""
    known: dict[str, KnownFacts] = field(default_factory=dict)
    """`target` and `paraphrase` -> what was known."""
    answers: dict[str, AnswerDistribution] = field(default_factory=dict)
    """`near` and `far` -> whole distributions."""
    logit_lens: Float[Tensor, " fact"] | None = None
    """Residual hits per target fact."""
    others: CrossKnown = field(default_factory=dict)
    """The facts of other targets."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Group -> why it cannot be asked."""


def compute_references(
    bench: EvalContext,
    options: TestOptions,
    others: Mapping[str, Sequence[Statement]],
    generator: torch.Generator,
) -> References:
    """Return the exam on one target KG; the original weights must be in place.

    Args:
        bench: The bench.
        options: The groups wanted.
        others: Name of each other target -> its statements.
        generator: Source of randomness.

    Returns:
        The exam.
    """
    exam = References()
    if options.multiple_choice or options.logit_lens:
        try:
            exam.multiple_choice = set_multiple_choice(
                bench, options.distractors, options.reference_draws, generator
            )
        except ValueError as error:
            exam.skipped["recall"] = str(error)
    if options.forgetting or options.quantization:
        exam.known = _known(bench, options.reference_subjects, generator)
    if options.specificity:
        named = {name: source for name, source in HELD_OUT.items() if source in bench.sets}
        exam.answers = {name: answers(bench.upper, bench.sets[one]) for name, one in named.items()}
    if options.logit_lens:
        items = bench.sets["target"]
        hits = logit_lens_hits(bench.encoder.model, items, options.logit_lens_tokens)
        exam.logit_lens = items.per_fact(hits)
    if options.cross_target:
        exam.others = other_targets(bench, others)
    return exam


def _known(bench: EvalContext, heads: int, generator: torch.Generator) -> dict[str, KnownFacts]:
    known = {}
    for name, (_, role) in FORGETTING.items():
        if name in bench.sets:
            items = bench.sets[name]
            pool = [one for one in bench.statements if one.role == role]
            prior = prior_over_objects(bench.encoder, bench.upper, items, pool, heads, generator)
            nll = items.per_fact(bench.original.sets[name].mean_nll)
            known[name] = KnownFacts(items, nll, prior)
    return known


def compute_metrics(
    bench: EvalContext, exam: References, options: TestOptions, texts: Sequence[str] | None = None
) -> tuple[Metrics, ScoreSet]:
    """Return the figures that every method is compared by, of the model as it is now.

    Args:
        bench: The bench.
        exam: The exam.
        options: The groups wanted.
        texts: Names of the texts to score; None = all.

    Returns:
        Perplexity, forgetting, recall, paraphrase and specificity; and the scores behind them.
    """
    now = bench.score(texts=texts)
    finding = perplexity(bench, now)
    if options.forgetting:
        for name, known in exam.known.items():
            finding = finding | forgetting(FORGETTING[name][0], known, now.sets[name])
    if options.multiple_choice and exam.multiple_choice is not None:
        finding = finding | multiple_choice(bench, exam.multiple_choice)
    if options.paraphrase:
        finding = finding | paraphrase(bench, now)
    if options.specificity:
        finding = finding | specificity(bench, exam.answers, now)
    return finding, now


COMPARED = ("text",)
"""The texts that methods are compared on; the corpus used nowhere in training is not."""


def evaluate_mask(
    bench: EvalContext,
    mask: Mask,
    randoms: Iterable[Mask],
    options: TestOptions,
    exam: References,
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
    with bench.ablated(mask):
        finding, evidence.views["remaining"] = compute_metrics(bench, exam, options)
        evidence.answers["remaining"] = top_answers(bench, best)
        evidence.cross = cross_row(bench, exam.others)
        if evidence.cross:
            own = finding.values["target_dnll"]
            finding.values["diagonal_dominance"] = row_dominance(own, evidence.cross)
        if exam.logit_lens is not None and exam.multiple_choice is not None:
            finding = finding | logit_lens(
                bench.encoder.model,
                bench.sets["target"],
                exam.multiple_choice.swapped,
                exam.logit_lens,
                options.logit_lens_tokens,
            )
    evidence.metrics = evidence.metrics | finding | Metrics(skipped=exam.skipped)
    first = _randoms(bench, evidence, islice(randoms, options.random_masks), options)
    evidence.metrics = evidence.metrics | _intrusive(bench, mask, first, options, exam, generator)
    return evidence


def _sizes(bench: EvalContext, mask: Mask) -> Metrics:
    parameters = sum(parameter.numel() for parameter in bench.encoder.model.parameters())
    return Metrics({"sparsity": mask.sparsity, "removed_share": mask.size / parameters})


def _randoms(
    bench: EvalContext, evidence: Evidence, randoms: Iterable[Mask], options: TestOptions
) -> Mask:
    """Fill in the random masks' figures and return the first of them."""
    first: Mask | None = None
    ratios: dict[str, list[float]] = {"target": []}
    for index, mask in enumerate(randoms):
        first = first or mask
        texts = None if index < options.random_text_masks else ()
        with bench.ablated(mask):
            now = bench.score(sets=None if index == 0 else ("target",), texts=texts)
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
        evidence.metrics.values[f"random_{name}_ppl_ratio"] = sum(values) / len(values)
    return first


def _intrusive(
    bench: EvalContext,
    mask: Mask,
    random: Mask,
    options: TestOptions,
    exam: References,
    generator: torch.Generator,
) -> Metrics:
    """Return the groups that set weights of their own."""
    finding, model = Metrics(), bench.encoder.model
    if options.full_ablation:
        finding = finding | full_ablation(bench, mask)
    if options.minimality:
        finding = finding | sufficiency(bench, mask)
        finding = finding | minimality(bench, mask, options.size_perturbations, generator)
    if options.quantization:
        weights = remaining_weights(model, bench.sites, mask)
        every = maskable_matrices(model, range(block_count(model)))
        known = exam.known["target"]
        finding = finding | quantization(bench, known, every, weights, options.quantization_bits)
    if options.relearning:
        finding = finding | _relearning(bench, mask, random, options)
    return finding


def _relearning(bench: EvalContext, mask: Mask, random: Mask, options: TestOptions) -> Metrics:
    generator = torch.Generator().manual_seed(options.seed)
    try:
        parts = folds(bench.sets["target"].statements, options.relearning_folds, generator)
    except ValueError as error:
        return Metrics(skipped={"relearning": str(error)})
    original, remaining, other = (
        relearn(
            bench.encoder,
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


def compare_masks(
    bench: EvalContext, masks: Mapping[str, Mask], options: TestOptions, exam: References
) -> dict[str, Metrics]:
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
        with bench.ablated(mask):
            found[name] = _sizes(bench, mask) | compute_metrics(bench, exam, options, COMPARED)[0]
    return found


class MaskEvaluation:
    """A model, the knowledge graph of one target, and the questions about one of its masks.

    Everything is cached when it is made, under the original weights.

    Args:
        model: The original model.
        tokenizer: Its tokenizer.
        mask: The critical subnetwork; its sites are the maskable matrices.
        target: The target that it was trained to remove.
        told: Name of every target -> statements of its knowledge graph.
        texts: Name -> running text.
        options: The groups wanted.

    Raises:
        ValueError: If a set that is needed is empty, or a text or a statement does not fit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        mask: Mask,
        target: str,
        told: Mapping[str, Sequence[Statement]],
        texts: Mapping[str, str],
        options: TestOptions,
    ) -> None:
        self.options = options
        self.generator = torch.Generator().manual_seed(options.seed)
        every = maskable_matrices(model, range(block_count(model)))
        blocks = {
            name: text_blocks(tokenizer, text, options.block_tokens, options.text_blocks)
            for name, text in texts.items()
        }
        self.bench = open_context(
            model,
            tokenizer,
            [site for site in every if site.name in mask.bits],
            told[target],
            blocks,
            options.control_prompts,
        )
        others = {name: rows for name, rows in told.items() if name != target}
        self.exam = compute_references(self.bench, options, others, self.generator)

    def compare_methods(
        self, folder: Path, methods: Sequence[str], factors: Sequence[float], trained: Metrics
    ) -> dict[str, Metrics]:
        """Return the figures of other methods' masks.

        Args:
            folder: Where the stage `baseline` wrote them.
            methods: Names of the methods.
            factors: Further sizes, as multiples of the trained mask's.
            trained: Figures of the trained mask.

        Returns:
            Method -> its figures; among them `target_dnll_at_equal_control`, its dNLL on the target
            at the size at which it damages held-out control facts as much as the trained mask
            does (`damage.at_equal_damage`) [nats per tail token].

        Raises:
            FileNotFoundError: If a mask is missing.
            ValueError: If a mask is corrupt.
        """
        if not self.options.baselines:
            return {}
        masks = {method: load_mask(folder / f"{method}.safetensors") for method in methods}
        control = trained.values[f"{control_set(self.bench)}_dnll"]
        found = compare_masks(self.bench, masks, self.options, self.exam)
        for method in methods if self.options.baseline_sizes else ():
            files = [folder / f"sizes/{method}-{factor}.safetensors" for factor in factors]
            tried = [masks[method], *(load_mask(file) for file in files)]
            sizes = [damage(self.bench, mask) for mask in tried]
            equal = at_equal_damage(sizes, control)
            found[method].values["target_dnll_at_equal_control"] = equal
        return found
