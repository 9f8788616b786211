"""Which facts a model knows: a written rule, and target KGs that hold only such facts.

A pretrained model knows few of a knowledge graph's facts. Suppressing one that was never known
proves nothing, and one that must be kept shows no damage.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from knowsub.kg.build import hash_order, hash_rank
from knowsub.kg.facts import Fact, Split, Statement
from knowsub.kg.given import Given
from knowsub.kg.options import PrepareOptions, VerbalizeOptions
from knowsub.kg.templates import Templates
from knowsub.kg.unseen import Predict
from knowsub.kg.verbalize import Scorer, verbalize

Ranker = Callable[[Sequence[Statement]], Sequence[int]]
"""0-based vocabulary rank of each statement's object, the worst of its tokens."""

UNKNOWN = {
    Split.TARGET: Split.TARGET_UNKNOWN,
    Split.CONTROL_TRAIN: Split.CONTROL_TRAIN_UNKNOWN,
    Split.CONTROL_VALIDATION: Split.CONTROL_UNKNOWN,
    Split.CONTROL_HELDOUT: Split.CONTROL_UNKNOWN,
    Split.NEIGHBORHOOD_TRAIN: Split.NEIGHBORHOOD_TRAIN_UNKNOWN,
    Split.NEIGHBORHOOD_HELDOUT: Split.NEIGHBORHOOD_UNKNOWN,
}
"""Part of a fact -> the part that it plays if the model does not know it.

What is preserved is preserved whether it is known or not, as the divergence compares all answers: a
search on known facts alone has too few to generalize. What is reported is told apart."""


@dataclass(frozen=True)
class Scorers:
    """What the original model is asked for."""

    nll: Scorer
    """NLL of objects."""
    rank: Ranker
    """Ranks of objects."""
    predict: Predict
    """Probabilities of objects' first tokens."""


@dataclass(frozen=True)
class KnownFacts:
    """The facts of one target KG, sorted by whether the model knows them."""

    kg: list[tuple[Fact, Split]]
    """The facts with the parts that they play now."""
    counts: dict[str, int]
    """`<part>_known` of `<part>_asked` for target, control and neighborhood [facts]; empty where
    every fact counts as known."""

    def of(self, split: Split) -> list[Fact]:
        """Return the facts that play a part."""
        return [fact for fact, part in self.kg if part is split]

    def summary(self, target: str) -> str:
        """Return how many of the target's facts are known, for one line; empty for all."""
        if not self.counts:
            return ""
        return "; {}: {target_known} of {target_asked} known".format(target, **self.counts)


def known_facts(
    kg: Sequence[tuple[Fact, Split]],
    templates: Templates,
    options: VerbalizeOptions,
    scorers: Scorers,
    asked: PrepareOptions,
) -> KnownFacts:
    """Return the facts of one target, those that the model does not know in parts of their own.

    A fact is known if, on its likeliest training statement, the object's NLL is at most
    `known_max_nll`, its worst token's rank at most `known_max_rank`, and its first token likelier
    than that of each of `known_distractors` other objects of the relation. Only training families
    are asked, so that nothing that is reported decides. The target keeps the facts of lowest NLL.

    Args:
        kg: The facts with their parts.
        templates: The templates by relation.
        options: The rule; with `known_max_nll` 0 every fact is known, and the first
            `target_facts` are kept.
        scorers: The original model.
        asked: `target_facts` are kept at most, and `max_object_share` of them of one object where
            there are others; further known ones are left out.

    Returns:
        The facts. Of unknown ones each part keeps as many as it has known ones, by hash.

    Raises:
        ValueError: If fewer than two target facts are known, or no control fact of a split is.
    """
    if not options.known_max_nll:
        return KnownFacts(list(kg), {})
    stated = verbalize(kg, templates, options, scorers.nll, training_only=True)
    best: dict[Fact, Statement] = {}
    for statement in stated:
        if statement.fact not in best or statement.nll_or_inf < best[statement.fact].nll_or_inf:
            best[statement.fact] = statement
    known = _known(list(best.values()), options, scorers)

    parts: defaultdict[Split, list[Fact]] = defaultdict(list)
    for fact, split in kg:
        parts[split if fact in known else UNKNOWN[split]].append(fact)
    counts = _counts(parts)
    parts[Split.TARGET] = _spread(
        sorted(parts[Split.TARGET], key=lambda fact: (best[fact].nll_or_inf, fact.key)),
        asked.target_facts,
        asked.max_object_share,
    )
    _require_known(parts, options)
    for unknown in _REPORTED:
        limit = sum(len(parts[split]) for split, other in UNKNOWN.items() if other is unknown)
        parts[unknown] = hash_order(parts[unknown], 0, "unknown")[:limit]
    order = [split for split in Split if split in parts]
    chosen = [(fact, split) for split in order for fact in sorted(parts[split], key=_key)]
    return KnownFacts(chosen, counts)


ALL_ROLES = frozenset({Split.TARGET, Split.NEIGHBORHOOD_TRAIN, Split.NEIGHBORHOOD_HELDOUT})
"""Parts whose facts are stated in every role where known facts are asked for."""


def state_facts(
    kg: Sequence[tuple[Fact, Split]],
    templates: Templates,
    options: VerbalizeOptions,
    scorer: Scorer,
    given: Given | None = None,
    model: str = "",
) -> list[Statement]:
    """Return the statements of a target's facts; arguments and errors are those of `verbalize`.

    Where the model is asked what it knows, as a large one is, control and unknown facts are stated
    in training families alone: their other prompts serve as other subjects only, of which the
    target and its neighborhood give enough.
    """
    state = partial(verbalize, templates=templates, options=options, scorer=scorer)
    state = partial(state, given=given, model=model)
    if not options.known_max_nll:
        return state(kg)
    whole = [pair for pair in kg if pair[1] in ALL_ROLES]
    rest = [pair for pair in kg if pair[1] not in ALL_ROLES]
    return [*state(whole), *state(rest, training_only=True)]


def statement_metrics(statements: Sequence[Statement]) -> dict[str, float]:
    """Return the number of statements and the NLL of the least likely object, by name."""
    worst = max(statement.nll_or_inf for statement in statements)
    return {"statements": len(statements), "worst_object_nll": worst}


def _key(fact: Fact) -> str:
    return fact.key


def _known(
    statements: Sequence[Statement], options: VerbalizeOptions, scorers: Scorers
) -> frozenset[Fact]:
    """Return the facts whose statement, one per fact, meets the rule."""
    ranks = scorers.rank(statements)
    likely = [
        statement
        for statement, rank in zip(statements, ranks, strict=True)
        if statement.nll_or_inf <= options.known_max_nll and rank <= options.known_max_rank
    ]
    by_relation: defaultdict[str, list[Statement]] = defaultdict(list)
    for statement in likely:
        by_relation[statement.fact.relation].append(statement)
    known: set[Fact] = set()
    for relation, members in by_relation.items():
        objects = sorted({s.object for s in statements if s.fact.relation == relation})
        rows = scorers.predict(members, objects)
        for statement, row in zip(members, rows, strict=True):
            probability = dict(zip(objects, row, strict=True))
            own = probability.pop(statement.object)
            wrong = sorted(probability, key=lambda text: hash_rank(text, 0, statement.fact.key))
            if all(own > probability[text] for text in wrong[: options.known_distractors]):
                known.add(statement.fact)
    return frozenset(known)


def _spread(facts: Iterable[Fact], limit: int, max_share: float) -> list[Fact]:
    """Return the first facts; those of an object that has its share already come last."""
    share = max(1, int(max_share * limit))
    counts: Counter[str] = Counter()
    within: list[Fact] = []
    beyond: list[Fact] = []
    for fact in facts:
        counts[fact.object_words] += 1
        (within if counts[fact.object_words] <= share else beyond).append(fact)
    return [*within, *beyond][:limit]


_REPORTED = (Split.TARGET_UNKNOWN, Split.CONTROL_UNKNOWN, Split.NEIGHBORHOOD_UNKNOWN)
"""Parts of unknown facts that are only reported, beside as many known ones at most."""


def _counts(parts: dict[Split, list[Fact]]) -> dict[str, int]:
    """Return how many of how many facts of each group are known."""
    counts: dict[str, int] = {}
    for group in ("target", "control", "neighborhood"):
        own = {known: other for known, other in UNKNOWN.items() if known.value.startswith(group)}
        known = sum(len(parts[split]) for split in own)
        unknown = sum(len(parts[split]) for split in set(own.values()))
        counts |= {f"{group}_known": known, f"{group}_asked": known + unknown}
    return counts


def _require_known(parts: dict[Split, list[Fact]], options: VerbalizeOptions) -> None:
    """Raise where too few facts are known to go on."""
    for split, least in (
        (Split.TARGET, 2),
        (Split.CONTROL_TRAIN, 1),
        (Split.CONTROL_VALIDATION, 1),
        (Split.CONTROL_HELDOUT, 1),
    ):
        if len(parts[split]) < least:
            raise ValueError(
                f"verbalize.known_max_nll: value {options.known_max_nll} is not allowed; the model "
                f"knows {len(parts[split])} facts of {split.value!r}, at least {least} are needed"
            )
