"""The command `preset`: overlays of `params.yaml` from the folder `presets`."""

from __future__ import annotations

import difflib
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from knowsub.cli.app import Result
from knowsub.config import load_params
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


PARAMS = Path("params.yaml")
"""The file that presets are laid over."""
_PLAIN = re.compile(r"[A-Za-z_][\w./:-]*")
_WORDS = frozenset({"true", "false", "null", "inf", "nan"})


def list_presets() -> Result:
    """Return all presets and what they are.

    Returns:
        `presets`: name -> the line at the top of its file.

    Raises:
        FileNotFoundError: If there is no folder of presets here.
    """
    return {"presets": {name: description(name) for name in preset_names()}}


def list_lines(result: Result) -> list[str]:
    """Return the text of `list_presets`' result."""
    width = max(map(len, result["presets"]))
    return [f"{name.ljust(width)}  {text}" for name, text in result["presets"].items()]


def apply_presets(names: Sequence[str], write: bool, force: bool) -> Result:
    """Lay presets over `params.yaml`, later ones over earlier ones, and write it if asked.

    Values are changed where they stand; comments, order and all other values stay.

    Args:
        names: The presets, one or more.
        write: Whether to write the file.
        force: Whether to write it over edits that are not committed.

    Returns:
        `presets`, `changes` (dotted key -> text before and after), `diff` (unified) and `written`.

    Raises:
        FileNotFoundError: If a preset or `params.yaml` is missing.
        ValueError: If a preset is wrong, the values do not fit together, or edits would be lost.
    """
    wanted = merged(names)
    old = PARAMS.read_text(encoding="utf-8")
    known = leaves(old, PARAMS.name)
    if unknown := [key for key in wanted if key not in known]:
        raise ValueError(f"preset {' '.join(names)}: {unknown[0]} is no value of {PARAMS}")
    changes = {key: text for key, text in wanted.items() if text != known[key].text}
    new = spliced(old, [(known[key], text) for key, text in changes.items()])
    _check(new)
    diff = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"a/{PARAMS}", f"b/{PARAMS}", lineterm=""
    )
    if write and changes:
        if not force:
            _refuse_uncommitted()
        PARAMS.write_text(new, encoding="utf-8")
    return {
        "presets": list(names),
        "changes": {key: [known[key].text, text] for key, text in changes.items()},
        "diff": list(diff),
        "written": write and bool(changes),
    }


def applied_lines(result: Result) -> list[str]:
    """Return the text of `apply_presets`' result: the difference, and whether it was written."""
    if not result["changes"]:
        return [f"{PARAMS} has these values already"]
    done = f"{PARAMS}: {len(result['changes'])} values "
    told = "written" if result["written"] else "would change; --write writes them"
    return [*result["diff"], "", done + told]


def override_presets(names: Sequence[str]) -> Result:
    """Return the `-S` arguments of `dvc exp run` that do what the presets do.

    Args:
        names: The presets, one or more.

    Returns:
        `presets`, and `overrides`: `key=value` in Hydra's grammar.

    Raises:
        FileNotFoundError: If a preset is missing.
        ValueError: If a preset is wrong, or the values do not fit together.
    """
    wanted = merged(names)
    overrides = [f"{key}={hydra_text(yaml.safe_load(text))}" for key, text in wanted.items()]
    load_params(overrides, PARAMS)
    return {"presets": list(names), "overrides": overrides}


def override_lines(result: Result) -> list[str]:
    """Return the text of `override_presets`' result: one line, quoted for a shell or `xargs`."""
    return [" ".join(f"-S {shlex.quote(override)}" for override in result["overrides"])]


def hydra_text(value: Any) -> str:
    """Return a value in Hydra's grammar of overrides, text in quotes where it needs them."""
    if isinstance(value, list):
        return f"[{','.join(hydra_text(item) for item in value)}]"
    if not isinstance(value, str):
        return str(value).lower()
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    # Hydra reads a backslash as one, but before a quote as the start of an escape.
    escaped = re.sub(r"(\\*)('|\Z)", lambda at: at[1] * 2 + at[2].replace("'", "\\'"), value)
    return f"'{escaped}'"


def _check(text: str) -> None:
    """Refuse values that are out of range or do not fit together (ValueError)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        path.write_text(text, encoding="utf-8")
        load_params(path=path)


def _refuse_uncommitted() -> None:
    """Refuse to write over edits that git does not hold (ValueError)."""
    command = ["git", "status", "--porcelain", "--", str(PARAMS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ValueError(f"{PARAMS}: no git to say whether it is committed; --force") from None
    if done.returncode or done.stdout.strip():
        reason = "is in no git repository" if done.returncode else "has edits not yet committed"
        raise ValueError(f"{PARAMS} {reason}; commit it, or --force writes over it")
