"""What an evaluation holds ready: encoded facts with lower states cached, texts, and the scores of the original model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import MaskableMatrix
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.batch import Batch, encode_statements, encode_text
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from knowsub.lm.load import context_length
from knowsub.lm.score import Scores, score
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import Mask

BUCKET = 256
"""Statements per bucket of similar length, and sequences per forward pass."""


@dataclass(frozen=True)
class EncodedFacts:
    """Statements in their order, the facts they state, and their batches in order of length."""

    statements: tuple[Statement, ...]
    """The statements; every figure keeps their order."""
    facts: tuple[Fact, ...]
    """The distinct facts, in order of first appearance: the unit of all statistics."""
    owner: Int[Tensor, " statement"]
    """Index in `facts` of each statement's fact."""
    rows: tuple[Int[Tensor, " row"], ...]
    """Statements of each bucket."""
    batches: tuple[Batch, ...]
    """Batch of each bucket, with its trunk states where a trunk was given."""

    def __len__(self) -> int:
        """Return the number of statements."""
        return len(self.statements)

    def per_fact(self, values: Shaped[Tensor, " statement"]) -> Float[Tensor, " fact"]:
        """Return the mean of a figure over the statements of each fact.

        Args:
            values: One value per statement, in any unit.

        Returns:
            One value per fact, in the same unit.
        """
        total = torch.zeros(len(self.facts), dtype=torch.float64)
        total.index_add_(0, self.owner, values.double())
        return total / torch.bincount(self.owner, minlength=len(self.facts))


@dataclass(frozen=True)
class PrefixEncoder:
    """A model with its tokenizer and the place where it is cut: all that encoding needs."""

    model: PreTrainedModel
    """The whole original model."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    first: int
    """0-based index of the first masked block."""

    def encode(self, statements: Sequence[Statement]) -> EncodedFacts:
        """Return statements ready to be scored by the upper blocks.

        Args:
            statements: The statements, at least one.

        Returns:
            The items, on the model's device.

        Raises:
            ValueError: If there is no statement, or one is empty or longer than the context.
        """
        whole = encode_statements(self.tokenizer, statements, context_length(self.model))
        facts = tuple(dict.fromkeys(statement.fact for statement in statements))
        index = {fact: position for position, fact in enumerate(facts)}
        rows = whole.lengths.sort(stable=True).indices.split(BUCKET)
        return EncodedFacts(
            statements=tuple(statements),
            facts=facts,
            owner=torch.tensor([index[statement.fact] for statement in statements]),
            rows=rows,
            batches=tuple(self.cached(whole[chosen].trimmed()) for chosen in rows),
        )

    def cached(self, batch: Batch) -> Batch:
        """Return a batch on the model's device with the states that enter the first masked block.

        Args:
            batch: Sequences without cached states.

        Returns:
            The same sequences, cached.
        """
        return cache_lower_states(self.model, self.first, batch.to(self.model.device), rows=BUCKET)


def score_facts(model: PreTrainedModel, items: EncodedFacts) -> Scores:
    """Return the scores of items under the model as it is now.

    Args:
        model: The upper blocks, or the whole model if the items carry no trunk states.
        items: The items.

    Returns:
        NLL, rank and correctness per statement, in the order of the statements, on the CPU.
    """
    parts = [score(model, batch, rows=BUCKET) for batch in items.batches]
    order = torch.cat(items.rows).argsort()
    return Scores(
        nll=torch.cat([part.nll for part in parts])[order],
        tokens=torch.cat([part.tokens for part in parts])[order],
        rank=torch.cat([part.rank for part in parts])[order],
        correct=torch.cat([part.correct for part in parts])[order],
    )


SETS: dict[str, tuple[Split, Role]] = {
    "target": (Split.TARGET, Role.TRAIN),
    "validation": (Split.TARGET, Role.VALIDATION),
    "paraphrase": (Split.TARGET, Role.TEST),
    "control": (Split.CONTROL_TRAIN, Role.TRAIN),
    "heldout": (Split.CONTROL_HELDOUT, Role.TRAIN),
    "near": (Split.NEIGHBORHOOD_HELDOUT, Role.TRAIN),
}
"""Name of each set of statements -> the facts and the template families in it."""

TARGET_SETS = ("target", "validation", "paraphrase")
"""The sets of prompts for the target facts."""


@dataclass(frozen=True)
class ScoreSet:
    """What one state of the model (original, remaining, ...) says about the sets it was shown."""

    sets: Mapping[str, Scores]
    """Scores per statement of each set."""
    texts: Mapping[str, Scores]
    """Scores per block of each text."""


@dataclass(frozen=True)
class EvalContext:
    """All that an evaluation of masks of one model on one target KG needs."""

    encoder: PrefixEncoder
    """The original model, whole, with its tokenizer."""
    upper: PreTrainedModel
    """Its masked blocks and those above; shares their weights."""
    sites: tuple[MaskableMatrix, ...]
    """The maskable matrices."""
    statements: tuple[Statement, ...]
    """All statements of the target's knowledge graph."""
    sets: Mapping[str, EncodedFacts]
    """Name -> items; sets without statements are left out."""
    texts: Mapping[str, Batch]
    """Name -> text blocks."""
    original: ScoreSet
    """What the original model says about all of them."""

    def ablated(self, mask: Mask) -> AbstractContextManager[None]:
        """Return the block within which the model computes as the remaining model.

        Args:
            mask: The critical subnetwork.

        Returns:
            A context manager; the original weights are back after it.
        """
        return ablated(self.encoder.model, self.sites, mask)

    def score(
        self, sets: Iterable[str] | None = None, texts: Iterable[str] | None = None
    ) -> ScoreSet:
        """Return what the model, as it is now, says.

        Args:
            sets: Names of sets; those without statements are passed over. None means all.
            texts: Names of texts. None means all.

        Returns:
            The scores.
        """
        return score_all(self.upper, self.sets, self.texts, sets, texts)


def open_context(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sites: Sequence[MaskableMatrix],
    statements: Sequence[Statement],
    texts: Mapping[str, Batch],
    control_prompts: int = 0,
) -> EvalContext:
    """Return the bench of one target KG.

    Args:
        model: The original model.
        tokenizer: Its tokenizer.
        sites: The maskable matrices.
        statements: Every verbalisation of every fact of the target's knowledge graph.
        texts: Name -> text blocks as `text_blocks` returns them.
        control_prompts: Prompts per fact in every set but the target's, lowest NLL under the
            original model first; 0 = all.

    Returns:
        The bench, everything cached under the original weights.

    Raises:
        ValueError: If there is no target statement of a training family, or one cannot be encoded.
    """
    first = min(site.block for site in sites)
    reader, upper = PrefixEncoder(model, tokenizer, first), upper_blocks(model, first)
    sets: dict[str, EncodedFacts] = {}
    for name, (split, role) in SETS.items():
        chosen = [one for one in statements if one.split == split and one.role == role]
        if name not in TARGET_SETS and control_prompts:
            chosen = best_prompts(chosen, control_prompts)
        if chosen:
            sets[name] = reader.encode(chosen)
    if "target" not in sets:
        raise ValueError("no statement states a target fact in a training family")
    cached = {name: reader.cached(batch) for name, batch in texts.items()}
    original = score_all(upper, sets, cached)
    return EvalContext(reader, upper, tuple(sites), tuple(statements), sets, cached, original)


def score_all(
    upper: PreTrainedModel,
    sets: Mapping[str, EncodedFacts],
    texts: Mapping[str, Batch],
    some_sets: Iterable[str] | None = None,
    some_texts: Iterable[str] | None = None,
) -> ScoreSet:
    """Return what the upper blocks, as they are now, say about items and texts.

    Args:
        upper: The upper blocks.
        sets: Name -> items.
        texts: Name -> text blocks with trunk states.
        some_sets: Names wanted, None for all.
        some_texts: Names wanted, None for all.

    Returns:
        The scores.
    """
    wanted_sets = sets if some_sets is None else [name for name in some_sets if name in sets]
    wanted_texts = texts if some_texts is None else [name for name in some_texts if name in texts]
    return ScoreSet(
        sets={name: score_facts(upper, sets[name]) for name in wanted_sets},
        texts={name: score(upper, texts[name], rows=BUCKET // 4) for name in wanted_texts},
    )


def text_blocks(
    tokenizer: PreTrainedTokenizerBase, text: str, block_tokens: int, most: int = 0
) -> Batch:
    """Return the first blocks of a running text.

    Args:
        tokenizer: The model's tokenizer.
        text: The text.
        block_tokens: Length of a block [tokens].
        most: Blocks at most; 0 = all.

    Returns:
        The blocks.

    Raises:
        ValueError: If the text is shorter than one block.
    """
    blocks = encode_text(tokenizer, text, block_tokens)
    return blocks[:most] if most else blocks


def best_prompts(statements: Sequence[Statement], most: int) -> list[Statement]:
    """Return the statements of lowest NLL of each fact, in their original order.

    Args:
        statements: Statements; those without an NLL come last, equal ones in their order.
        most: Statements per fact at most.

    Returns:
        The chosen ones.
    """
    taken: dict[str, int] = {}
    chosen = set()
    ordered = sorted(range(len(statements)), key=lambda index: statements[index].nll_or_inf)
    for index in ordered:
        key = statements[index].fact.key
        if taken.setdefault(key, 0) < most:
            taken[key] += 1
            chosen.add(index)
    return [statement for index, statement in enumerate(statements) if index in chosen]
