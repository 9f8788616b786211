"""Models and questions of one mask, ready for any finetuning run.

Questions are encoded once. Where only the blocks from the first masked one on may change, the
states that enter them are computed once too, for all models: masks lie above them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.anatomy import block_count, sites
from knowsub.downstream.adapt import Plan, adapt
from knowsub.downstream.encode import Encoded, encode_questions
from knowsub.downstream.hold import Hold, removed_bits
from knowsub.downstream.learner import VALIDATION, Learner
from knowsub.downstream.options import (
    Adaptation,
    FinetuneOptions,
    Reach,
    Readout,
    RemovedWeights,
)
from knowsub.downstream.questions import Group, Question, Task
from knowsub.downstream.scoring import ChoiceHead, choice_nll, features
from knowsub.lm.load import context_length
from knowsub.lm.trunk import push, upper_blocks
from knowsub.masks.mask import Mask
from knowsub.masks.removal import remove_

TRUNK_BYTES = 2**30
"""Most memory that cached trunk states may take [bytes]; above it they are computed every step."""
SCALE_QUESTIONS = 256
"""Training questions, the first ones, that the scale of the head's features is taken from."""


@dataclass(frozen=True)
class Run:
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


class Bench:
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
        self._sites = sites(model, range(block_count(model)))
        self._removed = {
            name: removed_bits(model, self._sites, mask) if mask else {}
            for name, mask in self._masks.items()
        }
        named = {name for mask in self._masks.values() if mask for name in mask.bits}
        masked = [site.block for site in self._sites if site.name in named]
        self._first = min(masked, default=block_count(model) // 2)
        self._cached = options.blocks is Reach.UPPER

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
        return [own.with_batch(push(self._model, self._first, own.batch)) for own in encoded]

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

    def learner(self, run: Run, train: Encoded) -> Learner:
        """Return a fresh learner of a run.

        Args:
            run: The run.
            train: The training questions; the scale of the head's features is theirs.

        Returns:
            The learner, over a copy of the model.
        """
        model, options = self._copy(run.model), self._options
        holding = options.removed is RemovedWeights.HOLD
        hold = Hold(model, self._removed[run.model] if holding else {})
        upper = options.blocks is Reach.UPPER
        blocks = range(self._first if upper else 0, block_count(model))
        plan = Plan(run.adaptation, blocks, not upper, options.lora_rank, run.repeat)
        trained = adapt(model, plan, hold)
        reader = self._reader(model)
        head = ChoiceHead(self._scale(reader, train), torch.Generator().manual_seed(run.repeat))
        return Learner(reader, head, trained, hold, options.readout)

    @torch.no_grad()
    def _scale(self, reader: PreTrainedModel, train: Encoded) -> Float[Tensor, " hidden"]:
        some = train[torch.arange(min(SCALE_QUESTIONS, len(train)), device=train.answer.device)]
        return features(reader, some, self._options.readout)[some.exists].std(dim=0)

    def _copy(self, name: str) -> PreTrainedModel:
        model: PreTrainedModel = copy.deepcopy(self._model)
        model.eval()
        mask = self._masks[name]
        if mask is not None:
            remove_(model, self._sites, mask)
        return model

    def _reader(self, model: PreTrainedModel) -> PreTrainedModel:
        return upper_blocks(model, self._first) if self._cached else model
