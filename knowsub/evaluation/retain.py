"""The remaining model beside one that was never taught the target's facts: the retain model.

Not to know is not to be wrong in just any way. The reference is a model trained in the same way on
everything else; the closer the remaining model's answers are to its answers, the better.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.architectures import MaskableMatrix
from knowsub.evaluation.choice import MultipleChoice, ask_model, multiple_choice
from knowsub.evaluation.context import (
    EncodedFacts,
    EvalContext,
    ScoreSet,
    open_context,
    score_facts,
)
from knowsub.evaluation.metrics import Metrics, control_set, median
from knowsub.evaluation.objects import EncodedPairs, encode_pairs, pair_nll, relation_objects
from knowsub.evaluation.options import TestOptions
from knowsub.hypotheses import two_sample_ks
from knowsub.kg.facts import Split
from knowsub.masks.mask import Mask


@dataclass(frozen=True)
class TruthRatios:
    """Prompts with their true object and with false ones, for one model."""

    facts: EncodedFacts
    """The prompts: paraphrases, that no mask was trained on, where there are any."""
    pairs: EncodedPairs
    """Every prompt with its true object first, then with each of the false ones."""
    n_options: int
    """Objects per prompt."""

    def measure(self, upper: PreTrainedModel) -> Float[Tensor, " fact"]:
        """Return the log of each fact's truth ratio under the upper blocks as they are now.

        The truth ratio is the mean probability of the false objects over that of the true one, each
        to the power of 1 / its tokens; a fact's is the geometric mean over its prompts.

        Source: Maini et al. 2024 (TOFU), equation 1. Their paraphrased answers are here paraphrased
        prompts, as an object has one name; the mean over prompts is ours.
        """
        nll = pair_nll(upper, self.pairs).view(-1, self.n_options)
        false = (-nll[:, 1:]).logsumexp(dim=1) - math.log(self.n_options - 1)
        return self.facts.per_fact(false + nll[:, 0])


def draw_false_objects(
    context: EvalContext, number: int, generator: torch.Generator
) -> dict[str, list[str]]:
    """Return key of a target fact -> its own object, then `number` of the relation untrue of it.

    Fewer where some fact has fewer. Raises ValueError if one has none.
    """
    objects, drawn = relation_objects(context.statements), {}
    for statement in context.sets["target"].statements:
        if statement.fact.key not in drawn:
            false = objects.draw(
                statement.fact, by_frequency=False, number=number, generator=generator
            )
            texts = [objects.texts[index] for index in false]
            drawn[statement.fact.key] = [statement.object, *texts]
    fewest = min(len(options) for options in drawn.values())
    if fewest < 2:
        raise ValueError("the truth ratio needs at least one object that is not true of a subject")
    return {key: options[:fewest] for key, options in drawn.items()}


def truth_ratios(context: EvalContext, options: Mapping[str, Sequence[str]]) -> TruthRatios:
    """Return the prompts of one model with the objects that `draw_false_objects` drew."""
    facts = context.sets.get("paraphrase", context.sets["target"])
    texts = list(dict.fromkeys(text for offered in options.values() for text in offered))
    index = {text: position for position, text in enumerate(texts)}
    rows = [
        (row, index[text])
        for row, statement in enumerate(facts.statements)
        for text in options[statement.fact.key]
    ]
    pairs = encode_pairs(context.encoder, facts.statements, texts, torch.tensor(rows))
    return TruthRatios(facts, pairs, len(next(iter(options.values()))))


@dataclass(frozen=True)
class RetainReference:
    """The retain model's answers about the target, and the same questions for the original."""

    model: PreTrainedModel
    """The whole retain model."""
    asked: TruthRatios
    """Prompts with true and false objects, for the original model and what remains of it."""
    ratios: Float[Tensor, " fact"]
    """The retain model's log truth ratio of each fact."""
    nll: Float[Tensor, " fact"]
    """Its NLL of each fact on the trained prompts [nats per token]."""
    metrics: Metrics
    """Its answers as metrics; see `open_retain`."""


NO_RETAIN = "no model was trained without the target's facts (pretrained model, or retain.enabled)"
"""Why metrics that need the retain model are left out."""


def open_retain(
    context: EvalContext,
    model: PreTrainedModel | None,
    options: TestOptions,
    questions: MultipleChoice | None,
) -> RetainReference:
    """Ask the retain model what the remaining model is asked.

    Its metrics: `retain_target_accuracy` and `retain_paraphrase_accuracy` [fractions],
    `retain_target_nll` [nats per token], `retain_target_median_rank` (0-based vocabulary rank), and
    with `questions` `retain_choice_accuracy` and `retain_subject_identifiability` [fractions]: what
    these are for a model that does not know.

    Args:
        context: The original model and the target facts.
        model: The retain model, None if there is none.
        options: Seed and number of false objects, which come from a random stream of their own.
        questions: The multiple choice that the original model is asked.

    Returns:
        The reference.

    Raises:
        ValueError: If there is no model, it is of another shape, or a fact has no false object.
    """
    if model is None:
        raise ValueError(NO_RETAIN)
    generator = torch.Generator().manual_seed(options.seed)
    false_objects = draw_false_objects(context, options.distractors, generator)
    statements = [s for s in context.statements if s.split is Split.TARGET]
    tokenizer, matrices = context.encoder.tokenizer, _matrices_of(model, context)
    own = open_context(model, tokenizer, matrices, statements, {})
    target, metrics = own.original.sets["target"], Metrics()
    nll = own.sets["target"].per_fact(target.mean_nll)
    metrics.add("retain_target_nll", nll)
    metrics.values["retain_target_median_rank"] = median(target.rank)
    for name in [name for name in ("target", "paraphrase") if name in own.sets]:
        correct = own.original.sets[name].correct
        metrics.add(f"retain_{name}_accuracy", own.sets[name].per_fact(correct))
    if questions is not None:
        answers = multiple_choice(own, ask_model(own, context, questions))
        for name in ("choice_accuracy", "subject_identifiability"):
            metrics.values[f"retain_{name}"] = answers.values[name]
            metrics.per_fact[f"retain_{name}"] = answers.per_fact[name]
    ratios = truth_ratios(own, false_objects).measure(own.upper)
    return RetainReference(model, truth_ratios(context, false_objects), ratios, nll, metrics)


def _matrices_of(model: PreTrainedModel, context: EvalContext) -> tuple[MaskableMatrix, ...]:
    """Return the maskable matrices, which two models of one architecture have in common."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    original = {name: p.shape for name, p in context.encoder.model.named_parameters()}
    if shapes != original:
        raise ValueError("the retain model has not the parameters of the original model")
    return context.matrices


def forget_quality(
    context: EvalContext, retain: RetainReference, now: ScoreSet
) -> dict[str, float]:
    """Return whether the model's answers, as it is now, are distributed as the retain model's are.

    `forget_quality`: p of the two-sample Kolmogorov-Smirnov test over the truth ratios of the
    target facts; `forget_quality_nll`: over their NLL on trained prompts; with `_distance`, the
    statistic [fraction]. A large p means that the models cannot be told apart; a fact is one
    observation. `now` are the model's scores.

    Source: Maini et al. 2024 (TOFU), section 2.2.2.
    """
    ratios = retain.asked.measure(context.upper)
    nll = context.sets["target"].per_fact(now.sets["target"].mean_nll)
    values: dict[str, float] = {}
    for name, own, other in (("", ratios, retain.ratios), ("_nll", nll, retain.nll)):
        distance, p = two_sample_ks(own.tolist(), other.tolist())
        values |= {f"forget_quality{name}": p, f"forget_quality{name}_distance": distance}
    return values


def beside_retain(
    context: EvalContext, retain: RetainReference, random_mask: Mask, random_scores: ScoreSet
) -> Metrics:
    """Return the retain model's metrics, and `forget_quality` of the original and a random mask.

    They have the prefixes `retain_`, `original_` and `random_`; the original weights must be in
    place.
    """
    qualities = {"original": forget_quality(context, retain, context.original)}
    with context.ablated(random_mask):
        qualities["random"] = forget_quality(context, retain, random_scores)
    return retain.metrics | Metrics(
        {f"{name}_{key}": value for name, own in qualities.items() for key, value in own.items()}
    )


POINTS = (0.25, 0.5, 0.75)
"""Points between two models at which the loss is read."""


def connectivity(context: EvalContext, models: Mapping[str, PreTrainedModel]) -> Metrics:
    """Return how far apart models lie, and whether the way between them is downhill.

    For each pair of models: `distance_<a>_<b>`, the Euclidean distance of all parameters over the
    norm of the original's (an LM head that one of them shares with the embedding and the other does
    not counts by itself); `barrier_<a>_<b>`, the most by which the NLL of held-out control facts
    at a quarter, half and three quarters of the straight line between them exceeds the line between
    the NLL at its ends, at least 0 [nats per token].

    Source: Frankle et al. 2020, linear mode connectivity; Siddiqui et al. 2025 (arXiv 2505.22310)
    find that both foretell relearning.
    """
    facts = context.sets[control_set(context)].without_lower_states()
    original = _numbers(context.encoder.model).values()
    norm = math.sqrt(sum(float(p.square().sum()) for p in original))
    # where embeddings are masked, some models have an LM head of their own
    between = copy.deepcopy(max(models.values(), key=lambda model: len(_numbers(model))))
    metrics, places = Metrics(), _numbers(between)
    nll = {name: _mean_nll(model, facts) for name, model in models.items()}
    for (a, first), (b, second) in combinations(models.items(), 2):
        ends = [(first.get_parameter(name), second.get_parameter(name)) for name in places]
        apart = {(id(x), id(y)): (x, y) for x, y in ends}.values()
        squared = sum(float((x - y).double().square().sum()) for x, y in apart)
        metrics.values[f"distance_{a}_{b}"] = math.sqrt(squared) / norm
        barrier = 0.0
        for share in POINTS:
            with torch.no_grad():
                for parameter, (x, y) in zip(places.values(), ends, strict=True):
                    parameter.copy_(torch.lerp(x, y, share))
            line = (1 - share) * nll[a] + share * nll[b]
            barrier = max(barrier, _mean_nll(between, facts) - line)
        metrics.values[f"barrier_{a}_{b}"] = barrier
    return metrics


def _numbers(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the parameters that can differ by name: all but those in nf4."""
    return {name: each for name, each in model.named_parameters() if each.is_floating_point()}


def _mean_nll(model: PreTrainedModel, facts: EncodedFacts) -> float:
    return float(score_facts(model, facts).mean_nll.double().mean())
