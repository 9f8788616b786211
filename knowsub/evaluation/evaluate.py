"""The whole evidence for one mask: the one evaluation behind `test` and every comparison.

References are computed once under the original weights; metrics are then computed with the mask's
weights removed, with random masks of the same size removed, and with other methods' masks removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.evaluation.choice import MultipleChoice, multiple_choice, prepare_multiple_choice
from knowsub.evaluation.context import EvalContext, ScoreSet, best_prompts, open_context
from knowsub.evaluation.generation import Said, free_generation, says_objects
from knowsub.evaluation.metrics import (
    HELD_OUT,
    AnswerDistribution,
    KnownFacts,
    Metrics,
    OtherTargets,
    answer_distribution,
    at_equal_damage,
    control_set,
    cross_row,
    damage,
    encode_other_targets,
    forgetting,
    paraphrase,
    perplexity,
    ppl_ratio,
    prior_over_objects,
    row_dominance,
    specificity,
)
from knowsub.evaluation.options import TestOptions
from knowsub.evaluation.records import Evidence, top_answers
from knowsub.evaluation.relearning import relearning_curves, without
from knowsub.evaluation.retain import (
    RetainReference,
    beside_retain,
    connectivity,
    forget_quality,
    open_retain,
)
from knowsub.evaluation.robustness import (
    full_ablation,
    logit_lens,
    logit_lens_hits,
    minimality,
    quantization,
    relearning,
    sufficiency,
)
from knowsub.kg.facts import Role, Statement
from knowsub.lm.batch import encode_text
from knowsub.masks.ablation import all_matrices, masked_matrices
from knowsub.masks.mask import Mask, load_mask
from knowsub.progress import with_progress

FORGETTING = {
    "target": ("forgetting", Role.TRAIN),
    "paraphrase": ("paraphrase_forgetting", Role.TEST),
}
"""Set -> its forgetting metric, and the template families that its prior is taken over."""


@dataclass
class References:
    """What the original model answered, group by group; a group that is off is None or empty."""

    multiple_choice: MultipleChoice | None = None
    """Choices, random objects and identifiability."""
    known: dict[str, KnownFacts] = field(default_factory=dict)
    """`target` and `paraphrase` -> what was known."""
    distributions: dict[str, AnswerDistribution] = field(default_factory=dict)
    """`neighborhood` and `far` -> whole distributions."""
    logit_lens: Float[Tensor, " fact"] | None = None
    """Logit-lens hits per target fact [fraction]."""
    other_targets: OtherTargets = field(default_factory=dict)
    """The facts of other targets."""
    said: Said = field(default_factory=dict)
    """What the original model says where it writes freely."""
    retain: RetainReference | None = None
    """What the retain model answers."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Group -> why it cannot be computed."""


def compute_references(
    context: EvalContext,
    options: TestOptions,
    other_statements: Mapping[str, Sequence[Statement]],
    generator: torch.Generator,
    retain: PreTrainedModel | None = None,
) -> References:
    """Return the original model's answers on one target KG; its weights must be in place.

    `other_statements` maps the name of each other target to its statements; `retain` is the model
    that was trained without the target's facts.
    """
    references = References(said=says_objects(context, options.generation_tokens))
    facts = context.sets["target"]
    if options.multiple_choice or options.logit_lens:
        try:
            references.multiple_choice = prepare_multiple_choice(context, options, generator)
        except ValueError as error:
            references.skipped["multiple_choice"] = str(error)
    if options.forgetting or options.quantization:
        references.known = _known_facts(context, options.reference_subjects, generator)
    if options.specificity:
        references.distributions = {
            name: answer_distribution(context.upper, context.sets[set_name])
            for name, set_name in HELD_OUT.items()
            if set_name in context.sets
        }
    if options.logit_lens:
        hits = logit_lens_hits(context.encoder.model, facts, options.logit_lens_tokens)
        references.logit_lens = facts.per_fact(hits)
    if options.cross_target:
        references.other_targets = encode_other_targets(context, other_statements)
    if options.forget_quality:
        _ask_retain(context, references, options, retain)
    return references


def _ask_retain(
    context: EvalContext,
    references: References,
    options: TestOptions,
    model: PreTrainedModel | None,
) -> None:
    questions = references.multiple_choice if options.multiple_choice else None
    try:
        references.retain = open_retain(context, model, options, questions)
    except ValueError as error:
        references.skipped["forget_quality"] = str(error)


def _known_facts(
    context: EvalContext, n_subjects: int, generator: torch.Generator
) -> dict[str, KnownFacts]:
    """Return what the original model knew of the sets that forgetting is computed on."""
    known = {}
    for name, (_, role) in FORGETTING.items():
        if name in context.sets:
            facts = context.sets[name]
            same_role = [s for s in context.statements if s.role == role]
            prior = prior_over_objects(context, facts, same_role, n_subjects, generator)
            nll = facts.per_fact(context.original.sets[name].mean_nll)
            known[name] = KnownFacts(facts, nll, prior)
    return known


def compute_metrics(
    context: EvalContext,
    references: References,
    options: TestOptions,
    texts: Sequence[str] | None = None,
) -> tuple[Metrics, ScoreSet]:
    """Return the metrics that every method is compared by, of the model as it is now.

    Perplexity, forgetting, multiple choice, paraphrase and specificity, and the scores behind
    them. Texts are given by name; None = all.
    """
    now = context.score(texts=texts)
    metrics = perplexity(context, now)
    if options.forgetting:
        for name, known in references.known.items():
            metrics |= forgetting(FORGETTING[name][0], known, now.sets[name])
    if options.multiple_choice and references.multiple_choice is not None:
        metrics |= multiple_choice(context, references.multiple_choice)
    if options.paraphrase:
        metrics |= paraphrase(context, now)
    if options.specificity:
        metrics |= specificity(context, references.distributions, now)
    if references.retain is not None:
        metrics.values |= forget_quality(context, references.retain, now)
    return metrics, now


def evaluate_mask(
    context: EvalContext,
    mask: Mask,
    random_masks: Iterable[Mask],
    options: TestOptions,
    references: References,
    generator: torch.Generator,
) -> Evidence:
    """Return the evidence for one mask, every group that the options ask for.

    The original weights must be in place. `random_masks` have the mask's size per matrix;
    `options.random_masks` of them are used. Raises ValueError if there is none.
    """
    evidence = Evidence(Metrics(context.mask_size(mask)), scores={"original": context.original})
    best = context.encoder.encode(best_prompts(context.sets["target"].statements, 1))
    evidence.prompts = {s.fact.key: s.prompt for s in best.statements}
    evidence.answers["original"] = top_answers(context, best)
    with context.ablated(mask):
        metrics, evidence.scores["remaining"] = compute_metrics(context, references, options)
        metrics |= free_generation(context, references.said, options.generation_tokens)
        evidence.answers["remaining"] = top_answers(context, best)
        evidence.cross = cross_row(context, references.other_targets)
        if evidence.cross:
            own = metrics.values["target_dnll"]
            metrics.values["diagonal_dominance"] = row_dominance(own, evidence.cross)
        if references.logit_lens is not None and references.multiple_choice is not None:
            swapped, budget = references.multiple_choice.swapped, options.logit_lens_tokens
            metrics |= logit_lens(context, swapped, references.logit_lens, budget)
    evidence.metrics |= metrics | Metrics(skipped=references.skipped)
    random_mask = _score_random_masks(context, evidence, random_masks, options)
    if options.quantization:
        known = references.known["target"]
        evidence.metrics |= quantization(context, mask, known, options.quantization_bits)
    evidence.metrics |= _other_weights(context, mask, random_mask, options, generator)
    if references.retain is not None:
        scores = evidence.scores["random"]
        evidence.metrics |= beside_retain(context, references.retain, random_mask, scores)
    if options.relearning_curves or options.connectivity:
        _compare_models(context, evidence, (mask, random_mask), options, references.retain)
    return evidence


def _compare_models(
    context: EvalContext,
    evidence: Evidence,
    masks: tuple[Mask, Mask],
    options: TestOptions,
    retain: RetainReference | None,
) -> None:
    """Add relearning curves and connectivity; the masks are the subnetwork and a random one."""
    models = {"original": context.encoder.model, "remaining": without(context, masks[0])}
    if retain is not None:
        models["retain"] = retain.model
    if options.connectivity:
        evidence.metrics |= connectivity(context, models)
    if options.relearning_curves:
        models["random"] = without(context, masks[1])
        metrics, evidence.curves = relearning_curves(context, models, options)
        evidence.metrics |= metrics


def _other_weights(
    context: EvalContext,
    mask: Mask,
    random_mask: Mask,
    options: TestOptions,
    generator: torch.Generator,
) -> Metrics:
    """Return the metrics that remove or train weights of their own."""
    metrics = Metrics()
    if options.full_ablation:
        metrics |= full_ablation(context, mask)
    if options.minimality:
        metrics |= sufficiency(context, mask)
        metrics |= minimality(context, mask, options.size_perturbations, generator)
    if options.relearning:
        metrics |= relearning(context, mask, random_mask, options)
    return metrics


def _score_random_masks(
    context: EvalContext, evidence: Evidence, random_masks: Iterable[Mask], options: TestOptions
) -> Mask:
    """Add the random masks' scores and mean PPL ratios to the evidence; return the first mask.

    The first is scored on every set, the others on the target, `random_text_masks` of all on texts.
    """
    first, count = None, options.random_masks
    drawn = with_progress(islice(random_masks, count), "random masks", count)
    ratios: dict[str, list[float]] = {"target": []}
    for index, mask in enumerate(drawn):
        first = first or mask
        with context.ablated(mask):
            now = context.score(
                sets=None if index == 0 else ("target",),
                texts=None if index < options.random_text_masks else (),
            )
        if index == 0:
            evidence.scores["random"] = now
        target = now.sets["target"]
        evidence.random.append(float(context.dnll("target", target).mean()))
        ratios["target"].append(ppl_ratio(target, context.original.sets["target"]))
        for name, scores in now.texts.items():
            ratios.setdefault(name, []).append(ppl_ratio(scores, context.original.texts[name]))
    if first is None:
        raise ValueError("the evidence needs at least one random mask")
    for name, values in ratios.items():
        evidence.metrics.values[f"random_{name}_ppl_ratio"] = sum(values) / len(values)
    return first


COMPARED_TEXTS = ("text",)
"""The texts that methods are compared on; the corpus used nowhere in training is not."""


def compare_masks(
    context: EvalContext, masks: Mapping[str, Mask], options: TestOptions, references: References
) -> dict[str, Metrics]:
    """Return name -> metrics for each of several masks; the original weights must be in place."""
    results = {}
    for name, mask in masks.items():
        with context.ablated(mask):
            metrics, _ = compute_metrics(context, references, options, COMPARED_TEXTS)
        results[name] = Metrics(context.mask_size(mask)) | metrics
    return results


class MaskEvaluation:
    """A model, the knowledge graph of one target, and the references for one of its masks.

    Everything is cached and scored when it is made, under the original weights.

    Args:
        model: The original model.
        tokenizer: Its tokenizer.
        mask: The critical subnetwork; its matrices are the maskable ones.
        target: The target that it was trained to remove.
        statements: Name of every target -> statements of its knowledge graph.
        texts: Name -> running text.
        options: The groups wanted.
        retain: The model that was trained without the target's facts, where there is one.

    Raises:
        ValueError: If a set that is needed is empty, a text or a statement does not fit, or the
            retain model is of another shape.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        mask: Mask,
        target: str,
        statements: Mapping[str, Sequence[Statement]],
        texts: Mapping[str, str],
        options: TestOptions,
        retain: PreTrainedModel | None = None,
    ) -> None:
        self.options = options
        self.generator = torch.Generator().manual_seed(options.seed)
        blocks = {
            name: encode_text(tokenizer, text, options.block_tokens)[: options.text_blocks or None]
            for name, text in texts.items()
        }
        matrices = masked_matrices(all_matrices(model), mask)
        self.context = open_context(
            model, tokenizer, matrices, statements[target], blocks, options.control_prompts
        )
        others = {name: rows for name, rows in statements.items() if name != target}
        self.references = compute_references(self.context, options, others, self.generator, retain)

    def evaluate(self, mask: Mask, random_masks: Iterable[Mask]) -> Evidence:
        """Return the evidence for the mask; see `evaluate_mask`."""
        return evaluate_mask(
            self.context, mask, random_masks, self.options, self.references, self.generator
        )

    def compare_methods(
        self, folder: Path, methods: Sequence[str], multipliers: Sequence[float], trained: Metrics
    ) -> dict[str, Metrics]:
        """Return the metrics of other methods' masks, beside those of the trained mask.

        Args:
            folder: Where the stage `baseline` wrote them.
            methods: Names of the methods.
            multipliers: Further sizes, as multiples of the trained mask's.
            trained: Metrics of the trained mask.

        Returns:
            Method -> its metrics; where several sizes are compared, `target_dnll_at_equal_control`
            is its dNLL on the target at the size at which control facts lose as much as with the
            trained mask (`at_equal_damage`) [nats per object token].

        Raises:
            FileNotFoundError: If a mask is missing.
            ValueError: If a mask is corrupt.
        """
        if not self.options.baselines:
            return {}
        masks = {method: load_mask(folder / f"{method}.safetensors") for method in methods}
        control = trained.values[f"{control_set(self.context)}_dnll"]
        results = compare_masks(self.context, masks, self.options, self.references)
        for method in methods if self.options.baseline_sizes else ():
            files = [folder / f"sizes/{method}-{factor}.safetensors" for factor in multipliers]
            of_method = [masks[method], *(load_mask(file) for file in files)]
            sizes = [damage(self.context, mask) for mask in of_method]
            equal = at_equal_damage(sizes, control)
            results[method].values["target_dnll_at_equal_control"] = equal
        return results
