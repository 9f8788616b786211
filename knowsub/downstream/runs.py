"""Every finetuning run of one mask: models x adaptations x repeats on the same questions.

Questions are encoded once. Where only the blocks from the first masked one on may change, the
states that enter them are computed once too, for all models: masks lie above them.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import block_count, maskable_matrices
from knowsub.artifacts import atomic_write
from knowsub.downstream.encode import Encoded, encode_questions
from knowsub.downstream.finetune import (
    VALIDATION,
    ChoiceModel,
    EvalPoint,
    Outcome,
    Schedule,
    finetune,
)
from knowsub.downstream.model import (
    ChoiceHead,
    TrainableSpec,
    ZeroConstraint,
    adapt,
    all_features,
    choice_nll,
    features,
    removed_bits,
)
from knowsub.downstream.options import (
    Adaptation,
    FinetuneOptions,
    Readout,
    RemovedWeights,
    TrainableBlocks,
)
from knowsub.downstream.questions import Group, Question, Task
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from knowsub.lm.load import context_length
from knowsub.masks.ablation import ablate_
from knowsub.masks.mask import Mask, check_model, load_mask

TRUNK_BYTES = 2**30
"""Most memory that cached trunk states may take [bytes]; above it they are computed every step."""
SCALE_QUESTIONS = 256
"""Training questions, the first ones, that the scale of the head's features is taken from."""


@dataclass(frozen=True)
class FinetuneRun:
    """One finetuning run."""

    adaptation: Adaptation
    """What is trained beside the head."""
    model: str
    """Name of the model: `original`, `remaining`, or `random` (as much removed at random)."""
    repeat: int
    """0-based number of the repeat; also the seed of head, LoRA matrices and order."""

    @property
    def name(self) -> str:
        """Name of the run: `lora-remaining-0`."""
        return f"{self.adaptation}-{self.model}-{self.repeat}"


def splits_of(task: Task) -> dict[str, tuple[Question, ...]]:
    """Return what a run is judged on: `validation`, and the groups that the test asks about."""
    groups = {
        str(group): tuple(question for question in task.test if question.group is group)
        for group in Group
    }
    return {VALIDATION: task.validation} | {name: own for name, own in groups.items() if own}


class FinetuneContext:
    """Where learners are made.

    Args:
        model: The original model; never changed.
        tokenizer: Its tokenizer.
        masks: Name of a model -> mask removed from it, None = the original.
        options: What the user chose.

    Raises:
        ValueError: If a mask does not fit the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        masks: Mapping[str, Mask | None],
        options: FinetuneOptions,
    ) -> None:
        self._model, self._tokenizer, self._context = model, tokenizer, context_length(model)
        self._masks, self._options = dict(masks), options
        self._sites = maskable_matrices(model, range(block_count(model)))
        self._removed = {
            name: removed_bits(model, self._sites, mask) if mask else {}
            for name, mask in self._masks.items()
        }
        named = {name for mask in self._masks.values() if mask for name in mask.bits}
        masked = [site.block for site in self._sites if site.name in named]
        self._first = min(masked, default=block_count(model) // 2)
        self._cached = options.trainable_blocks is TrainableBlocks.UPPER

    def encode(self, questions: Sequence[Question], readout: Readout | None = None) -> Encoded:
        """Return questions as tensors.

        Args:
            questions: The questions.
            readout: What will be read; None means the chosen readout.

        Returns:
            The encoded questions.

        Raises:
            ValueError: If a question has no token or does not fit the context.
        """
        chosen = readout or self._options.readout
        encoded = encode_questions(self._tokenizer, questions, chosen, self._context)
        return encoded.to(self._model.device)

    def cache(self, *encoded: Encoded) -> list[Encoded]:
        """Return questions with their trunk states, if all of them fit into memory.

        Args:
            *encoded: Everything that will be trained and judged on; call this once.

        Returns:
            The same questions in order.
        """
        width = self._model.config.hidden_size * 4
        self._cached &= sum(own.batch.tokens.numel() for own in encoded) * width <= TRUNK_BYTES
        if not self._cached:
            return list(encoded)
        return [
            own.with_batch(cache_lower_states(self._model, self._first, own.batch))
            for own in encoded
        ]

    def answers(self, name: str, splits: Mapping[str, Encoded]) -> dict[str, list[bool]]:
        """Return which questions a model answers by likelihood, without head or finetuning.

        Args:
            name: Name of the model.
            splits: Split -> questions encoded for `match`.

        Returns:
            Split -> for each question whether its right choice has the least NLL per token.
        """
        reader = self._reader(self._copy(name))
        return {
            split: (choice_nll(reader, encoded).argmin(dim=1) == encoded.answer).tolist()
            for split, encoded in splits.items()
        }

    def choice_model(self, run: FinetuneRun, train: Encoded) -> ChoiceModel:
        """Return a fresh learner of a run.

        Args:
            run: The run.
            train: The training questions; the scale of the head's features is theirs.

        Returns:
            The learner, over a copy of the model.
        """
        model, options = self._copy(run.model), self._options
        holding = options.removed_weights is RemovedWeights.HOLD
        hold = ZeroConstraint(model, self._removed[run.model] if holding else {})
        upper = options.trainable_blocks is TrainableBlocks.UPPER
        blocks = range(self._first if upper else 0, block_count(model))
        plan = TrainableSpec(run.adaptation, blocks, not upper, options.lora_rank, run.repeat)
        trained = adapt(model, plan, hold)
        reader = self._reader(model)
        head = ChoiceHead(self._scale(reader, train), torch.Generator().manual_seed(run.repeat))
        return ChoiceModel(reader, head, trained, hold, options.readout)

    @torch.no_grad()
    def _scale(self, reader: PreTrainedModel, train: Encoded) -> Float[Tensor, " hidden"]:
        some = train[torch.arange(min(SCALE_QUESTIONS, len(train)), device=train.answer.device)]
        return features(reader, some, self._options.readout)[some.exists].std(dim=0)

    def _copy(self, name: str) -> PreTrainedModel:
        model: PreTrainedModel = copy.deepcopy(self._model)
        model.eval()
        mask = self._masks[name]
        if mask is not None:
            ablate_(model, self._sites, mask)
        return model

    def _reader(self, model: PreTrainedModel) -> PreTrainedModel:
        return upper_blocks(model, self._first) if self._cached else model


ORIGINAL, REMAINING, RANDOM = "original", "remaining", "random"

Answers = Mapping[str, Mapping[str, list[bool]]]


@dataclass(frozen=True)
class Results:
    """What all runs of a mask gave."""

    outcomes: Mapping[FinetuneRun, Outcome]
    """Run -> what it gave."""
    unadapted: Answers
    """Model -> split -> which questions it answers by likelihood, before any finetuning."""


def planned_runs(models: Mapping[str, object], options: FinetuneOptions) -> Iterator[FinetuneRun]:
    """Yield every run wanted, in order."""
    for adaptation in options.adaptations:
        for repeat in range(options.repeats):
            for name in models:
                yield FinetuneRun(adaptation, name, repeat)


def run_all(
    bench: FinetuneContext,
    models: Mapping[str, object],
    task: Task,
    options: FinetuneOptions,
    folder: Path,
    on_run: Callable[[FinetuneRun, list[EvalPoint]], None],
) -> Results:
    """Do every run, or take it from the folder where an earlier call finished it.

    Args:
        bench: The models.
        models: Their names, in order.
        task: The questions.
        options: What the user chose.
        folder: Folder of checkpoints and finished runs, keyed by `fingerprint`.
        on_run: Called with the new points of a run at every evaluation.

    Returns:
        The outcomes.

    Raises:
        RuntimeError: If a held weight is not zero at an evaluation.
        ValueError: If a question does not fit the model, or a checkpoint is corrupt.
    """
    named = splits_of(task)
    encoded = {name: bench.encode(own) for name, own in named.items()}
    train, *judged = bench.cache(bench.encode(task.train), *encoded.values())
    splits = dict(zip(named, judged, strict=True))
    plain = splits
    if options.readout is not Readout.MATCH:
        again = bench.cache(*(bench.encode(own, Readout.MATCH) for own in named.values()))
        plain = dict(zip(named, again, strict=True))
    outcomes = {}
    for run in planned_runs(models, options):
        done = folder / f"{run.name}.json"
        try:
            outcome = Outcome.restored(json.loads(done.read_text(encoding="utf-8")))
            on_run(run, outcome.points)
        except FileNotFoundError:
            outcome = _one(bench, run, train, splits, options, folder, on_run)
            atomic_write(done, json.dumps(asdict(outcome)).encode())
        outcomes[run] = outcome
    return Results(outcomes, {name: bench.answers(name, plain) for name in models})


def _one(
    bench: FinetuneContext,
    run: FinetuneRun,
    train: Encoded,
    splits: Mapping[str, Encoded],
    options: FinetuneOptions,
    folder: Path,
    on_run: Callable[[FinetuneRun, list[EvalPoint]], None],
) -> Outcome:
    learner = bench.choice_model(run, train)
    if run.adaptation is Adaptation.HEAD:
        train = all_features(learner.model, train, options.readout)
        splits = {
            name: all_features(learner.model, own, options.readout) for name, own in splits.items()
        }
    rates = {Adaptation.LORA: options.lora_lr, Adaptation.FULL: options.full_lr}
    schedule = Schedule(
        steps=options.steps,
        batch=options.batch,
        head_lr=options.head_lr,
        model_lr=rates.get(run.adaptation, 0.0),
        evaluate_every=options.evaluate_every,
        patience=options.patience,
        seed=run.repeat,
    )
    checkpoint = folder / f"{run.name}.safetensors"
    return finetune(
        learner, train, splits, schedule, lambda points: on_run(run, points), checkpoint
    )


def load_study_masks(trained: Path, baseline: Path, model: str) -> dict[str, Mask | None]:
    """Return what is removed from each of the three models.

    Args:
        trained: Folder with the critical subnetwork's `mask.safetensors`.
        baseline: Folder with `random.safetensors`, as much removed per site at random.
        model: Fingerprint of the original model.

    Returns:
        Name of a model -> mask, None for the original.

    Raises:
        FileNotFoundError: If a mask is missing.
        ValueError: If a mask is corrupt or belongs to another model.
    """
    found = load_mask(trained / "mask.safetensors")
    chance = load_mask(baseline / "random.safetensors")
    for mask in (found, chance):
        check_model(mask, model)
    return {ORIGINAL: None, REMAINING: found, RANDOM: chance}


def fingerprint(
    model: str, masks: Mapping[str, Mask | None], task: Task, options: FinetuneOptions
) -> str:
    """Return a hash of everything that the outcomes depend on, this room's code included.

    Args:
        model: Fingerprint of the original model.
        masks: Name of a model -> mask removed from it.
        task: The questions.
        options: What the user chose.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    digest.update(f"{model}{task!r}".encode())
    for name, mask in masks.items():
        digest.update(name.encode())
        for site, bits in sorted(mask.bits.items()) if mask else ():
            digest.update(site.encode() + bits.numpy().tobytes())
    return digest.hexdigest()[:16]
