"""Which statements of a fact are used, and for what: those that a model finds likeliest.

The scorer is passed in, so that this room knows no model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.kg.given import Given, chosen_for, family_of, paraphrases_of
from knowsub.kg.options import Paraphrases, RoleAssignment, VerbalizeOptions
from knowsub.kg.templates import Templates, role_families, statements, unknown_family

Scorer = Callable[[Sequence[Statement]], Sequence[float]]
"""NLL of each statement's object under the original model [nats per token]."""


def verbalize(
    facts: Sequence[tuple[Fact, Split]],
    templates: Templates,
    options: VerbalizeOptions,
    scorer: Scorer,
    *,
    given: Given | None = None,
    model: str = "",
    training_only: bool = False,
) -> list[Statement]:
    """Return the statements of a target: for every fact and family the likeliest wording.

    Args:
        facts: The facts with their splits.
        templates: The templates by relation.
        options: Families, roles and forms.
        scorer: NLL of each object under the original model [nats per token].
        given: What the source itself says of its facts; it goes before the templates where each
            fact's best statement trains.
        model: Name of the original model, whose statements are taken of those.
        training_only: Whether only statements to train on are wanted.

    Returns:
        Scored statements, in the order of the facts and then of the templates.

    Raises:
        ValueError: If a relation has no templates, a named family is in no relation, or the
            families at hand leave a role empty.
    """
    by_families = options.role_assignment == RoleAssignment.families
    roles = family_roles(options, {each.family for group in templates.values() for each in group})
    if training_only and by_families:
        roles = {family: role for family, role in roles.items() if role is Role.TRAIN}
    given = None if by_families else given
    wordings: list[Statement] = []
    for fact, split in facts:
        own = given_wordings(fact, split, given, model) if given else []
        if len(own) < len(Role):  # the templates say what the source does not
            stated = statements(fact, split, templates, roles, options)
            own += _not_yet_said(own, stated) if own else stated
        wordings += own
    every = options.paraphrases is Paraphrases.all and not by_families
    chosen = score_wordings(wordings, scorer) if every else likeliest_wordings(wordings, scorer)
    if not by_families:
        chosen = roles_by_likelihood(chosen)
    elif not training_only:
        _check_roles(chosen)
    return [statement for statement in chosen if not training_only or statement.role is Role.TRAIN]


def given_wordings(fact: Fact, split: Split, given: Given, model: str) -> list[Statement]:
    """Return what a source says of a fact: what was chosen for a model, and the paraphrases of it.

    The former have the role train. Where there are several, as none was chosen for the model at
    hand, paraphrases are of none of their families.
    """
    said = given.get(fact, ())
    chosen = [replace(each, split=split) for each in chosen_for(said, model)]
    families = {each.family for each in chosen}
    others = [
        replace(each, split=split, role=Role.TEST)
        for each in (paraphrases_of(said, chosen[0]) if chosen else [])
        if each.family not in families
    ]
    return [*chosen, *others]


def _not_yet_said(own: Sequence[Statement], stated: Sequence[Statement]) -> list[Statement]:
    """Return statements in other words than a source's own, as paraphrases named by their words."""
    families = {each.family for each in own}
    named = [
        replace(each, family=family_of(each.fact, each.prompt), role=Role.TEST) for each in stated
    ]
    return [each for each in named if each.family not in families]


def short_objects(
    facts: Sequence[tuple[Fact, Split]],
    count_tokens: Callable[[Sequence[Statement]], Sequence[int]],
    limit: int,
) -> list[tuple[Fact, Split]]:
    """Return the facts whose objects have few tokens.

    Args:
        facts: The facts with their splits.
        count_tokens: Tokens of each statement's object in the model's vocabulary.
        limit: Tokens of an object at most; 0 = any number.

    Returns:
        The facts that stay, in their order.

    Raises:
        ValueError: If fewer than two target facts stay.
    """
    if not limit or not facts:
        return list(facts)
    asked = [
        Statement(fact, split, "", Role.TRAIN, fact.subject_words, f" {fact.object_words}")
        for fact, split in facts
    ]
    counts = count_tokens(asked)
    kept = [pair for pair, count in zip(facts, counts, strict=True) if count <= limit]
    n_target = sum(split is Split.TARGET for _, split in kept)
    if n_target < 2:
        raise ValueError(
            f"verbalize.max_object_tokens: value {limit} leaves {n_target} target facts; a target "
            "KG needs at least 2"
        )
    return kept


def family_roles(options: VerbalizeOptions, known: Iterable[str]) -> dict[str, Role]:
    """Return the role of each template family; ValueError if a named one is not known.

    Where each fact's best statement trains, all known families take part, and `roles_by_likelihood`
    gives the roles later.
    """
    if options.role_assignment == RoleAssignment.best:
        return dict.fromkeys(sorted(known), Role.TEST)
    allowed = set(known)
    roles: dict[str, Role] = {}
    for (key, names), role in zip(role_families(options).items(), Role, strict=True):
        if unknown := [name for name in names if name not in allowed]:
            raise ValueError(unknown_family(key, unknown[0], allowed))
        roles |= dict.fromkeys(names, role)
    return roles


def likeliest_wordings(wordings: Sequence[Statement], scorer: Scorer) -> list[Statement]:
    """Return, for every fact and family, the wording whose object the model predicts best.

    The statements have their `nll` and the order in which each fact and family first came; of
    equally likely wordings the first is taken.

    Source:
        METHOD: per (fact, model) the statement of lowest object perplexity from a template grid.
    """
    best: dict[tuple[Fact, str], Statement] = {}
    for scored in score_wordings(wordings, scorer):
        pair = (scored.fact, scored.family)
        if pair not in best or scored.nll_or_inf < best[pair].nll_or_inf:
            best[pair] = scored
    return list(best.values())


def score_wordings(wordings: Sequence[Statement], scorer: Scorer) -> list[Statement]:
    """Return statements with their `nll`; ValueError if the scorer returns another number."""
    nlls = scorer(wordings) if wordings else []
    if len(nlls) != len(wordings):
        raise ValueError(f"the scorer returned {len(nlls)} values for {len(wordings)} statements")
    return [replace(each, nll=float(nll)) for each, nll in zip(wordings, nlls, strict=True)]


def roles_by_likelihood(scored: Sequence[Statement]) -> list[Statement]:
    """Return the statements with the paper's roles: each fact's best one trains.

    Where some have the role train already, the best is one of them. The best one of another family
    serves to choose checkpoints, all others are unseen paraphrases; other wordings of the best
    one's family are left out. ValueError if a fact has statements of fewer than two other wordings.

    Source:
        The paper's rule; it has no validation prompts, so taking the second is ours.
    """
    groups: defaultdict[Fact, list[Statement]] = defaultdict(list)
    for statement in scored:
        groups[statement.fact].append(statement)
    roles: dict[tuple[Fact, str], Role] = {}
    for fact, group in groups.items():
        candidates = [statement for statement in group if statement.role is Role.TRAIN] or group
        best = min(candidates, key=lambda statement: statement.nll_or_inf)
        lost = [statement for statement in group if statement.family != best.family]
        if len(lost) < len(Role) - 1:
            n_families = len({statement.family for statement in group})
            raise ValueError(
                f"{fact.key!r} has statements of {n_families} families; "
                "verbalize.role_assignment 'best' needs 3"
            )
        roles[fact, best.text] = Role.TRAIN
        roles |= {(fact, statement.text): Role.TEST for statement in lost}
        second = min(lost, key=lambda statement: statement.nll_or_inf)
        roles[fact, second.text] = Role.VALIDATION
    return [
        replace(each, role=roles[each.fact, each.text])
        for each in scored
        if (each.fact, each.text) in roles
    ]


def _check_roles(chosen: Sequence[Statement]) -> None:
    """Raise where a fact has no statement to train on or none that stays unseen."""
    roles: defaultdict[Fact, set[Role]] = defaultdict(set)
    for statement in chosen:
        roles[statement.fact].add(statement.role)
    for fact, given in roles.items():
        if missing := [role.value for role in Role if role not in given]:
            raise ValueError(
                f"verbalize.{missing[0]}_families: none of them is a family of relation "
                f"{fact.relation!r} of {fact.key!r}"
            )
