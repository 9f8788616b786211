"""From statements and text to a search and its validation, and from its result to files."""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import block_count
from knowsub.artifacts import json_text
from knowsub.discovery.distinction import close_rows, facts_with, family_rows, own_tokens
from knowsub.discovery.distributed import ProcessGroup
from knowsub.discovery.ignorance import MIN_OBJECTS, match_controls, measure_ignorance
from knowsub.discovery.options import HeadVocabulary, Suppression, TrainOptions
from knowsub.discovery.step import TrainingData
from knowsub.discovery.teacher import (
    TEXT,
    cache_teacher,
    cache_teacher_states,
    compared_tokens_only,
)
from knowsub.discovery.trainer import MaskTrainer, SearchResult, StepMetrics
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import Batch, encode_statements, encode_text
from knowsub.lm.blocks import Allocate, cache_lower_states, drop_lower, in_memory, upper_blocks
from knowsub.lm.load import context_length
from knowsub.lm.score import score
from knowsub.masks.ablation import chosen_matrices
from knowsub.masks.gates import PROBABILITY_SHARES, Gates
from knowsub.masks.mask import Mask, save_mask


class SearchModel:
    """A model cut at its first masked block; it encodes sequences up to there.

    Args:
        model: The original model, all parameters frozen.
        tokenizer: Its tokenizer.
        options: Say which blocks and modules are masked.
        allocate: Where cached states go.

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
        self.first_block = -1 if options.embeddings else blocks.start
        self.matrices = chosen_matrices(
            model, options.block_range, options.modules, options.embeddings
        )
        self.upper = upper_blocks(model, self.first_block)

    def encode_statements(self, statements: Sequence[Statement]) -> Batch:
        """Return statements with their lower states; longer ones than the context are an error."""
        return self._with_lower_states(
            encode_statements(self.tokenizer, statements, context_length(self.model))
        )

    def encode_text(self, text: str) -> Batch:
        """Return text blocks with their lower states; a text shorter than one is an error."""
        return self._with_lower_states(encode_text(self.tokenizer, text, self.options.block_tokens))

    def _with_lower_states(self, batch: Batch) -> Batch:
        return cache_lower_states(self.model, self.first_block, batch, allocate=self.allocate)


def build_search(
    model: SearchModel,
    statements: Sequence[Statement],
    text: str,
    validation_text: str,
    seed: int,
    processes: ProcessGroup | None = None,
) -> tuple[MaskTrainer, Callable[[], dict[str, float]]]:
    """Return what `build_trainer` and `build_validation` do, and free the lower blocks.

    The model cannot run as a whole any more; arguments and errors are those of the two.
    """
    data = _training_data(model, statements, text, seed)
    validate = build_validation(model, statements, validation_text)
    drop_lower(model.model, model.first_block)  # before the gates take their memory
    return _trainer_of(model, *data, seed, processes), validate


def build_trainer(
    model: SearchModel,
    statements: Sequence[Statement],
    text: str,
    seed: int,
    processes: ProcessGroup | None = None,
) -> MaskTrainer:
    """Return the search for the subnetwork of one target KG, with its data cached.

    Args:
        model: The model.
        statements: Statements of one target KG's facts in all splits and roles.
        text: Training text of the control LM.
        seed: Seed of the search.
        processes: The processes of the search; None for this process alone.

    Returns:
        The search, at its first step.

    Raises:
        ValueError: If there is no target or control statement to train on, a statement is longer
            than the context, the text is shorter than a block, or there are too few different
            objects for the suppression term.
    """
    return _trainer_of(model, *_training_data(model, statements, text, seed), seed, processes)


def _trainer_of(
    model: SearchModel,
    data: TrainingData,
    upper: PreTrainedModel,
    seed: int,
    processes: ProcessGroup | None,
) -> MaskTrainer:
    """Return the search with its gates; see `build_trainer`."""
    options = model.options
    shards = (processes or ProcessGroup()).shards(options.shards)
    how = (options.granularity, options.estimator, options.init_prob, shards)
    gates = Gates(model.model, model.matrices, *how)
    added = close_rows(gates, data.target, data.own_tokens) if options.embeddings else None
    return MaskTrainer(gates, upper, data, options, seed, processes, added)


def _training_data(
    model: SearchModel, statements: Sequence[Statement], text: str, seed: int
) -> tuple[TrainingData, PreTrainedModel]:
    """Return the statements and text blocks of a search, with the teacher's answers cached.

    And the upper blocks that read them, with the LM head of the tokens that the losses compare.
    """
    options, upper = model.options, model.upper
    target_statements = _require(statements, Split.TARGET, Role.TRAIN)
    control_statements = _require(statements, Split.CONTROL_TRAIN, Role.TRAIN)
    control_statements += _select(statements, Split.CONTROL_TRAIN_UNKNOWN, Role.TRAIN)
    neighborhood, n_facts = _neighborhood(statements) if options.neighborhood_weight else ([], 0)
    near_facts = neighborhood[:n_facts] if options.embeddings else []
    asked = _asked_of_others(statements, control_statements, near_facts)
    sets = {"target": target_statements, "control": control_statements}
    sets |= {"neighborhood": neighborhood} if neighborhood else {}
    sets |= {"ignorance": asked} if len(asked) > len(control_statements) else {}
    batches = {name: model.encode_statements(each) for name, each in sets.items()}
    batches[TEXT] = model.encode_text(text)
    preserved = [batches["control"], *([batches["neighborhood"][:n_facts]] if n_facts else [])]
    own = own_tokens(batches["target"], preserved) if options.embeddings else torch.zeros(0).long()
    alike = facts_with(target_statements, batches["target"], own)
    if options.head_vocabulary is HeadVocabulary.SEEN:
        upper, batches = compared_tokens_only(upper, batches)
    target, control = batches["target"], batches["control"]
    near = batches.get("neighborhood")
    teacher = partial(cache_teacher, upper, precision=options.precision, allocate=model.allocate)
    generator = torch.Generator().manual_seed(seed)
    match = partial(match_controls, target_statements, asked, alike, generator)
    states = cache_teacher_states(upper, batches.get("ignorance", control))
    shifted = options.causal_shift
    data = TrainingData(
        target=target if shifted else target.unshifted(),
        control=teacher(control if shifted else control.unshifted()),
        neighborhood=None if near is None else teacher(near),
        n_neighborhood=n_facts,
        text=teacher(batches[TEXT]),
        target_families=family_rows(target_statements),
        own_tokens=own,
        ignorance=measure_ignorance(upper, target, states, match),
    )
    _require_objects(len(data.ignorance.objects), options.suppression)
    return data, upper


def _neighborhood(statements: Sequence[Statement]) -> tuple[list[Statement], int]:
    """Return the neighborhood statements to train on, facts first, and how many are of facts."""
    facts = _select(statements, Split.NEIGHBORHOOD_TRAIN, Role.TRAIN)
    facts += _select(statements, Split.NEIGHBORHOOD_TRAIN_UNKNOWN, Role.TRAIN)
    return [*facts, *_select(statements, Split.UNSEEN, Role.TRAIN)], len(facts)


def _asked_of_others(
    statements: Sequence[Statement], control: Sequence[Statement], near: Sequence[Statement]
) -> list[Statement]:
    """Return the statements that show what not knowing looks like.

    These are statements of control and, where given, neighborhood facts. Where a target is a whole
    relation, no control fact shows it. Facts of it that the original model does not know do; they
    are asked, and not trained on.
    """
    relations = {statement.fact.relation for statement in control}
    unknown = _select(statements, Split.TARGET_UNKNOWN, Role.TRAIN)
    return [*control, *(each for each in unknown if each.fact.relation not in relations), *near]


def build_validation(
    model: SearchModel, statements: Sequence[Statement], text: str
) -> Callable[[], dict[str, float]]:
    """Return the function that validates the model with the weights that it has when called.

    Target facts are prompted by the validation families; control facts and text are those of the
    validation splits. None of it is trained on, none of it is reported.

    Args:
        model: The model.
        statements: Statements of one target KG's facts in all splits and roles.
        text: Validation text of the control LM.

    Returns:
        A function of no arguments; see `find_subnetwork`.

    Raises:
        ValueError: If a set is empty, a statement longer than the context, or the text shorter
            than a block.
    """
    target = model.encode_statements(_require(statements, Split.TARGET, Role.VALIDATION))
    control = model.encode_statements(_require(statements, Split.CONTROL_VALIDATION, Role.TRAIN))
    blocks = model.encode_text(text)
    control_ppl = score(model.upper, control).perplexity
    text_ppl = score(model.upper, blocks).perplexity

    def validate() -> dict[str, float]:
        return {
            "target_nll": float(score(model.upper, target).mean_nll.mean()),
            "control_ratio": score(model.upper, control).perplexity / control_ppl,
            "text_ratio": score(model.upper, blocks).perplexity / text_ppl,
        }

    return validate


def _select(statements: Sequence[Statement], split: Split, role: Role) -> list[Statement]:
    return [each for each in statements if each.split is split and each.role is role]


def _require(statements: Sequence[Statement], split: Split, role: Role) -> list[Statement]:
    selected = _select(statements, split, role)
    if not selected:
        raise ValueError(f"no statement of split {split} and role {role}")
    return selected


def _require_objects(count: int, suppression: Suppression) -> None:
    zscores = suppression in (Suppression.ZSCORE_LABEL, Suppression.ZSCORE_ALL)
    if zscores and count < MIN_OBJECTS:
        raise ValueError(
            f"train.suppression: value {suppression.value!r} compares the objects of target and "
            f"control facts, there are {count} that begin differently (at least {MIN_OBJECTS})"
        )


MEMORY_SHARE = 0.5
"""Share of the memory that a stage may plan with which cached states may take [fraction]."""


class MemmapAllocator:
    """Allocates tensors for cached states, in mapped files once memory is short; one per search.

    A file is unlinked as soon as it is mapped: nothing else reads it, and it is gone when the
    process ends, however that happens.

    Args:
        folder: Folder of the files, on a disk with room; it is made.
        memory_gb: Memory that the stage may plan with [GB].
    """

    def __init__(self, folder: Path, memory_gb: float) -> None:
        self.folder = folder
        self.bytes_left = int(MEMORY_SHARE * memory_gb * 1e9)

    def __call__(self, size: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialized tensor.

        Args:
            size: Its shape.
            like: A tensor of its dtype, and of its device while there is memory left.

        Returns:
            A tensor in memory, or on the CPU in a mapped file once the limit is reached.

        Raises:
            OSError: If the file cannot be made.
        """
        n_bytes = math.prod(size) * like.element_size()
        if n_bytes <= self.bytes_left:
            self.bytes_left -= n_bytes
            return like.new_empty(tuple(size))
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="states-", dir=self.folder)
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, not a crash later
                os.posix_fallocate(handle, 0, max(1, n_bytes))
            mapped = torch.from_file(name, shared=True, size=math.prod(size), dtype=like.dtype)
        finally:
            os.close(handle)
            Path(name).unlink()
        return mapped.view(tuple(size))


def write_search_result(
    folder: Path, mask: Mask, result: SearchResult, options: TrainOptions
) -> list[Path]:
    """Write a search's result.

    Args:
        folder: Folder to write into; it is made.
        mask: The mask of the chosen candidate.
        result: The result of the search.
        options: How it was searched for; also stored in the mask's header.

    Returns:
        The files: `mask.safetensors`, `training.json`, `curve.csv` with every step's metrics, and
        `validations.csv` with those of every validated mask, chosen or not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("mask.safetensors", "training.json", "curve.csv", "validations.csv")
    paths = [folder / name for name in names]
    meta = {**mask.meta, "options": json.dumps(asdict(options), sort_keys=True)}
    save_mask(Mask(mask.bits, mask.model, meta), paths[0])
    summary = {
        "sparsity": mask.sparsity,
        "weights": mask.size,
        "maskable": mask.maskable,
        "chosen": asdict(result.chosen),
        "qualified": result.qualified,
        "gates": {name: result.curve[result.chosen.step - 1][name] for name in PROBABILITY_SHARES},
        "options": asdict(options),
    }
    text = json_text(summary, paths[1], indent=1, sort_keys=True)
    paths[1].write_text(text + "\n", encoding="utf-8")
    _write_csv(paths[2], result.curve)
    # The reference keeps the metrics of every checkpoint; here they are of the validation data.
    prefix = "validation_"
    validated = [
        {
            name.removeprefix(prefix): value
            for name, value in row.items()
            if name.startswith(prefix) or name in {"step", *PROBABILITY_SHARES}
        }
        for row in result.curve
        if "undecided" in row
    ]
    _write_csv(paths[3], validated)
    return paths


def _write_csv(path: Path, rows: Sequence[StepMetrics]) -> None:
    """Write rows of numbers under the names that occur in any of them."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
