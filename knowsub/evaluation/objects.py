"""Objects of a relation and other subjects, drawn at random; and how likely each object is.

One-token objects of one prompt are all read off a single forward pass; longer ones are scored as
statements of their own. Multiple choice, prior and identifiability all score through this file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.evaluation.context import EncodedFacts, PrefixEncoder, score_facts
from knowsub.kg.facts import Fact, Statement
from knowsub.kg.words import comparable
from knowsub.lm.batch import encode_statements
from knowsub.lm.load import context_length
from knowsub.lm.score import target_logits

DRAWS = ("uniform", "frequency")
"""How distractors are drawn: every object alike, or by the number of facts that have it."""


@dataclass(frozen=True)
class RelationObjects:
    """The objects of every relation, from which distractors are drawn."""

    texts: tuple[str, ...]
    """Distinct texts of objects."""
    counts: dict[str, Counter[int]]
    """Relation -> how many facts have each object (index in `texts`)."""
    true: dict[tuple[str, str], frozenset[int]]
    """(comparable subject words, relation) -> objects that are true of the subject, however
    they are spelled."""

    def draw(
        self, fact: Fact, *, by_frequency: bool, number: int, generator: torch.Generator
    ) -> list[int]:
        """Return distractors for one fact: distinct indices of objects untrue of its subject.

        Each object of the relation is as likely, or `by_frequency` in proportion to the facts that
        have it. Where the relation has too few, objects of other relations fill up; fewer come
        back only if there are no more.
        """
        banned = self.true[comparable(fact.subject_words), fact.relation]
        counts = self.counts[fact.relation]
        same = [index for index in counts if index not in banned]
        weights = [float(counts[index]) if by_frequency else 1.0 for index in same]
        drawn = _draw_weighted(same, weights, number, generator)
        rest = [i for i in range(len(self.texts)) if i not in banned and i not in counts]
        return drawn + _draw_weighted(rest, [1.0] * len(rest), number - len(drawn), generator)

    def draw_for(
        self, facts: Iterable[Fact], number: int, generator: torch.Generator
    ) -> dict[Fact, list[list[int]]]:
        """Return fact -> its distractors in each of `DRAWS`, as many of every fact.

        `number` each, fewer where some fact has too few. Raises ValueError if one has none at all.
        """
        drawn = {
            fact: [
                self.draw(fact, by_frequency=frequent, number=number, generator=generator)
                for frequent in (False, True)
            ]
            for fact in facts
        }
        fewest = min(len(wrong) for draws in drawn.values() for wrong in draws)
        if not fewest:
            raise ValueError("choice needs at least one object that is not true of each subject")
        return {fact: [wrong[:fewest] for wrong in draws] for fact, draws in drawn.items()}


def relation_objects(statements: Sequence[Statement]) -> RelationObjects:
    """Return the objects of every relation; a fact counts once however often it is stated."""
    facts = {statement.fact: statement.object for statement in statements}
    texts = tuple(dict.fromkeys(facts.values()))
    index = {text: position for position, text in enumerate(texts)}
    spellings: dict[str, frozenset[int]] = {}
    for text, position in index.items():
        spelled = comparable(text)
        spellings[spelled] = spellings.get(spelled, frozenset()) | {position}
    counts: dict[str, Counter[int]] = {}
    true: dict[tuple[str, str], frozenset[int]] = {}
    for fact, text in facts.items():
        counts.setdefault(fact.relation, Counter())[index[text]] += 1
        key = (comparable(fact.subject_words), fact.relation)
        true[key] = true.get(key, frozenset()) | spellings[comparable(text)]
    return RelationObjects(texts, counts, true)


def _draw_weighted(
    values: list[int], weights: list[float], number: int, generator: torch.Generator
) -> list[int]:
    """Return up to `number` distinct values, drawn in proportion to their weights."""
    number = min(number, len(values))
    if number <= 0:
        return []
    drawn = torch.multinomial(torch.tensor(weights), number, generator=generator)
    return [values[index] for index in drawn.tolist()]


class OtherSubjects:
    """Statements about other subjects of the same relation, drawn at random."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self._by_family: dict[tuple[str, str], list[Statement]] = {}
        self._by_relation: dict[str, list[Statement]] = {}
        for statement in statements:
            relation = statement.fact.relation
            self._by_relation.setdefault(relation, []).append(statement)
            self._by_family.setdefault((relation, statement.family), []).append(statement)

    def draw(self, statement: Statement, generator: torch.Generator) -> Statement:
        """Return a statement about another subject, each as likely, of the same template family.

        Where the family has none, any family will do. Raises ValueError if the relation has no
        other subject.
        """
        relation = statement.fact.relation
        for candidates in (
            self._by_family.get((relation, statement.family), []),
            self._by_relation.get(relation, []),
        ):
            order: list[int] = torch.randperm(len(candidates), generator=generator).tolist()
            for index in order:
                if has_other_subject(candidates[index].fact, statement.fact):
                    return candidates[index]
        words = statement.fact.subject_words
        raise ValueError(f"relation {relation!r} has no subject but {words!r}")


def has_other_subject(other: Fact, fact: Fact) -> bool:
    """Return whether two facts share the relation but neither the subject nor its words."""
    same = comparable(other.subject_words) == comparable(fact.subject_words)
    return other.relation == fact.relation and other.subject != fact.subject and not same


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs of a prompt and an object that may or may not be its own."""

    prompt_index: Int[Tensor, " pair"]
    """Index of the pair's prompt among the prompts."""
    object_index: Int[Tensor, " pair"]
    """Index of the pair's object among the objects."""
    prompts: EncodedFacts
    """The prompts, each once."""
    first_token: Int[Tensor, " object"]
    """First token of each object."""
    n_tokens: Int[Tensor, " object"]
    """Number of tokens of each object."""
    multi_token: EncodedFacts | None
    """The pairs whose object has several tokens, as statements, in order; None without any."""


def encode_pairs(
    encoder: PrefixEncoder,
    prompts: Sequence[Statement],
    objects: Sequence[str],
    pairs: Int[Tensor, "pair 2"],
) -> EncodedPairs:
    """Return pairs (index of the prompt, index of the object) ready to be scored.

    Of the statements only the prompts are used; objects are texts with their leading space.
    """
    # Tokens of an object are those that it has after a prompt, whatever the tokenizer.
    named = [replace(prompts[0], object=text) for text in objects]
    tokens = encode_statements(encoder.tokenizer, named, context_length(encoder.model))
    n_tokens = tokens.target_mask.sum(dim=1)
    prompt_index, object_index = pairs.unbind(dim=1)
    multi_token = [
        replace(prompts[i], object=objects[j])
        for i, j in pairs[n_tokens[object_index] > 1].tolist()
    ]
    return EncodedPairs(
        prompt_index=prompt_index,
        object_index=object_index,
        prompts=encoder.encode(prompts),
        first_token=tokens.labels[tokens.first_targets],
        n_tokens=n_tokens,
        multi_token=encoder.encode(multi_token) if multi_token else None,
    )


@torch.no_grad()
def pair_nll(model: PreTrainedModel, pairs: EncodedPairs) -> Float[Tensor, " pair"]:
    """Return the NLL of each object after its prompt [nats per token] under the upper blocks."""
    result = torch.empty(len(pairs.prompt_index))
    one_token = pairs.n_tokens[pairs.object_index] == 1
    if bool(one_token.any()):
        table = _first_token_nll(model, pairs)
        result[one_token] = table[pairs.prompt_index[one_token], pairs.object_index[one_token]]
    if pairs.multi_token is not None:
        result[~one_token] = score_facts(model, pairs.multi_token).mean_nll
    return result


def _first_token_nll(model: PreTrainedModel, pairs: EncodedPairs) -> Float[Tensor, "prompt object"]:
    """Return the NLL of every object's first token after every prompt [nats]."""
    table = torch.empty(len(pairs.prompts), len(pairs.first_token))
    for rows, batch in zip(pairs.prompts.bucket_rows, pairs.prompts.batches, strict=True):
        # Only the last prompt position is read, not the prompt's own object.
        prompt_ends = replace(batch, target_mask=batch.first_targets)
        for covered, logits, _ in target_logits(model, prompt_ends, rows=len(rows)):
            logits = logits.float()
            chosen = logits[:, pairs.first_token.to(logits.device)]
            table[rows[covered]] = (logits.logsumexp(dim=1, keepdim=True) - chosen).cpu()
    return table
