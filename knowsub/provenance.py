"""Where a result comes from: checkout, commit, versions, and the key of a run.

DVC runs experiments of a queue in temporary copies below `.dvc/tmp/exps`; what all of them share
(the store of runs, checkpoints) lives in the checkout that they were started from.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from knowsub.config import Params

APART = ("machine", "track")
"""Sections that no result depends on: neither part of the key nor compared between runs."""


def main_root() -> Path:
    """Return the checkout that the user works in, also from a temporary copy of DVC's.

    Returns:
        Absolute path; the working directory where there is no DVC repository above it.
    """
    if os.environ.get("DVC_ROOT"):
        return Path(os.environ["DVC_ROOT"])
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return _outside_copies(folder)
    return here


def _outside_copies(folder: Path) -> Path:
    parts = folder.parts
    for index in range(len(parts) - 2):
        if parts[index : index + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:index])
    return folder


def flatten(params: Params) -> dict[str, str]:
    """Return every value that results depend on, under its dotted key, as text.

    Args:
        params: The configuration.

    Returns:
        Dotted key -> value; lists and mappings as JSON.
    """
    tree = {name: value for name, value in asdict(params).items() if name not in APART}
    return dict(_leaves(tree, ""))


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def run_key(params: Params, folder: Path | None = None) -> str:
    """Return the key of an experiment: the same for the same parameters and the same code.

    Args:
        params: The configuration.
        folder: Root of the code; None means the working directory, which in a temporary copy of
            DVC's is the copy.

    Returns:
        64 hexadecimal digits.
    """
    root = folder or Path.cwd()
    digest = hashlib.sha256(json.dumps(flatten(params), sort_keys=True).encode())
    single = [root / "dvc.yaml", root / "requirements" / "run.lock"]
    found = [path for room in ("knowsub", "stages") for path in (root / room).rglob("*")]
    code = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    for path in sorted([*code, *(path for path in single if path.is_file())]):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def origin() -> dict[str, str]:
    """Return where the code comes from: the commit, and DVC's experiment if it is one.

    Returns:
        Of `commit`, `experiment` and `baseline` those that are known.
    """
    known = {
        "commit": _git("rev-parse", "HEAD"),
        "experiment": os.environ.get("DVC_EXP_NAME", ""),
        "baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
    }
    return {name: value for name, value in known.items() if value}


def user() -> str:
    """Return the name of who runs this; `unknown` where the system has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, waiting for it; it is free again even if the process is killed.

    Args:
        path: The lock file; made with its folder if there is none.

    Yields:
        Nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
    commit = _provenance_git(root, "log", "-1", "--format=%H", "--", *SOURCES)
    if not commit:
        return "unknown"
    changed = _provenance_git(root, "status", "--porcelain", "--", *SOURCES)
    return f"{commit}, changed since" if changed else commit


def _provenance_git(root: Path, *arguments: str) -> str:
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
