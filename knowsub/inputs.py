"""Files and folders that `params.yaml` names, put where DVC sees them change.

A local model, facts or a text of one's own may lie anywhere, and DVC compares only what `dvc.yaml`
lists. The stage `check` therefore makes a link to each of them, an output of it that other stages
depend on: a replaced file makes `check` run again, and then whatever reads that file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

RAW = Path("data/raw")
"""Folder that `prepare` depends on as a whole."""
COPIES = "/.dvc/tmp/exps/"
"""What the path of DVC's copies of a checkout has in it (`--temp`, `--queue`)."""


def link_inputs(folder: Path, named: Mapping[str, str]) -> None:
    """Link each file or folder that a parameter names, below the folder, by the parameter's name.

    Where it names none (`embedded`, a hub id, nothing), or one in `data/raw` that `prepare` reads,
    there is a file that never changes.

    Args:
        folder: Folder of the links; it is made.
        named: Dotted key -> value of every parameter that may name a file or a folder.

    Raises:
        FileNotFoundError: If one is missing in a copy of the checkout and there in the checkout.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for key, value in named.items():
        require_copied(key, value, Path.cwd())
        link, target = folder / key, Path(value)
        link.unlink(missing_ok=True)
        if value and target.exists() and not _seen_elsewhere(key, target.resolve()):
            link.symlink_to(target.resolve())
        else:
            link.write_text("no file or folder outside data/raw\n", encoding="utf-8")


def _seen_elsewhere(key: str, target: Path) -> bool:
    """Return whether a stage depends on a path already, or it holds the checkout itself."""
    raw = key.startswith(("prepare.", "verbalize.")) and target.is_relative_to(RAW.resolve())
    return raw or Path.cwd().resolve().is_relative_to(target)


def require_copied(key: str, value: str, here: Path) -> None:
    """Refuse a relative path that DVC left out of its copy of the checkout, as git tracks it not.

    Args:
        key: Dotted key of the parameter.
        value: Its value.
        here: The working directory.

    Raises:
        FileNotFoundError: If the path is there in the checkout and missing in the copy.
    """
    checkout, is_copy, _ = here.as_posix().partition(COPIES)
    path = Path(value)
    if value and is_copy and not path.is_absolute():
        left_out = (Path(checkout) / path).exists() and not (here / path).exists()
        if left_out:
            raise FileNotFoundError(
                f"{key}: {value!r} is in {checkout}, not in DVC's copy of it, which holds what git "
                f"tracks; `git add {value}` and run again, or give its absolute path"
            )
