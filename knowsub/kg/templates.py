"""Templates of a relation, and the statements of a fact that a model finds likeliest.

The scorer is passed in, so that this room knows no model.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import yaml

from knowsub.artifacts import read_utf8
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.kg.options import RoleAssignment, VerbalizeOptions
from knowsub.kg.words import article, capitalized, with_article

TEMPLATES = Path("data/raw/templates.yaml")
"""The templates that come with the product, relative to the repository root."""


@dataclass(frozen=True, slots=True)
class Template:
    """The wordings of one template family of one relation."""

    family: str
    """Name of the family, such as `kind`."""
    texts: tuple[str, ...]
    """Wordings with `{subject}` and, at the end, `{object}`; `{a}` is the object's article."""


Templates = Mapping[str, tuple[Template, ...]]
"""Template families by relation."""

Scorer = Callable[[Sequence[Statement]], Sequence[float]]
"""NLL of each statement's object under the original model [nats per token]."""


def load_templates(path: Path = TEMPLATES) -> Templates:
    """Return the templates of a file.

    Args:
        path: YAML: relation, then family, then a wording or a list of wordings, each with
            `{subject}` once, `{object}` once and at the end, and at most one `{a}` before it.

    Returns:
        The families by relation, in the order of the file.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If the file is no such mapping or a wording breaks these rules; file, relation
            and family are named.
    """
    try:
        rows = yaml.safe_load(read_utf8(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"{path}: no relation found; allowed: relation: {{family: wording}}")
    return {
        str(relation): _families(families, f"{path}: {relation}")
        for relation, families in rows.items()
    }


def write_templates(path: Path, templates: Templates) -> None:
    """Write templates as `load_templates` reads them, in their order."""
    rows = {
        relation: {family.family: list(family.texts) for family in families}
        for relation, families in templates.items()
    }
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def needed_templates(
    facts: Iterable[Fact], templates: Templates, options: VerbalizeOptions
) -> Templates:
    """Return the templates of the relations that facts have; refuse what has no wording.

    Args:
        facts: All facts, those of targets and of controls.
        templates: The templates by relation.
        options: The families and their roles.

    Returns:
        The templates of these relations, in their order.

    Raises:
        ValueError: If a relation has no templates, a named family is in none of the relations, or a
            relation has no family for a role: all of them at once, with what to write.
    """
    first = {fact.relation: fact for fact in reversed(list(facts))}
    mistakes = [
        f"{options.templates}: relation {relation!r} of {first[relation].key!r} has no wording; "
        f'add `{relation}: {{kind: "{{subject}} ... {{object}}"}}` with a family for each role'
        for relation in sorted(first.keys() - templates.keys())
    ]
    needed = {name: group for name, group in templates.items() if name in first}
    families = {name: {each.family for each in group} for name, group in needed.items()}
    mistakes += _role_mistakes(families, options)
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return needed


def _role_mistakes(families: Mapping[str, set[str]], options: VerbalizeOptions) -> list[str]:
    """Return what keeps relations from having a statement in every role."""
    if options.role_assignment == RoleAssignment.best:
        return [
            f"{options.templates}: relation {name!r} has {len(own)} families; "
            f"verbalize.role_assignment 'best' needs {len(Role)}"
            for name, own in families.items()
            if len(own) < len(Role)
        ]
    known, mistakes = set[str]().union(*families.values()), []
    for key, named in role_families(options).items():
        if unknown := [name for name in named if name not in known]:
            mistakes.append(_unknown_family(key, unknown[0], known))
        mistakes += [
            f"verbalize.{key}: relation {name!r} has none of {', '.join(named)}; "
            f"it has {', '.join(sorted(own))}"
            for name, own in families.items()
            if not own & set(named)
        ]
    return mistakes


def _unknown_family(key: str, name: str, known: set[str]) -> str:
    shown = ", ".join(sorted(known))
    return f"verbalize.{key}: value {name!r} is not allowed; allowed for these facts: {shown}"


def role_families(options: VerbalizeOptions) -> dict[str, list[str]]:
    """Return the families of each role, by the name of the option that lists them."""
    return {
        "train_families": options.train_families,
        "validation_families": options.validation_families,
        "test_families": options.test_families,
    }


def _families(families: object, place: str) -> tuple[Template, ...]:
    """Return the families of one relation."""
    if not isinstance(families, dict) or not families:
        raise ValueError(f"{place}: {families!r} is not allowed; allowed: family: wording")
    templates = []
    for family, wordings in families.items():
        texts: Sequence[object] = (
            wordings if isinstance(wordings, list) and wordings else [wordings]
        )
        checked = tuple(_check_wording(text, f"{place}.{family}") for text in texts)
        templates.append(Template(str(family), checked))
    return tuple(templates)


def _check_wording(text: object, place: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{place}: wording {text!r} is not allowed; allowed: text")
    text = re.sub(" {2,}", " ", text.strip())
    start = text.removesuffix(" {object}").removesuffix(" {a}")
    rest = start.replace("{subject}", "", 1)
    if not text.endswith(" {object}") or "{subject}" not in start or "{" in rest or "}" in rest:
        raise ValueError(
            f"{place}: wording {text!r} is not allowed; "
            "allowed: {subject} once, then ' {object}' or ' {a} {object}' at the end"
        )
    return text


def statements(
    fact: Fact,
    split: Split,
    templates: Templates,
    roles: Mapping[str, Role],
    options: VerbalizeOptions,
) -> list[Statement]:
    """Return a fact in every wording and form of the families that have a role.

    Args:
        fact: The fact.
        split: The part it plays.
        templates: The templates by relation.
        roles: Role of each family; a family without one is left out.
        options: The forms tried: with and without article, with a space before the statement.

    Returns:
        The statements, by family in the order of the templates, no text twice.

    Raises:
        ValueError: If the fact's relation has no templates, or none of them has a role.
    """
    if fact.relation not in templates:
        raise ValueError(
            f"templates: no wording for relation {fact.relation!r} of {fact.key!r}; "
            f"there are {', '.join(sorted(templates))}"
        )
    answer = f" {fact.object_words}"
    by_text: dict[str, Statement] = {}
    for template in templates[fact.relation]:
        if role := roles.get(template.family):
            for prompt in _prompts(fact, template.texts, options):
                statement = Statement(fact, split, template.family, role, prompt, answer)
                by_text.setdefault(statement.text, statement)
    if not by_text:
        allowed = ", ".join(template.family for template in templates[fact.relation])
        raise ValueError(f"families: none named for relation {fact.relation!r}; allowed: {allowed}")
    return list(by_text.values())


def _prompts(fact: Fact, texts: Sequence[str], options: VerbalizeOptions) -> Iterator[str]:
    """Yield some wordings in every form; a name, which its capital shows, takes no article."""
    words = fact.subject_words
    if words[0].isupper():
        subjects = [words]
    else:
        subjects = [with_article(words)] * options.article + [words] * options.bare
    for text, subject, space in product(texts, subjects, ["", " "][: 1 + options.leading_space]):
        start = text.removesuffix("{object}").rstrip()
        # An object with a determiner takes no article, which leaves a blank at the end.
        prompt = start.replace("{a}", article(fact.object_words)).rstrip()
        yield space + capitalized(prompt.replace("{subject}", subject))


def verbalize(
    facts: Sequence[tuple[Fact, Split]],
    templates: Templates,
    options: VerbalizeOptions,
    scorer: Scorer,
    *,
    training_only: bool = False,
) -> list[Statement]:
    """Return the statements of a target: for every fact and family the likeliest wording.

    Args:
        facts: The facts with their splits.
        templates: The templates by relation.
        options: Families, roles and forms.
        scorer: NLL of each object under the original model [nats per token].
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
    wordings = [
        statement
        for fact, split in facts
        for statement in statements(fact, split, templates, roles, options)
    ]
    chosen = likeliest_wordings(wordings, scorer)
    if not by_families:
        chosen = roles_by_likelihood(chosen)
    elif not training_only:
        _check_roles(chosen)
    return [statement for statement in chosen if not training_only or statement.role is Role.TRAIN]


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
            raise ValueError(_unknown_family(key, unknown[0], allowed))
        roles |= dict.fromkeys(names, role)
    return roles


def likeliest_wordings(wordings: Sequence[Statement], scorer: Scorer) -> list[Statement]:
    """Return, for every fact and family, the wording whose object the model predicts best.

    The statements have their `nll` and the order in which each fact and family first came; of
    equally likely wordings the first is taken.

    Source:
        METHOD: per (fact, model) the statement of lowest object perplexity from a template grid.
    """
    nlls = scorer(wordings) if wordings else []
    if len(nlls) != len(wordings):
        raise ValueError(f"the scorer returned {len(nlls)} values for {len(wordings)} statements")
    best: dict[tuple[Fact, str], Statement] = {}
    for wording, nll in zip(wordings, nlls, strict=True):
        scored = replace(wording, nll=float(nll))
        pair = (scored.fact, scored.family)
        if pair not in best or scored.nll_or_inf < best[pair].nll_or_inf:
            best[pair] = scored
    return list(best.values())


def roles_by_likelihood(scored: Sequence[Statement]) -> list[Statement]:
    """Return the statements with the paper's roles: each fact's best one trains.

    The second best serves to choose checkpoints, all others are unseen paraphrases. There is one
    statement per fact and family; ValueError if a fact has fewer than three.

    Source:
        The paper's rule; it has no validation prompts, so taking the second is ours.
    """
    groups: defaultdict[Fact, list[Statement]] = defaultdict(list)
    for statement in scored:
        groups[statement.fact].append(statement)
    roles: dict[tuple[Fact, str], Role] = {}
    for fact, group in groups.items():
        if len(group) < len(Role):
            raise ValueError(
                f"{fact.key!r} has statements of {len(group)} families; "
                "verbalize.role_assignment 'best' needs 3"
            )
        ranked = sorted(group, key=lambda statement: statement.nll_or_inf)
        order = [Role.TRAIN, Role.VALIDATION] + [Role.TEST] * (len(ranked) - 2)
        for statement, role in zip(ranked, order, strict=True):
            roles[fact, statement.family] = role
    return [
        replace(statement, role=roles[statement.fact, statement.family]) for statement in scored
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
