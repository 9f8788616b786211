"""Presets: files of a few keys of `params.yaml`, laid over one another and over the file's text."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from knowsub.yaml_file import read_yaml

FOLDER = Path("presets")
"""Folder of the presets, relative to the root of the repository."""
BASES = "extends"
"""Key of a preset that lists the presets it is laid over."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value of a YAML file, as it is written there."""

    text: str
    """The value as written."""
    start: int
    """Where it begins [characters]."""
    end: int
    """Where it ends [characters]."""


def preset_names() -> list[str]:
    """Return the names of all presets.

    Returns:
        The names, in order.

    Raises:
        FileNotFoundError: If there is no folder of presets here.
    """
    if not FOLDER.is_dir():
        raise FileNotFoundError(f"{FOLDER}: no such folder; run from the root of the repository")
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def description(name: str) -> str:
    """Return the line at the top of a preset's file."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return text.partition("\n")[0].lstrip("# ")


def merged(names: Sequence[str]) -> dict[str, str]:
    """Return the values of presets, later ones over earlier ones, each over those it extends.

    Args:
        names: The presets, one or more.

    Returns:
        Dotted key -> value as written in YAML.

    Raises:
        FileNotFoundError: If a preset is missing.
        ValueError: If none is named, or a preset is no YAML, says nothing, or extends itself.
    """
    if not names:
        raise ValueError(f"preset needs a name of: {', '.join(preset_names())}")
    found: dict[str, str] = {}
    for name in names:
        found |= _values(name, ())
    return found


def leaves(text: str, name: str) -> dict[str, Leaf]:
    """Return the values of a YAML mapping, and where they stand.

    Args:
        text: The YAML text.
        name: Name of the file, for the message.

    Returns:
        Dotted key -> value.

    Raises:
        ValueError: If a value does not stand on the line of its key.
    """
    found: dict[str, Leaf] = {}

    def walk(node: yaml.MappingNode, prefix: str) -> None:
        for key, value in node.value:
            dotted, mark, end = f"{prefix}{key.value}", value.start_mark, value.end_mark
            if isinstance(value, yaml.MappingNode) and value.value:
                walk(value, f"{dotted}.")
            elif not key.end_mark.line == mark.line == end.line:
                raise ValueError(f"{name} line {mark.line + 1}: {dotted} needs a single line")
            else:
                found[dotted] = Leaf(text[mark.index : end.index], mark.index, end.index)

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        walk(root, "")
    return found


def spliced(text: str, edits: Sequence[tuple[Leaf, str]]) -> str:
    """Return a text with values replaced where they stand.

    Args:
        text: The text.
        edits: Values of it and what is to be written instead.

    Returns:
        The new text; comments stay in their column where there is room.
    """
    for leaf, value in sorted(edits, key=lambda edit: edit[0].start, reverse=True):
        line, newline, rest = text[leaf.end :].partition("\n")
        comment = line.lstrip()
        gap = len(line) - len(comment)
        room = max(2, gap + len(leaf.text) - len(value)) if gap > 2 else 2
        tail = f"{' ' * room}{comment}" if comment else ""
        text = f"{text[: leaf.start]}{value}{tail}{newline}{rest}"
    return text


def _values(name: str, above: tuple[str, ...]) -> dict[str, str]:
    """Return a preset's values over those of the presets that it extends."""
    if name in above:
        raise ValueError(f"preset {above[0]!r} extends itself: {' -> '.join([*above, name])}")
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
        raise FileNotFoundError(f"{FOLDER} has no preset {name!r}; {hint}")
    path = FOLDER / f"{name}.yaml"
    tree, _ = read_yaml(path)
    own = {key: leaf.text for key, leaf in leaves(path.read_text("utf-8"), path.name).items()}
    own.pop(BASES, None)
    found: dict[str, str] = {}
    for base in tree.get(BASES, []):
        found |= _values(base, (*above, name))
    return found | own
