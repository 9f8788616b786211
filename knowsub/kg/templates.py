"""Templates: the wordings in which a relation is stated, and the statements they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from knowsub.kg.json_lines import read_utf8
from knowsub.kg.triple import Fact, Role, Split, Statement

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
    """Wordings with `{head}` and, at the end, `{tail}`; `{a}` is the tail's article."""


Templates = Mapping[str, tuple[Template, ...]]
"""Template families by relation."""


@dataclass(frozen=True, slots=True)
class Grid:
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
        path: YAML: relation, then family, then a wording or a list of wordings, each with `{head}`
            once, with `{tail}` once and at the end, and at most one `{a}` right before it.

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
    grid: Grid,
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


def _forms(fact: Fact, texts: Sequence[str], grid: Grid) -> Iterator[tuple[str, str]]:
    """Yield (prompt, tail) of some wordings in every form."""
    spaces = ["", " "] if grid.leading_space else [""]
    for text, head, space in product(texts, _heads(fact.head_words, grid), spaces):
        start = text.removesuffix("{tail}").rstrip()
        prompt = start.replace("{a}", article(fact.tail_words)).replace("{head}", head)
        yield space + prompt[0].upper() + prompt[1:], f" {fact.tail_words}"


def _heads(words: str, grid: Grid) -> list[str]:
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
    start = text.removesuffix(" {tail}").removesuffix(" {a}")
    rest = start.replace("{head}", "", 1)
    if not text.endswith(" {tail}") or "{head}" not in start or "{" in rest or "}" in rest:
        raise ValueError(
            f"{place}: wording {text!r} is not allowed; "
            "allowed: {head} once, then ' {tail}' or ' {a} {tail}' at the end"
        )
    return text
