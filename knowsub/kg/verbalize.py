"""Statements chosen by how well the original model predicts their tails.

The scorer is passed in, so that this room knows no model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from knowsub.kg.options import Choice, VerbalizeOptions
from knowsub.kg.templates import Grid, Templates, statements
from knowsub.kg.triple import Fact, Role, Split, Statement

Scorer = Callable[[Sequence[Statement]], Sequence[float]]
"""Tail NLL of each statement under the original model [nats per tail token]."""


def verbalize(
    facts: Iterable[tuple[Fact, Split]],
    templates: Templates,
    options: VerbalizeOptions,
    scorer: Scorer,
    *,
    training_alone: bool = False,
) -> list[Statement]:
    """Return the statements of a target KG: for every fact and family the best variant.

    Args:
        facts: The facts with their splits.
        templates: The templates by relation.
        options: Families, roles and forms.
        scorer: Tail NLL under the original model [nats per tail token].
        training_alone: Whether only statements to train on are wanted.

    Returns:
        Scored statements, in the order of the facts and then of the templates.

    Raises:
        ValueError: If a relation has no templates, a named family is in no relation, or the
            families at hand leave a role empty.
    """
    pairs = list(facts)
    names = {template.family for fact, _ in pairs for template in templates.get(fact.relation, ())}
    roles = family_roles(options, names) if pairs else {}
    if training_alone and options.choice == Choice.families:
        roles = {family: role for family, role in roles.items() if role is Role.TRAIN}
    grid = Grid(options.article, options.bare, options.leading_space)
    told = [
        statement
        for fact, split in pairs
        for statement in statements(fact, split, templates, roles, grid)
    ]
    chosen = choose(told, scorer)
    if options.choice == Choice.best:
        chosen = best_trains(chosen)
    elif not training_alone:
        _check_roles(chosen)
    return [one for one in chosen if not training_alone or one.role is Role.TRAIN]


def family_roles(options: VerbalizeOptions, known: Iterable[str]) -> dict[str, Role]:
    """Return the role of each template family.

    Args:
        options: The families by role.
        known: Families that the facts' relations have.

    Returns:
        Role by family; where each fact's best statement trains, all known families take part.

    Raises:
        ValueError: If a named family is not known.
    """
    if options.choice == Choice.best:
        return dict.fromkeys(sorted(known), Role.TEST)
    roles = {
        **dict.fromkeys(options.train_families, Role.TRAIN),
        **dict.fromkeys(options.validation_families, Role.VALIDATION),
        **dict.fromkeys(options.test_families, Role.TEST),
    }
    if unknown := sorted(set(roles) - set(known)):
        raise ValueError(
            f"verbalize.families: value {unknown[0]!r} is not allowed; "
            f"allowed for these facts: {', '.join(sorted(known))}"
        )
    return roles


def choose(told: Sequence[Statement], scorer: Scorer) -> list[Statement]:
    """Return, for every fact and family, the variant whose tail the model predicts best.

    Args:
        told: Statements, several per fact and family.
        scorer: Tail NLL under the original model [nats per tail token].

    Returns:
        One statement per fact and family with its `nll`, in the order in which each pair first
        came; of equal ones the first.

    Raises:
        ValueError: If the scorer returns another number of values.

    Source:
        METHOD: per (fact, model) the statement of lowest tail perplexity from a template grid.
    """
    best: dict[tuple[Fact, str], Statement] = {}
    for statement in _scored(told, scorer):
        pair = (statement.fact, statement.family)
        if pair not in best or _nll(statement) < _nll(best[pair]):
            best[pair] = statement
    return list(best.values())


def best_trains(told: Sequence[Statement]) -> list[Statement]:
    """Return statements with the paper's roles: each fact's best one trains, the others do not.

    Args:
        told: Scored statements, one per fact and family.

    Returns:
        The same statements in the same order; per fact the one of lowest NLL trains, the second
        serves to choose checkpoints, all others are unseen paraphrases.

    Raises:
        ValueError: If a fact has fewer than three families, so that a role stays empty.

    Source:
        The paper's rule; it has no validation prompts, so taking the second is ours.
    """
    groups: dict[Fact, list[Statement]] = defaultdict(list)
    for statement in told:
        groups[statement.fact].append(statement)
    roles: dict[tuple[Fact, str], Role] = {}
    for fact, group in groups.items():
        if len(group) < len(Role):
            raise ValueError(
                f"{fact.key!r} has statements of {len(group)} families; choice 'best' needs 3"
            )
        ranked = sorted(group, key=_nll)
        order = [Role.TRAIN, Role.VALIDATION] + [Role.TEST] * (len(ranked) - 2)
        for statement, role in zip(ranked, order, strict=True):
            roles[fact, statement.family] = role
    return [replace(one, role=roles[one.fact, one.family]) for one in told]


def split_by_tokens(
    told: Iterable[Statement], count_tokens: Callable[[str], int], most: int
) -> tuple[list[Statement], list[Statement]]:
    """Return the statements whose tails are short enough for a tokenizer, and the others.

    Args:
        told: The statements.
        count_tokens: Number of tokens of a tail with its leading space [tokens].
        most: Tokens of a tail at most; 1 is the reference's limit [tokens].

    Returns:
        The statements kept and those left out, both in their order.
    """
    kept: list[Statement] = []
    left_out: list[Statement] = []
    for statement in told:
        (kept if count_tokens(statement.tail) <= most else left_out).append(statement)
    return kept, left_out


def _scored(told: Sequence[Statement], scorer: Scorer) -> list[Statement]:
    """Return statements with their NLL."""
    values = list(scorer(told)) if told else []
    if len(values) != len(told):
        raise ValueError(f"the scorer returned {len(values)} values for {len(told)} statements")
    return [replace(one, nll=float(nll)) for one, nll in zip(told, values, strict=True)]


def _nll(statement: Statement) -> float:
    """Return the NLL of a scored statement; an unscored one is worse than any."""
    return float("inf") if statement.nll is None else statement.nll


def _check_roles(told: Sequence[Statement]) -> None:
    """Raise where a fact has no statement to train on or none that stays unseen."""
    roles: Mapping[Fact, set[Role]] = defaultdict(set)
    for statement in told:
        roles[statement.fact].add(statement.role)
    for fact, found in roles.items():
        if missing := [role.value for role in Role if role not in found]:
            raise ValueError(
                f"verbalize.{missing[0]}_families: none of them is a family of relation "
                f"{fact.relation!r} of {fact.key!r}"
            )
