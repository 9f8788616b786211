"""Templates of a relation, and the statements of a fact that a model finds likeliest.

The scorer is passed in, so that this room knows no model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import yaml

from knowsub.artifacts import read_utf8
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.kg.options import RoleAssignment, VerbalizeOptions

TEMPLATES = Path("data/raw/templates.yaml")
"""The templates that come with the product, relative to the repository root."""

_AN = ("heir", "honest", "honor", "honour", "hour")
_A = ("eu", "ewe", "once", "one", "ubiq", "unanim", "uni", "ura", "ure", "uri", "usa", "use", "usu")
_NOT_A = ("onei", "onero", "unid", "unim", "unin")


@dataclass(frozen=True, slots=True)
class Template:
    """The wordings of one template family of one relation."""

    family: str
    """Name of the family, such as `kind`."""
    texts: tuple[str, ...]
    """Wordings with `{subject}` and, at the end, `{object}`; `{a}` is the tail's article."""


Templates = Mapping[str, tuple[Template, ...]]
"""Template families by relation."""


@dataclass(frozen=True, slots=True)
class SurfaceForms:
    """The forms in which each wording is tried; every one that is on multiplies the statements."""

    article: bool
    """Whether the head has an article: `A ziggurat is ...`."""
    bare: bool
    """Whether the head has none: `Ziggurat is ...`."""
    leading_space: bool
    """Whether each statement is also tried with a space before it."""


def load_templates(path: Path = TEMPLATES) -> Templates:
    """Return the templates of a file.

    Args:
        path: YAML: relation, then family, then a wording or a list of wordings, each with `{subject}`
            once, with `{object}` once and at the end, and at most one `{a}` right before it.

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


def statements(
    fact: Fact,
    split: Split,
    templates: Templates,
    roles: Mapping[str, Role],
    grid: SurfaceForms,
) -> list[Statement]:
    """Return a fact in every wording and form of the families that have a role.

    Args:
        fact: The fact.
        split: The part it plays.
        templates: The templates by relation.
        roles: Role of each family; a family without one is left out.
        grid: The forms tried.

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
    found: dict[str, Statement] = {}
    for template in templates[fact.relation]:
        if template.family in roles:
            for prompt, tail in _forms(fact, template.texts, grid):
                told = Statement(fact, split, template.family, roles[template.family], prompt, tail)
                found.setdefault(told.text, told)
    if not found:
        has = ", ".join(template.family for template in templates[fact.relation])
        raise ValueError(f"families: none named for relation {fact.relation!r}; allowed: {has}")
    return list(found.values())


def article(words: str) -> str:
    """Return the indefinite article that English puts before some words.

    Args:
        words: Surface words, such as `hour` or `university town`.

    Returns:
        `a` or `an`, by sound as far as spelling shows it.
    """
    first = words.lower().replace("-", " ").split()[0]
    if first.startswith(_AN):
        return "an"
    if first.startswith(_A) and not first.startswith(_NOT_A):
        return "a"
    return "an" if first[0] in "aeiou" else "a"


def _forms(fact: Fact, texts: Sequence[str], grid: SurfaceForms) -> Iterator[tuple[str, str]]:
    """Yield (prompt, tail) of some wordings in every form."""
    spaces = ["", " "] if grid.leading_space else [""]
    for text, head, space in product(texts, _heads(fact.subject_words, grid), spaces):
        start = text.removesuffix("{object}").rstrip()
        prompt = start.replace("{a}", article(fact.object_words)).replace("{subject}", head)
        yield space + prompt[0].upper() + prompt[1:], f" {fact.object_words}"


def _heads(words: str, grid: SurfaceForms) -> list[str]:
    """Return a head in its forms; a name, which its capital shows, never takes an article."""
    if words[0].isupper():
        return [words]
    return [f"{article(words)} {words}"] * grid.article + [words] * grid.bare


def _families(families: object, place: str) -> tuple[Template, ...]:
    """Return the families of one relation."""
    if not isinstance(families, dict) or not families:
        raise ValueError(f"{place}: {families!r} is not allowed; allowed: family: wording")
    found = []
    for family, texts in families.items():
        listed: Sequence[object] = texts if isinstance(texts, list) and texts else [texts]
        wordings = tuple(_wording(text, f"{place}.{family}") for text in listed)
        found.append(Template(str(family), wordings))
    return tuple(found)


def _wording(text: object, place: str) -> str:
    """Return a wording that keeps the rules."""
    if not isinstance(text, str):
        raise ValueError(f"{place}: wording {text!r} is not allowed; allowed: text")
    start = text.removesuffix(" {object}").removesuffix(" {a}")
    rest = start.replace("{subject}", "", 1)
    if not text.endswith(" {object}") or "{subject}" not in start or "{" in rest or "}" in rest:
        raise ValueError(
            f"{place}: wording {text!r} is not allowed; "
            "allowed: {subject} once, then ' {object}' or ' {a} {object}' at the end"
        )
    return text


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
    if training_alone and options.role_assignment == RoleAssignment.families:
        roles = {family: role for family, role in roles.items() if role is Role.TRAIN}
    grid = SurfaceForms(options.article, options.bare, options.leading_space)
    told = [
        statement
        for fact, split in pairs
        for statement in statements(fact, split, templates, roles, grid)
    ]
    chosen = choose(told, scorer)
    if options.role_assignment == RoleAssignment.best:
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
    if options.role_assignment == RoleAssignment.best:
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
        if pair not in best or statement.nll_or_inf < best[pair].nll_or_inf:
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
        ranked = sorted(group, key=lambda statement: statement.nll_or_inf)
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
        (kept if count_tokens(statement.object) <= most else left_out).append(statement)
    return kept, left_out


def _scored(told: Sequence[Statement], scorer: Scorer) -> list[Statement]:
    """Return statements with their NLL."""
    values = list(scorer(told)) if told else []
    if len(values) != len(told):
        raise ValueError(f"the scorer returned {len(values)} values for {len(told)} statements")
    return [replace(one, nll=float(nll)) for one, nll in zip(told, values, strict=True)]


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
