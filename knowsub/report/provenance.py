"""Where a report comes from: versions of the software and the commit of the code."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("knowsub", "torch", "transformers", "tokenizers", "numpy", "scipy", "matplotlib")
"""Packages whose version can move a figure."""

SOURCES = ("knowsub", "stages", "params.yaml", "dvc.yaml", "pyproject.toml", "data/raw")
"""What the results are made from; results themselves are not among it."""

UNSHOWN = frozenset({"machine", "track"})
"""Sections of the parameters that change no result."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def parameters_shown(text: str) -> str:
    """Return the text of `params.yaml` without the sections that change no result.

    Args:
        text: The whole file.

    Returns:
        The same without `machine` and `track`, so that the page does not depend on them.
    """
    kept, keep = [], True
    for line in text.splitlines(keepends=True):
        if line[:1].isalpha():
            keep = line.partition(":")[0] not in UNSHOWN
        if keep:
            kept.append(line)
    return "".join(kept).rstrip() + "\n"


def code_commit(root: Path) -> str:
    """Return the last commit that changed what results are made from.

    It stays the same when only results are committed afterwards, so that the report of a commit
    does not depend on whether its results were committed before or after.

    Args:
        root: Folder of the repository.

    Returns:
        The commit's full hash, with `, changed since` if the sources differ from it; `unknown`
        outside git or without a commit.
    """
    commit = _git(root, "log", "-1", "--format=%H", "--", *SOURCES)
    if not commit:
        return "unknown"
    changed = _git(root, "status", "--porcelain", "--", *SOURCES)
    return f"{commit}, changed since" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
