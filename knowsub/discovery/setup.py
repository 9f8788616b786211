"""From statements and text to a search that is ready to run, and its validation."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import block_count, maskable_matrices
from knowsub.discovery.distributed import ProcessGroup
from knowsub.discovery.ignorance import MIN_OBJECTS, Ignorance, ignorance, match_controls
from knowsub.discovery.options import Suppression, TrainOptions
from knowsub.discovery.step import TrainingData
from knowsub.discovery.teacher import cache_teacher, cache_teacher_states
from knowsub.discovery.trainer import MaskTrainer
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import Batch, encode_statements, encode_text
from knowsub.lm.blocks import Allocate, cache_lower_states, drop_lower, in_memory, upper_blocks
from knowsub.lm.load import context_length
from knowsub.lm.score import score
from knowsub.masks.gates import Gates

SHARE = 0.5
"""Share of the memory that a stage may plan with which frozen states may take [fraction]."""


class MemmapAllocator:
    """Gives out tensors to write frozen states into; made anew for every search.

    A file has no name once it is mapped: nothing else ever reads it, and it is gone when the
    process ends, however that happens.

    Args:
        folder: Where the files lie, on a disk with room; made if there is none.
        memory_gb: Memory that the stage may plan with [GB].
    """

    def __init__(self, folder: Path, memory_gb: float) -> None:
        self.folder = folder
        self.left = int(SHARE * memory_gb * 1e9)

    def __call__(self, size: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialised tensor.

        Args:
            size: Its shape.
            like: A tensor of its dtype, and of its device while there is memory left.

        Returns:
            A tensor in memory, or on the CPU in a mapped file once the limit is reached.

        Raises:
            OSError: If the file cannot be made.
        """
        needed = math.prod(size) * like.element_size()
        if needed <= self.left:
            self.left -= needed
            return like.new_empty(tuple(size))
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="states-", dir=self.folder)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, max(1, needed))
            mapped = torch.from_file(name, shared=True, size=math.prod(size), dtype=like.dtype)
        finally:
            os.close(handle)
            Path(name).unlink()
        return mapped.view(tuple(size))


NEAR = (Split.NEIGHBORHOOD_TRAIN, Split.UNSEEN)
"""What the near term keeps: facts near the target, and what is believed of untold heads."""


class SearchBuilder:
    """A model cut at its first masked block, with its tokenizer: makes batches and searches.

    Args:
        model: The original model, all parameters frozen.
        tokenizer: Its tokenizer.
        options: Say which blocks and parts are masked.
        allocate: Where frozen states go.

    Raises:
        ValueError: If the architecture is unknown or the blocks do not exist.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        options: TrainOptions,
        allocate: Allocate = in_memory,
    ) -> None:
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.allocate = allocate
        blocks = options.block_range(block_count(model))
        self.first = blocks.start
        self.sites = maskable_matrices(model, blocks, options.modules)
        self.upper = upper_blocks(model, self.first)

    def search(
        self,
        statements: Sequence[Statement],
        text: str,
        seed: int,
        processes: ProcessGroup | None = None,
    ) -> MaskTrainer:
        """Return a search for the subnetwork of one target KG.

        Args:
            statements: Statements of one target KG's facts in all splits and roles.
            text: Training text of the control LM.
            seed: Seed of the search.
            processes: Who computes; None for this process alone.

        Returns:
            The search, its data cached.

        Raises:
            ValueError: If there is no target or control statement to train on, a statement is
                longer than the context, the text is shorter than a block, or there are too few
                different tails for the suppression term.
        """
        told = _chosen(statements, Split.TARGET, Role.TRAIN)
        others = _chosen(statements, Split.CONTROL_TRAIN, Role.TRAIN)
        ask = partial(match_controls, told, others, torch.Generator().manual_seed(seed))
        target, control = self._batch(told), self._batch(others)
        near_told, untold = (_stated(statements, split, Role.TRAIN) for split in NEAR)
        beside = [*near_told, *untold] if self.options.neighborhood_weight > 0 else []
        near = self._batch(beside) if beside else None
        options, plain = self.options, self.options.causal_shift
        kept = partial(
            cache_teacher, self.upper, precision=options.precision, allocate=self.allocate
        )
        data = TrainingData(
            target=target if plain else target.unshifted(),
            control=kept(control if plain else control.unshifted()),
            neighborhood=None if near is None else kept(near),
            n_neighborhood=0 if near is None else len(near_told),
            text=kept(self._text(text)),
            ignorance=ignorance(self.upper, target, cache_teacher_states(self.upper, control), ask),
        )
        _require_tails(data.ignorance, options)
        gates = Gates(
            self.model, self.sites, options.granularity, options.estimator, options.init_prob
        )
        return MaskTrainer(gates, self.upper, data, options, seed, processes)

    def only_search(
        self,
        statements: Sequence[Statement],
        text: str,
        validation_text: str,
        seed: int,
        processes: ProcessGroup | None = None,
    ) -> tuple[MaskTrainer, Callable[[], dict[str, float]]]:
        """Return what `search` and `validation` do, and free the blocks below the masked ones.

        Nothing else can be prepared with this model, which cannot run as a whole any more.

        Args:
            statements: As in `search`.
            text: As in `search`.
            validation_text: As in `validation`.
            seed: As in `search`.
            processes: As in `search`.

        Returns:
            The search and its validation.

        Raises:
            ValueError: As in `search` and `validation`.
        """
        made = self.search(statements, text, seed, processes)
        judge = self.validation(statements, validation_text)
        drop_lower(self.model, self.first)
        return made, judge

    def validation(
        self, statements: Sequence[Statement], text: str
    ) -> Callable[[], dict[str, float]]:
        """Return the function that judges the model as it is installed when it is called.

        Target facts are asked with the prompts of validation families; control facts and text are
        those of the validation splits. None of it is trained on, none of it is reported.

        Args:
            statements: Statements of one target KG's facts in all splits and roles.
            text: Validation text of the control LM.

        Returns:
            A function of no arguments; see `find_subnetwork`.

        Raises:
            ValueError: If a set is empty, a statement longer than the context, or the text
                shorter than a block.
        """
        target = self._batch(_chosen(statements, Split.TARGET, Role.VALIDATION))
        control = self._batch(_chosen(statements, Split.CONTROL_VALIDATION, Role.TRAIN))
        blocks = self._text(text)
        control_ppl = score(self.upper, control).perplexity
        text_ppl = score(self.upper, blocks).perplexity

        def judge() -> dict[str, float]:
            return {
                "target_nll": float(score(self.upper, target).mean_nll.mean()),
                "control_ratio": score(self.upper, control).perplexity / control_ppl,
                "text_ratio": score(self.upper, blocks).perplexity / text_ppl,
            }

        return judge

    def _batch(self, statements: Sequence[Statement]) -> Batch:
        context = context_length(self.model)
        batch = encode_statements(self.tokenizer, statements, context)
        return self._pushed(batch)

    def _text(self, text: str) -> Batch:
        blocks = encode_text(self.tokenizer, text, self.options.block_tokens)
        return self._pushed(blocks)

    def _pushed(self, batch: Batch) -> Batch:
        return cache_lower_states(self.model, self.first, batch, allocate=self.allocate)


def _stated(statements: Sequence[Statement], split: Split, role: Role) -> list[Statement]:
    return [each for each in statements if each.split is split and each.role is role]


def _chosen(statements: Sequence[Statement], split: Split, role: Role) -> list[Statement]:
    found = _stated(statements, split, role)
    if not found:
        raise ValueError(f"no statement of split {split} and role {role}")
    return found


def _require_tails(known: Ignorance, options: TrainOptions) -> None:
    relative = options.suppression in (Suppression.ZSCORE_LABEL, Suppression.ZSCORE_ALL)
    if relative and (found := len(known.objects)) < MIN_OBJECTS:
        raise ValueError(
            f"train.suppression: value {options.suppression.value!r} compares the tails of target "
            f"and control facts, there are {found} that begin differently (at least {MIN_OBJECTS})"
        )
