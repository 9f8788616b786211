"""The command `preset`: shows, writes or prints the values that presets set in `params.yaml`.

A preset is a file in `presets`: a comment line, the presets that it builds on (`defaults`, as in
Hydra) and values of `params.yaml`. Hydra composes them; ruamel.yaml writes and keeps the comments.
"""

from __future__ import annotations

import difflib
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from knowsub.cli.app import Result
from knowsub.config import PRESETS, compose_values, load_params, read_params

PARAMS = Path("params.yaml")
"""The file that presets change."""
_PLAIN = re.compile(
    r"(?!(true|false|null|inf|nan|on|off|yes|no|y|n)$)[a-z_]([\w./:-]*\w)?", re.IGNORECASE
)


def preset_names() -> list[str]:
    """Return the names of all presets, in order (FileNotFoundError without the folder)."""
    if not PRESETS.is_dir():
        raise FileNotFoundError(f"{PRESETS}: no such folder; run from the root of the repository")
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def description(name: str) -> str:
    """Return the line at the top of a preset's file."""
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    return text.partition("\n")[0].lstrip("# ")


def list_presets() -> Result:
    """Return `presets`: name -> the line at the top of its file."""
    return {"presets": {name: description(name) for name in preset_names()}}


def list_lines(result: Result) -> list[str]:
    """Return the text of `list_presets`' result."""
    width = max(map(len, result["presets"]))
    return [f"{name.ljust(width)}  {text}" for name, text in result["presets"].items()]


def preset_values(names: Sequence[str]) -> dict[str, Any]:
    """Return what presets set: dotted key -> value (ValueError if one is wrong)."""
    known = preset_names()
    if not names:
        raise ValueError(f"preset needs a name of: {', '.join(known)}")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise FileNotFoundError(f"{PRESETS} has no preset {name!r}; {hint}")
    load_params(presets=names)
    return _flat(compose_values({}, names))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested sections by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        flat |= _flat(value, f"{dotted}.") if isinstance(value, dict) else {dotted: value}
    return flat


def apply_presets(names: Sequence[str], write: bool, force: bool) -> Result:
    """Set the values of presets, later ones over earlier ones, and write `params.yaml` if asked.

    Returns `presets`, `changes` (dotted key -> value before and after), `diff` and `written`;
    raises ValueError if a preset is wrong, or edits that are not committed would be lost.
    """
    values, old = preset_values(names), PARAMS.read_text(encoding="utf-8")
    before = _flat(read_params(old, PARAMS.name).values)
    changes = {key: value for key, value in values.items() if before.get(key) != value}
    new = edited(old, changes) if changes else old
    if _flat(read_params(new, PARAMS.name).values) != before | changes:
        raise ValueError(f"{PARAMS}: could not be edited; use --overrides")
    diff = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"a/{PARAMS}", f"b/{PARAMS}", lineterm=""
    )
    if write and changes:
        if not force:
            _refuse_uncommitted()
        PARAMS.write_text(new, encoding="utf-8")
    return {
        "presets": list(names),
        "changes": {key: [before.get(key), value] for key, value in changes.items()},
        "diff": list(diff),
        "written": write and bool(changes),
    }


def edited(text: str, changes: Mapping[str, Any]) -> str:
    """Return a YAML text with values (by dotted key) changed; comments and styles stay."""
    document = YAML()
    document.preserve_quotes, document.width = True, 1 << 20
    tree = document.load(text)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = tree
        for name in path:
            section = section[name]
        if isinstance(value, list):
            section[last][:] = value  # the list itself holds its style and comment
            if not value:  # block style has no way to write a list without entries
                section[last].fa.set_flow_style()
        else:
            quoted = isinstance(value, str) and not _PLAIN.fullmatch(value)
            section[last] = DoubleQuotedScalarString(value) if quoted else value
    new = StringIO()
    document.dump(tree, new)
    return new.getvalue()


def applied_lines(result: Result) -> list[str]:
    """Return the text of `apply_presets`' result: the difference, and whether it was written."""
    if not result["changes"]:
        return [f"{PARAMS} has these values already"]
    state = "written" if result["written"] else "would change; --write writes them"
    return [*result["diff"], "", f"{PARAMS}: {len(result['changes'])} values {state}"]


def override_presets(names: Sequence[str]) -> Result:
    """Return `presets`, and as `overrides` (`key=value`, as Hydra reads them) what they set."""
    values = preset_values(names)
    overrides = [f"{key}={hydra_text(value)}" for key, value in values.items()]
    return {"presets": list(names), "overrides": overrides}


def override_lines(result: Result) -> list[str]:
    """Return the text of `override_presets`' result: one line, quoted for a shell or `xargs`."""
    return [" ".join(f"-S {shlex.quote(override)}" for override in result["overrides"])]


def hydra_text(value: Any) -> str:
    """Return a value in Hydra's grammar of overrides, text in quotes where it needs them."""
    if isinstance(value, list):
        return f"[{','.join(hydra_text(item) for item in value)}]"
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()
    if _PLAIN.fullmatch(value):
        return value
    # Hydra reads a backslash as one, but before a quote as the start of an escape.
    escaped = re.sub(r"(\\*)('|\Z)", lambda at: at[1] * 2 + at[2].replace("'", "\\'"), value)
    return f"'{escaped}'"


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
