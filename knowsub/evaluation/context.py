"""What an evaluation holds ready: encoded facts, text blocks, and what the original model says.

A mask changes only the upper blocks, so the states that enter the first masked block are computed
once per sequence and cached with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import MaskableMatrix
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.batch import Batch, encode_statements
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from knowsub.lm.load import context_length
from knowsub.lm.score import NotFiniteError, Scores, score
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import Mask

BUCKET = 256
"""Statements per bucket of similar length, and sequences per forward pass."""


@dataclass(frozen=True)
class EncodedFacts:
    """Statements in their order, the facts they state, and their batches in order of length."""

    statements: tuple[Statement, ...]
    """The statements; every result keeps their order."""
    facts: tuple[Fact, ...]
    """The distinct facts, in order of first appearance: the unit of all statistics."""
    fact_index: Int[Tensor, " statement"]
    """Index in `facts` of each statement's fact."""
    bucket_rows: tuple[Int[Tensor, " row"], ...]
    """Indices of the statements in each bucket."""
    batches: tuple[Batch, ...]
    """Batch of each bucket, with cached lower states unless they were left out."""

    def __len__(self) -> int:
        """Return the number of statements."""
        return len(self.statements)

    def per_fact(self, values: Shaped[Tensor, " statement"]) -> Float[Tensor, " fact"]:
        """Return the mean of one value per statement over the statements of each fact."""
        total = torch.zeros(len(self.facts), dtype=torch.float64)
        total.index_add_(0, self.fact_index, values.double())
        return total / torch.bincount(self.fact_index, minlength=len(self.facts))

    def in_order(self, buckets: Sequence[Tensor]) -> Shaped[Tensor, " statement"]:
        """Return values that were computed bucket by bucket in the order of the statements."""
        return torch.cat(list(buckets))[torch.cat(self.bucket_rows).argsort()]

    def without_lower_states(self) -> EncodedFacts:
        """Return the same statements for the whole model, which computes the lower blocks anew."""
        return replace(
            self, batches=tuple(replace(batch, lower_states=None) for batch in self.batches)
        )


@dataclass(frozen=True)
class PrefixEncoder:
    """A model, its tokenizer and its first masked block: all that encoding needs."""

    model: PreTrainedModel
    """The whole original model."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    first_block: int
    """0-based index of the first masked block."""

    def encode(self, statements: Sequence[Statement]) -> EncodedFacts:
        """Return statements ready to be scored by the upper blocks, on the model's device.

        Raises ValueError if there is no statement, or one is empty or longer than the context.
        """
        whole = encode_statements(self.tokenizer, statements, context_length(self.model))
        facts = tuple(dict.fromkeys(statement.fact for statement in statements))
        index = {fact: position for position, fact in enumerate(facts)}
        rows = whole.lengths.sort(stable=True).indices.split(BUCKET)
        return EncodedFacts(
            statements=tuple(statements),
            facts=facts,
            fact_index=torch.tensor([index[statement.fact] for statement in statements]),
            bucket_rows=rows,
            batches=tuple(self.cache(whole[chosen].trimmed()) for chosen in rows),
        )

    def cache(self, batch: Batch) -> Batch:
        """Return a batch, on the model's device, with the states that enter `first_block`."""
        batch = batch.to(self.model.device)
        return cache_lower_states(self.model, self.first_block, batch, rows=BUCKET)


def score_facts(model: PreTrainedModel, facts: EncodedFacts) -> Scores:
    """Return scores per statement, on the CPU, of the upper blocks as they are now.

    Where the facts carry no lower states, the model is the whole one.
    """
    parts = []
    for rows, batch in zip(facts.bucket_rows, facts.batches, strict=True):
        try:
            parts.append(score(model, batch, rows=BUCKET))
        except NotFiniteError as error:
            raise error.of(facts.statements[int(rows[error.row])]) from None
    return Scores(
        nll=facts.in_order([part.nll for part in parts]),
        tokens=facts.in_order([part.tokens for part in parts]),
        rank=facts.in_order([part.rank for part in parts]),
        correct=facts.in_order([part.correct for part in parts]),
    )


def fact_dnll(facts: EncodedFacts, changed: Scores, original: Scores) -> Float[Tensor, " fact"]:
    """Return dNLL per fact: mean over its prompts of changed - original [nats per object token]."""
    return facts.per_fact(changed.mean_nll.double() - original.mean_nll.double())


SETS: dict[str, tuple[Split, Role]] = {
    "target": (Split.TARGET, Role.TRAIN),
    "validation": (Split.TARGET, Role.VALIDATION),
    "paraphrase": (Split.TARGET, Role.TEST),
    "control": (Split.CONTROL_TRAIN, Role.TRAIN),
    "heldout": (Split.CONTROL_HELDOUT, Role.TRAIN),
    "neighborhood": (Split.NEIGHBORHOOD_HELDOUT, Role.TRAIN),
    "unknown_target": (Split.TARGET_UNKNOWN, Role.TRAIN),
    "unknown_control": (Split.CONTROL_UNKNOWN, Role.TRAIN),
    "unknown_neighborhood": (Split.NEIGHBORHOOD_UNKNOWN, Role.TRAIN),
}
"""Name of each set of statements -> the facts and the template families in it."""

TARGET_SETS = ("target", "validation", "paraphrase")
"""The sets of prompts for the target facts."""


@dataclass(frozen=True)
class ScoreSet:
    """Scores of one state of the model (original, remaining, ...) on sets of facts and texts."""

    sets: Mapping[str, Scores]
    """Scores per statement of each set."""
    texts: Mapping[str, Scores]
    """Scores per block of each text."""


def score_all(
    upper: PreTrainedModel, sets: Mapping[str, EncodedFacts], texts: Mapping[str, Batch]
) -> ScoreSet:
    """Return the scores of the upper blocks, as they are now, on facts and text blocks."""
    return ScoreSet(
        sets={name: score_facts(upper, facts) for name, facts in sets.items()},
        # A text block reads every position, so a pass takes fewer of them.
        texts={name: score(upper, blocks, rows=BUCKET // 4) for name, blocks in texts.items()},
    )


@dataclass(frozen=True)
class EvalContext:
    """All that an evaluation of masks of one model on one target KG needs."""

    encoder: PrefixEncoder
    """The original model, whole, with its tokenizer."""
    upper: PreTrainedModel
    """Its masked blocks and those above; shares their weights."""
    matrices: tuple[MaskableMatrix, ...]
    """The maskable matrices."""
    statements: tuple[Statement, ...]
    """All statements of the target's knowledge graph."""
    sets: Mapping[str, EncodedFacts]
    """Name -> encoded facts; sets without statements are left out."""
    texts: Mapping[str, Batch]
    """Name -> text blocks."""
    original: ScoreSet
    """What the original model says about all of them."""

    def ablated(self, mask: Mask) -> AbstractContextManager[None]:
        """Return a context manager within which the model computes without a subnetwork."""
        return ablated(self.encoder.model, self.matrices, mask)

    def score(
        self, sets: Iterable[str] | None = None, texts: Iterable[str] | None = None
    ) -> ScoreSet:
        """Return the scores of the model as it is now.

        Sets and texts are given by name, None means all; sets without statements are passed over.
        """
        set_names = self.sets if sets is None else [name for name in sets if name in self.sets]
        text_names = self.texts if texts is None else [name for name in texts if name in self.texts]
        return score_all(
            self.upper,
            {name: self.sets[name] for name in set_names},
            {name: self.texts[name] for name in text_names},
        )

    def mask_size(self, mask: Mask) -> dict[str, float]:
        """Return `sparsity` among maskable weights, `removed_share` of parameters [fraction]."""
        parameters = self.encoder.model.num_parameters()
        return {"sparsity": mask.sparsity, "removed_share": mask.size / parameters}

    def dnll(self, name: str, changed: Scores) -> Float[Tensor, " fact"]:
        """Return dNLL per fact of the set `name` [nats per object token]."""
        return fact_dnll(self.sets[name], changed, self.original.sets[name])


def open_context(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    matrices: Sequence[MaskableMatrix],
    statements: Sequence[Statement],
    texts: Mapping[str, Batch],
    control_prompts: int = 0,
) -> EvalContext:
    """Return the evaluation context of one target KG, cached and scored under the original weights.

    `statements` are all those of the target's knowledge graph, `texts` blocks of `encode_text`.
    `control_prompts` limits the prompts per fact in every set but the target's, those of lowest NLL
    under the original model first; 0 = all. Raises ValueError if there is no target statement of a
    training family, or one cannot be encoded.
    """
    first = min(matrix.block for matrix in matrices)
    encoder, upper = PrefixEncoder(model, tokenizer, first), upper_blocks(model, first)
    sets: dict[str, EncodedFacts] = {}
    for name, (split, role) in SETS.items():
        members = [s for s in statements if s.split == split and s.role == role]
        if name not in TARGET_SETS and control_prompts:
            members = best_prompts(members, control_prompts)
        if members:
            sets[name] = encoder.encode(members)
    if "target" not in sets:
        raise ValueError("no statement states a target fact in a training family")
    blocks = {name: encoder.cache(batch) for name, batch in texts.items()}
    original = score_all(upper, sets, blocks)
    return EvalContext(encoder, upper, tuple(matrices), tuple(statements), sets, blocks, original)


def best_prompts(statements: Sequence[Statement], limit: int) -> list[Statement]:
    """Return each fact's statements of lowest NLL, `limit` at most, in their original order.

    Statements without an NLL come last, equal ones in their order.
    """
    counts: dict[str, int] = {}
    chosen = set()
    for index in sorted(range(len(statements)), key=lambda i: statements[i].nll_or_inf):
        key = statements[index].fact.key
        if counts.setdefault(key, 0) < limit:
            counts[key] += 1
            chosen.add(index)
    return [statement for index, statement in enumerate(statements) if index in chosen]
