"""Whether finetuning brings the target facts back, and whether it does so without any of them.

A model that never knew the facts learns some of what is asked, too: the commonest object, the form
of the answer. So what counts is what the remaining model regains beyond the retain model, which was
trained without the target's facts, as a share of what the original model has beyond it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.architectures import block_count
from knowsub.evaluation.context import (
    EncodedFacts,
    EvalContext,
    PrefixEncoder,
    best_prompts,
    score_facts,
)
from knowsub.evaluation.metrics import Metrics, PerFactValues
from knowsub.evaluation.options import RelearningData, RelearningMethod, TestOptions
from knowsub.kg.facts import Role, Split, Statement
from knowsub.kg.words import comparable
from knowsub.lm.batch import Batch, encode_statements
from knowsub.lm.blocks import sharing_copy
from knowsub.lm.load import context_length
from knowsub.lm.lora import add_lora
from knowsub.lm.score import target_logits
from knowsub.masks.ablation import ablate_, masked_matrices
from knowsub.masks.mask import Mask


@dataclass(frozen=True)
class Fold:
    """One part of the target facts, by subject, and the others."""

    train: tuple[Statement, ...]
    """The best prompt of each fact that is finetuned on."""
    test: tuple[Statement, ...]
    """All trained prompts of the facts that are tested."""


def split_folds(
    statements: Sequence[Statement], n_folds: int, generator: torch.Generator
) -> list[Fold]:
    """Return folds such that every statement is tested once and no subject is in two parts.

    Fewer folds if there are fewer subjects. Raises ValueError if there is only one.
    """
    subjects = list(dict.fromkeys(comparable(s.fact.subject_words) for s in statements))
    if len(subjects) < 2:
        raise ValueError("relearning needs target facts of at least two subjects")
    order = torch.randperm(len(subjects), generator=generator).tolist()
    part = {subjects[index]: position % n_folds for position, index in enumerate(order)}
    best = best_prompts(statements, 1)
    return [
        Fold(
            train=tuple(s for s in best if part[comparable(s.fact.subject_words)] != fold),
            test=tuple(s for s in statements if part[comparable(s.fact.subject_words)] == fold),
        )
        for fold in range(min(n_folds, len(subjects)))
    ]


@dataclass(frozen=True)
class Finetuning:
    """How a model is finetuned."""

    lr: float
    """Learning rate of AdamW."""
    seed: int
    """Seed of the order of the sequences, and of LoRA's matrices."""
    method: RelearningMethod = RelearningMethod.FULL
    """What changes: every parameter, removed ones too, or low-rank updates of every matrix.

    Weights in nf4 take low-rank updates alone.
    """


BATCH, BATCH_TOKENS, LORA_RANK = 64, 512, 8
"""Statements per finetuning step at most; tokens of text; rank of LoRA's updates."""


def finetune(
    model: PreTrainedModel, batch: Batch, settings: Finetuning, checkpoints: Sequence[int]
) -> Iterator[PreTrainedModel]:
    """Yield a copy of a model after each number of AdamW steps on the targets of a batch.

    It is one copy, trained on between the yields, in evaluation mode: dropout stays off, as in the
    original. `checkpoints` ascend; sequences come in an order that depends on the seed alone.
    """
    lora = settings.method is RelearningMethod.LORA
    tuned = sharing_copy(model, ()) if lora else copy.deepcopy(model).requires_grad_(True)
    if lora:
        add_lora(tuned, range(block_count(tuned)), LORA_RANK, settings.seed)
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(settings.seed)
    is_text = bool(batch.target_mask.sum(dim=1).min() > BATCH_TOKENS // BATCH)
    rows = max(1, BATCH_TOKENS // batch.tokens.shape[1]) if is_text else BATCH
    done = 0
    for checkpoint in checkpoints:
        for _ in range(checkpoint - done):
            chosen = torch.randperm(len(batch), generator=generator)[:rows]
            _, logits, labels = next(target_logits(tuned, batch[chosen]))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
        done = checkpoint
        yield tuned


def without(context: EvalContext, mask: Mask | None) -> PreTrainedModel:
    """Return the original model without a mask's weights, None for all of them.

    It shares the parameters that hold no masked matrix with the original.
    """
    masked = masked_matrices(context.matrices, mask) if mask is not None else []
    model = sharing_copy(context.encoder.model, {matrix.parameter for matrix in masked})
    if mask is not None:
        ablate_(model, context.matrices, mask)
    return model


Lesson = tuple[Batch, EncodedFacts]
"""What is finetuned on, and the target facts that are tested, for the whole model."""


@dataclass(frozen=True)
class Curve:
    """What one model knows of the tested facts along finetuning."""

    steps: tuple[int, ...]
    """Finetuning steps done, from 0."""
    correct: Float[Tensor, "step fact"]
    """Share of each fact's prompts whose object is the top answer [fraction]."""
    nll: Float[Tensor, "step fact"]
    """Mean NLL of each fact's object [nats per token]."""

    def area(self, last: int) -> Float[Tensor, " fact"]:
        """Return the mean of each fact's accuracy over steps 0 to `last`, by trapezoids."""
        end = self.steps.index(last) + 1
        x = torch.tensor(self.steps[:end], dtype=torch.float64)
        return torch.trapezoid(self.correct[:end].T, x, dim=1) / last

    def first_step(self, accuracy: float) -> float | None:
        """Return after how many steps the mean accuracy is reached, linearly between the steps."""
        means: list[float] = self.correct.mean(dim=1).tolist()
        previous: tuple[int, float] | None = None
        for step, mean in zip(self.steps, means, strict=True):
            if mean >= accuracy:
                if previous is None:
                    return float(step)
                start, low = previous
                return start + (step - start) * (accuracy - low) / (mean - low)
            previous = step, mean
        return None


def relearning_curve(
    model: PreTrainedModel,
    lessons: Sequence[Lesson],
    settings: Finetuning,
    checkpoints: Sequence[int],
) -> Curve:
    """Return a model's curve; the tested facts of the lessons are put one after the other."""
    steps, correct, nll = (0, *checkpoints), [], []
    for batch, tested in lessons:
        scores = [score_facts(m, tested) for m in finetune(model, batch, settings, steps)]
        correct.append(torch.stack([tested.per_fact(each.correct) for each in scores]))
        nll.append(torch.stack([tested.per_fact(each.mean_nll) for each in scores]))
    return Curve(steps, torch.cat(correct, dim=1), torch.cat(nll, dim=1))


def build_lessons(context: EvalContext, options: TestOptions, data: RelearningData) -> list[Lesson]:
    """Return what is finetuned on and tested; ValueError if there is nothing to finetune on."""
    encoder = context.encoder
    if data is RelearningData.TARGET:
        generator = torch.Generator().manual_seed(options.seed)
        folds = split_folds(context.sets["target"].statements, options.relearning_folds, generator)
        return [
            (encode_batch(encoder, fold.train), encoder.encode(fold.test).without_lower_states())
            for fold in folds
        ]
    if data is RelearningData.TEXT:
        if "text" not in context.texts:
            raise ValueError("there is no text to finetune on")
        batch = context.texts["text"]
        batch = Batch(batch.tokens, batch.target_mask)
    else:
        splits = OTHER_FACTS[data]
        chosen = [s for s in context.statements if s.split in splits and s.role is Role.TRAIN]
        if not chosen:
            raise ValueError(f"there are no {data.value} facts to finetune on")
        batch = encode_batch(encoder, best_prompts(chosen, 1))
    return [(batch, context.sets["target"].without_lower_states())]


OTHER_FACTS = {
    RelearningData.CONTROL: (Split.CONTROL_TRAIN,),
    RelearningData.NEIGHBORHOOD: (Split.NEIGHBORHOOD_TRAIN, Split.NEIGHBORHOOD_HELDOUT),
}
"""Facts, none of them the target's, that may be finetuned on."""


def encode_batch(encoder: PrefixEncoder, statements: Sequence[Statement]) -> Batch:
    """Return statements for the whole model, on its device (errors: `encode_statements`)."""
    batch = encode_statements(encoder.tokenizer, statements, context_length(encoder.model))
    return batch.to(encoder.model.device)


@dataclass(frozen=True)
class PerFactRatio(PerFactValues):
    """The values behind a metric that is a ratio of two means over facts."""

    over: tuple[float, ...] = ()
    """One value per fact, by whose mean the mean of `values` is divided."""


def _add_ratio(metrics: Metrics, name: str, above: Tensor, below: Tensor) -> None:
    metrics.values[name] = float(above.double().mean() / below.double().mean())
    metrics.per_fact[name] = PerFactRatio(tuple(above.tolist()), over=tuple(below.tolist()))


AREA_STEPS = 60
"""Steps that the area under a curve covers, or the last checkpoint before [steps]."""
MIN_LOST_ACCURACY = 0.05
"""Shares of a loss of accuracy are defined only if it was at least this much [fraction]."""
Curves = dict[str, dict[str, Curve]]
"""Condition, such as `target full 0.0005` -> model -> curve."""


def relearning_curves(
    context: EvalContext, models: Mapping[str, PreTrainedModel], options: TestOptions
) -> tuple[Metrics, Curves]:
    """Finetune models under every condition that the options ask for.

    Args:
        context: The original model and the target facts.
        models: `original` and `remaining`; `random` (as many random weights removed) and `retain`
            (never taught the target's facts), where there are such.
        options: Data, methods, learning rates and checkpoints.

    Returns:
        The metrics of `excess`, for the first method and rate of each data without a suffix but
        that of the data (`excess_recovery`, `excess_recovery_control`, ...), for the others with
        method and rate as well; `excess_recovery_highest`, the largest of all; and the curves.
    """
    metrics, curves, highest = Metrics(), Curves(), list[float]()
    for data in options.relearning_data:
        try:
            lessons = build_lessons(context, options, data)
        except ValueError as error:
            metrics.skipped[f"relearning_{data.value}"] = str(error)
            continue
        suffix = "" if data is RelearningData.TARGET else f"_{data.value}"
        settings = product(options.relearning_methods, options.relearning_rates)
        for index, (method, lr) in enumerate(settings):
            tuning = Finetuning(lr, options.seed, method)
            curve = partial(relearning_curve, lessons=lessons, settings=tuning)
            found = {
                name: curve(model, checkpoints=options.relearning_checkpoints)
                for name, model in models.items()
            }
            curves[f"{data.value} {method.value} {lr:g}"] = found
            name = f"{suffix}_{method.value}_{lr:g}" if index else suffix
            shares = excess(found, name)
            highest += [v for key, v in shares.values.items() if key == f"excess_recovery{name}"]
            metrics |= shares
    if highest:
        metrics.values["excess_recovery_highest"] = max(highest)
    return metrics, curves


def excess(curves: Mapping[str, Curve], suffix: str = "") -> Metrics:
    """Return how much of what only the original knows the remaining model regains.

    `excess_recovery` = (A_remaining - A_retain) / (A_original - A_retain), where A is the mean
    top-answer accuracy over finetuning steps 0 to 60; 0 is a model that never knew. With `_<steps>`
    after it, the same for the accuracy after so many steps. `random_excess_recovery`: the model
    without random weights. `steps_to_half`: steps after which the remaining model's accuracy is
    half of the original's before finetuning, and `retain_steps_to_half` the retain model's; left
    out where that is not reached. All with the suffix.
    """
    metrics, remaining, original = Metrics(), curves["remaining"], curves["original"]
    _add_steps_to_half(metrics, curves, suffix)
    if "retain" not in curves:
        metrics.skipped[f"excess_recovery{suffix}"] = "there is no retain model to compare with"
        return metrics
    retain = curves["retain"]
    last = max(remaining.steps[1], *(s for s in remaining.steps if s <= AREA_STEPS))
    views = {"": [c.area(last) for c in (remaining, original, retain)]}
    for index, step in enumerate(remaining.steps):
        views[f"_{step}"] = [c.correct[index] for c in (remaining, original, retain)]
    if "random" in curves:
        views["random"] = [c.area(last) for c in (curves["random"], original, retain)]
    for view, (changed, known, unknown) in views.items():
        name = f"excess_recovery{suffix}{view}"
        if view == "random":
            name = f"random_excess_recovery{suffix}"
        lost = float((known - unknown).mean())
        if lost < MIN_LOST_ACCURACY:
            metrics.skipped[name] = f"the original is only {lost:.3f} above the retain model"
        else:
            _add_ratio(metrics, name, changed - unknown, known - unknown)
    return metrics


def _add_steps_to_half(metrics: Metrics, curves: Mapping[str, Curve], suffix: str) -> None:
    half = float(curves["original"].correct[0].mean()) / 2
    for name, model in (("steps_to_half", "remaining"), ("retain_steps_to_half", "retain")):
        if model in curves:
            steps = curves[model].first_step(half)
            if steps is None:
                last = curves[model].steps[-1]
                metrics.skipped[f"{name}{suffix}"] = f"not reached within {last} steps"
            else:
                metrics.values[f"{name}{suffix}"] = steps


def curves_to_json(curves: Curves) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Return condition -> model -> points (`step`, `accuracy`, `nll`), means over the facts."""
    return {
        condition: {
            name: [
                {"step": float(step), "accuracy": float(correct.mean()), "nll": float(nll.mean())}
                for step, correct, nll in zip(
                    curve.steps, curve.correct, curve.nll, strict=True
                )
            ]
            for name, curve in models.items()
        }
        for condition, models in curves.items()
    }  # fmt: skip
