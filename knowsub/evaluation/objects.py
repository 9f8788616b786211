"""Which objects a prompt is asked for, and how likely a model finds each of them.

One-token tails of one prompt are all read off a single forward pass; longer tails are scored as
statements of their own. Choice, prior and head information all ask through this file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.context import EncodedFacts, PrefixEncoder, score_facts
from knowsub.kg.facts import Fact, Statement
from knowsub.lm.score import target_logits


@dataclass(frozen=True)
class RelationObjects:
    """The tails of every relation, from which distractors are drawn."""

    texts: tuple[str, ...]
    """Distinct texts of tails."""
    counts: dict[str, Counter[int]]
    """Relation -> how many facts have each tail (index in `texts`)."""
    true: dict[tuple[str, str], frozenset[int]]
    """(head words, relation) -> tails that are true of the head."""

    def drawn(
        self, fact: Fact, *, by_frequency: bool, number: int, generator: torch.Generator
    ) -> list[int]:
        """Return distractors for one fact.

        Args:
            fact: The fact.
            by_frequency: Whether a tail is drawn in proportion to the facts that have it; if
                not, every tail of the relation is as likely.
            number: Distractors wanted.
            generator: Source of randomness.

        Returns:
            Distinct indices of tails that are not true of the head. Where the relation has too
            few, tails of other relations fill up; fewer come back only if there are no more.
        """
        banned = self.true[fact.subject_words, fact.relation]
        relation = self.counts[fact.relation]
        near = [tail for tail in relation if tail not in banned]
        weights = [float(relation[tail]) if by_frequency else 1.0 for tail in near]
        chosen = _sample(near, weights, number, generator)
        far = [i for i in range(len(self.texts)) if i not in banned and i not in relation]
        return chosen + _sample(far, [1.0] * len(far), number - len(chosen), generator)


def relation_objects(statements: Sequence[Statement]) -> RelationObjects:
    """Return the tails of every relation, over all facts of the statements.

    Args:
        statements: Statements of all facts.

    Returns:
        The tails; a fact counts once however often it is stated.
    """
    facts = {one.fact: one.object for one in statements}
    texts = tuple(dict.fromkeys(facts.values()))
    index = {text: position for position, text in enumerate(texts)}
    counts: dict[str, Counter[int]] = {}
    true: dict[tuple[str, str], frozenset[int]] = {}
    for fact, text in facts.items():
        counts.setdefault(fact.relation, Counter())[index[text]] += 1
        key = (fact.subject_words, fact.relation)
        true[key] = true.get(key, frozenset()) | {index[text]}
    return RelationObjects(texts, counts, true)


def _sample(
    values: list[int], weights: list[float], number: int, generator: torch.Generator
) -> list[int]:
    number = min(number, len(values))
    if number <= 0:
        return []
    picked = torch.multinomial(torch.tensor(weights), number, generator=generator)
    return [values[index] for index in picked.tolist()]


class OtherSubjects:
    """Statements about other heads of the same relation, drawn at random."""

    def __init__(self, pool: Sequence[Statement]) -> None:
        self._by_family: dict[tuple[str, str], list[Statement]] = {}
        self._by_relation: dict[str, list[Statement]] = {}
        for one in pool:
            relation = one.fact.relation
            self._by_relation.setdefault(relation, []).append(one)
            self._by_family.setdefault((relation, one.family), []).append(one)

    def drawn(self, statement: Statement, generator: torch.Generator) -> Statement:
        """Return a statement about another head, in the same template family where there is one.

        Args:
            statement: The statement whose head is replaced.
            generator: Source of randomness.

        Returns:
            The other statement, each as likely.

        Raises:
            ValueError: If the relation has no other head.
        """
        relation = statement.fact.relation
        for pool in (
            self._by_family.get((relation, statement.family), []),
            self._by_relation.get(relation, []),
        ):
            order: list[int] = torch.randperm(len(pool), generator=generator).tolist()
            for index in order:
                if has_other_subject(pool[index].fact, statement.fact):
                    return pool[index]
        head = statement.fact.subject_words
        raise ValueError(f"relation {relation!r} has no head but {head!r}")


def has_other_subject(asked: Fact, fact: Fact) -> bool:
    """Return whether two facts share the relation but neither the head nor its words."""
    same = asked.subject == fact.subject or asked.subject_words == fact.subject_words
    return asked.relation == fact.relation and not same


@dataclass(frozen=True)
class Pairs:
    """Pairs of a prompt and a tail that may or may not be its own."""

    row: Int[Tensor, " pair"]
    """Index of the pair's prompt among the prompts."""
    column: Int[Tensor, " pair"]
    """Index of the pair's tail among the tails."""
    prompts: EncodedFacts
    """The prompts, each once."""
    first: Int[Tensor, " tail"]
    """First token of each tail."""
    length: Int[Tensor, " tail"]
    """Number of tokens of each tail."""
    longer: EncodedFacts | None
    """The pairs whose tail has several tokens, as statements, in order; None if there are none."""

    @property
    def short(self) -> Bool[Tensor, " pair"]:
        """True where the pair's tail is one token."""
        return self.length[self.column] == 1


def ask(
    reader: PrefixEncoder,
    prompts: Sequence[Statement],
    tails: Sequence[str],
    pairs: Int[Tensor, "pair 2"],
) -> Pairs:
    """Return pairs ready to be scored.

    Args:
        reader: The original model and where it is cut.
        prompts: Statements whose prompts are used; their own tails play no part.
        tails: Texts of the tails, each with its leading space.
        pairs: Index of the prompt and index of the tail of each pair.

    Returns:
        The pairs.

    Raises:
        ValueError: As in `Reader.items`.
    """
    encoded = [reader.tokenizer(tail, add_special_tokens=False)["input_ids"] for tail in tails]
    length = torch.tensor([len(tokens) for tokens in encoded])
    row, column = pairs.unbind(dim=1)
    longer = [replace(prompts[i], tail=tails[j]) for i, j in pairs[length[column] > 1].tolist()]
    return Pairs(
        row=row,
        column=column,
        prompts=reader.encode(prompts),
        first=torch.tensor([tokens[0] for tokens in encoded]),
        length=length,
        longer=reader.encode(longer) if longer else None,
    )


@torch.no_grad()
def pair_nll(model: PreTrainedModel, pairs: Pairs) -> Float[Tensor, " pair"]:
    """Return the NLL per token of each pair's tail after its prompt.

    Args:
        model: The upper blocks, as they are now.
        pairs: The pairs.

    Returns:
        NLL per tail token [nats per token], on the CPU.
    """
    result = torch.empty(len(pairs.row))
    short = pairs.short
    if bool(short.any()):
        table = _first_token_nll(model, pairs)
        result[short] = table[pairs.row[short], pairs.column[short]]
    if pairs.longer is not None:
        result[~short] = score_facts(model, pairs.longer).mean_nll
    return result


def _first_token_nll(model: PreTrainedModel, pairs: Pairs) -> Float[Tensor, "prompt tail"]:
    table = torch.empty(len(pairs.prompts), len(pairs.first))
    for rows, batch in zip(pairs.prompts.rows, pairs.prompts.batches, strict=True):
        asked = replace(batch, target_mask=batch.first_targets)
        for covered, logits, _ in target_logits(model, asked, rows=len(rows)):
            logits = logits.float()
            chosen = logits[:, pairs.first.to(logits.device)]
            table[rows[covered]] = (logits.logsumexp(dim=1, keepdim=True) - chosen).cpu()
    return table
