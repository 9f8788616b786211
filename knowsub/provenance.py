"""Where a result comes from: checkout, commit, versions, and the keys of runs and checkpoints.

DVC runs experiments of a queue in temporary copies below `.dvc/tmp/exps`; what all of them share
(the store of runs, checkpoints) lives in the checkout that they were started from.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from knowsub.config import Params

NO_RESULT = ("machine", "track")
"""Sections of the parameters that no result depends on."""


def main_root() -> Path:
    """Return the checkout that the user works in, also from a temporary copy of DVC's.

    Returns:
        Absolute path; the working directory where there is no DVC repository above it.
    """
    if os.environ.get("DVC_ROOT"):
        return Path(os.environ["DVC_ROOT"])
    here = Path.cwd().resolve()
    found = next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)
    outside = str(found).partition("/.dvc/tmp/exps/")[0]
    return Path(outside)


def flatten(params: Params) -> dict[str, str]:
    """Return every value that results depend on, under its dotted key; no text is JSON."""
    tree = {name: value for name, value in asdict(params).items() if name not in NO_RESULT}
    return dict(_leaves(tree, ""))


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def described(values: Mapping[str, str]) -> str:
    """Return what an experiment is, from its flat values: model, suppression term and targets."""
    words = (values.get(name, "") for name in ("pretrain.model", "train.suppression", "targets"))
    return " ".join(words).translate({ord(mark): None for mark in '[]"'})


def run_key(params: Params, root: Path | None = None) -> str:
    """Return the key of an experiment: the same for the same parameters and the same code.

    Args:
        params: The configuration.
        root: Root of the code; None means the working directory, which in a temporary copy of
            DVC's is the copy.

    Returns:
        64 hexadecimal digits.
    """
    code = files_key(("knowsub", "stages", "dvc.yaml", "requirements/run.lock"), root)
    values = json.dumps(flatten(params), sort_keys=True)
    return hashlib.sha256(f"{values}{code}".encode()).hexdigest()


def stage_key(stage: str, item: Mapping[str, object], params: Params) -> str:
    """Return the key of a stage's checkpoints: a hash of all that `dvc.yaml` says it depends on.

    Args:
        stage: Name of the stage.
        item: What it works on, such as target and seed.
        params: The configuration.

    Returns:
        64 hexadecimal digits; another parameter, input file or line of code gives others.
    """
    known = YAML(typ="safe").load(Path("dvc.yaml"))["stages"][stage]
    files = list(known["deps"])
    for name, value in item.items():
        files = [file.replace(f"${{item.{name}}}", str(value)) for file in files]
    sections = tuple(known["params"])
    values = {n: v for n, v in flatten(params).items() if n.partition(".")[0] in sections}
    described = json.dumps([stage, dict(item), values], sort_keys=True)
    return hashlib.sha256(f"{described}{files_key(files)}".encode()).hexdigest()


def files_key(paths: Iterable[str], root: Path | None = None) -> str:
    """Return a hash of the names and contents of files, and of all files in folders.

    Args:
        paths: Files and folders; that one is missing enters the hash too.
        root: Folder that they are relative to; None means the working directory.

    Returns:
        64 hexadecimal digits.
    """
    top, files = root or Path(), set[Path]()
    for path in paths:
        inside = (file for file in (top / path).rglob("*") if file.is_file())
        files |= {file for file in inside if "__pycache__" not in file.parts} or {top / path}
    digest = hashlib.sha256()
    for file in sorted(files):
        content = "none"
        if file.is_file():
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{file.relative_to(top).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def origin() -> dict[str, str]:
    """Return tags that say where the code comes from: the commit, and DVC's experiment."""
    known = {
        "mlflow.source.git.commit": git("rev-parse", "HEAD"),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
    }
    return {name: value for name, value in known.items() if value}


def git(*arguments: str, folder: Path | None = None) -> str:
    """Return what git says in a folder; nothing where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


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
    sources = ("knowsub", "stages", "params.yaml", "dvc.yaml", "pyproject.toml", "data/raw")
    commit = git("log", "-1", "--format=%H", "--", *sources, folder=root)
    changed = git("status", "--porcelain", "--", *sources, folder=root)
    return f"{commit}, changed since" if commit and changed else commit or "unknown"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can move a metric, if installed."""
    found = {"python": platform.python_version()}
    for name in ("knowsub", "torch", "transformers", "tokenizers", "numpy", "scipy", "matplotlib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def parameters_shown(text: str) -> str:
    """Return the text of `params.yaml` without the sections that change no result."""
    kept, keep = [], True
    for line in text.splitlines(keepends=True):
        if line[:1].isalpha():
            keep = line.partition(":")[0] not in NO_RESULT
        if keep:
            kept.append(line)
    return "".join(kept).rstrip() + "\n"
