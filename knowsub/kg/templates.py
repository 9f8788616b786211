"""Templates of the relations: read, checked, and filled in with a fact."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from knowsub.artifacts import read_utf8
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.kg.options import RoleAssignment, VerbalizeOptions
from knowsub.kg.rows import listed
from knowsub.kg.words import article, capitalized, with_article

TEMPLATES = Path("data/raw/templates.yaml")
"""The templates that come with the product, relative to the repository root."""


@dataclass(frozen=True, slots=True)
class Template:
    """The wordings of one template family of one relation."""

    family: str
    """Name of the family, such as `kind`."""
    texts: tuple[str, ...]
    """Wordings with `{subject}`, or `{bare}` for one that never takes an article, and, at the end,
    `{object}`; `{a}` is the object's article."""


Templates = Mapping[str, tuple[Template, ...]]
"""Template families by relation."""


def load_templates(path: Path = TEMPLATES) -> Templates:
    """Return the templates of a file.

    Args:
        path: YAML: relation, then family, then a wording or a list of wordings, each with
            `{subject}` (or `{bare}`) once, `{object}` once and at the end, and at most one `{a}`
            before it.

    Returns:
        The families by relation, in the order of the file.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If the file is no such mapping or a wording breaks these rules; file, relation
            and family are named, those of all wordings together.
    """
    try:
        rows = yaml.safe_load(read_utf8(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"{path}: no relation found; allowed: relation: {{family: wording}}")
    mistakes: list[str] = []
    templates = {
        str(relation): _families(families, f"{path}: {relation}", mistakes)
        for relation, families in rows.items()
    }
    if mistakes:
        raise ValueError(listed(mistakes))
    return templates


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
            mistakes.append(unknown_family(key, unknown[0], known))
        mistakes += [
            f"verbalize.{key}: relation {name!r} has none of {', '.join(named)}; "
            f"it has {', '.join(sorted(own))}"
            for name, own in families.items()
            if not own & set(named)
        ]
    return mistakes


def unknown_family(key: str, name: str, known: set[str]) -> str:
    """Return what to say of a family that no relation at hand has."""
    shown = ", ".join(sorted(known))
    return f"verbalize.{key}: value {name!r} is not allowed; allowed for these facts: {shown}"


def role_families(options: VerbalizeOptions) -> dict[str, list[str]]:
    """Return the families of each role, by the name of the option that lists them."""
    return {
        "train_families": options.train_families,
        "validation_families": options.validation_families,
        "test_families": options.test_families,
    }


def _families(families: object, place: str, mistakes: list[str]) -> tuple[Template, ...]:
    """Return the families of one relation; add what is wrong with them to the mistakes."""
    if not isinstance(families, dict) or not families:
        mistakes.append(f"{place}: {families!r} is not allowed; allowed: family: wording")
        return ()
    templates = []
    for family, wordings in families.items():
        texts = wordings if isinstance(wordings, list) and wordings else [wordings]
        found = [_wording_mistake(text, f"{place}.{family}") for text in texts]
        mistakes += filter(None, found)
        templates.append(Template(str(family), tuple(_single_blanks(str(t)) for t in texts)))
    return tuple(templates)


def _single_blanks(text: str) -> str:
    return re.sub(" {2,}", " ", text.strip())


def _wording_mistake(text: object, place: str) -> str:
    """Return what is wrong with a wording, or nothing."""
    if not isinstance(text, str):
        return f"{place}: wording {text!r} is not allowed; allowed: text"
    text = _single_blanks(text)
    start = text.removesuffix(" {object}").removesuffix(" {a}")
    rest = re.sub(r"\{(subject|bare)\}", "", start, count=1)
    if text.endswith(" {object}") and rest != start and "{" not in rest and "}" not in rest:
        return ""
    return (
        f"{place}: wording {text!r} is not allowed; "
        "allowed: {subject} or {bare} once, then ' {object}' or ' {a} {object}' at the end"
    )


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
    """Yield some wordings in every form; a name, which its capital shows, takes no article.

    Nor does a name that has one, such as `the Netherlands`.
    """
    words = fact.subject_words
    if words.removeprefix("the ")[0].isupper():
        subjects = [words]
    else:
        bare = options.bare or all("{bare}" in text for text in texts)
        subjects = [with_article(words)] * options.article + [words] * bare
    for text, subject, space in product(texts, subjects, ["", " "][: 1 + options.leading_space]):
        start = text.removesuffix("{object}").rstrip()
        if "{bare}" in start and subject != words:
            continue
        # An object with a determiner takes no article, which leaves a blank at the end.
        prompt = start.replace("{a}", article(fact.object_words)).rstrip()
        prompt = prompt.replace("{bare}", "{subject}").replace("{subject}", subject)
        yield space + capitalized(prompt)
