"""What is wrong with a command's arguments and files, found before anything heavy is imported.

Every function returns one phrase per mistake, so that all of them can be said at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

SEALED = "sealed"
"""Entry of the header that a mask has, and a model's weights have not."""
LARGEST_HEADER = 1 << 27
"""No header of safetensors is longer [bytes]; what claims to be is a file of another kind."""


def mask_mistakes(*paths: Path | None) -> list[str]:
    """Return what is wrong with files given as masks; None is a mask that was not given."""
    found = [_mask_mistake(path) for path in paths if path is not None]
    return [mistake for mistake in dict.fromkeys(found) if mistake]


def _mask_mistake(path: Path) -> str:
    if path.is_dir():
        inside = path / "mask.safetensors"
        if inside.is_file():
            return f"{path}: a folder; the mask in it is {inside}"
        kind = "a model's folder" if (path / "config.json").is_file() else "a folder"
        return f"{path}: {kind}, not a mask; a mask is a file such as mask.safetensors"
    if not path.is_file():
        return f"{path}: no such file"
    if path.stat().st_size == 0:
        return f"{path}: the file is empty"
    header = _safetensors_header(path)
    if header is None:
        return f"{path}: not a mask; a mask is a safetensors file that the stage train wrote"
    if SEALED not in header.get("__metadata__", {}):
        return f"{path}: the weights of a model, not a mask; the model comes before the mask"
    return ""


def _safetensors_header(path: Path) -> dict[str, dict[str, object]] | None:
    """Return the JSON that a safetensors file begins with; None if it does not begin like one."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(LARGEST_HEADER, path.stat().st_size):
            return None
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return None
    return header if isinstance(header, dict) else None


def model_mistakes(name: str) -> list[str]:
    """Return what is wrong with a model's name, as far as it names a file or folder here."""
    path = Path(name)
    if not name.strip():
        return ["the model's name is empty; give a folder, a model.json or a hub id"]
    if path.is_dir():
        manifest = path / "model.json"
        named = f"; did you mean {manifest}?" if manifest.is_file() else ""
        is_model = (path / "config.json").is_file()
        return [] if is_model else [f"{path}: no model, it has no config.json{named}"]
    if path.suffix == ".json" and not path.is_file():
        return [f"{path}: no such file; the stage pretrain writes it"]
    if path.is_file() and path.suffix not in (".json", ".gguf"):
        kind = "a file" if _mask_mistake(path) else "a mask"
        return [
            f"{path}: {kind}, not a model; give a Hugging Face folder, a model.json or a hub id"
        ]
    if name.startswith(("/", "./", "../", "~")) and not path.exists():
        return [f"model {name!r}: no such folder"]
    return []


def answer_mistakes(answer: str) -> list[str]:
    """Return what is wrong with an answer to score."""
    if answer.strip():
        return []
    return [f"the answer {answer!r} is empty; it needs at least one word to score"]


def statements_mistakes(path: Path) -> list[str]:
    """Return what is wrong with a file given as a target's statements."""
    if path.is_dir():
        return [f"{path}: a folder; name a file such as {path / 'building.n.01.jsonl'}"]
    if not path.is_file():
        return [f"{path}: no such file; the stage verbalize writes it"]
    return [] if path.stat().st_size else [f"{path}: the file is empty"]


def task_name(statements: Path) -> str:
    """Return the name of the task about a target: `knowsub_building_n_01`."""
    return "knowsub_" + re.sub(r"\W", "_", statements.stem)


def task_mistakes(statements: Path, out: Path, force: bool) -> list[str]:
    """Return why a task cannot be written into a folder: it is a file, or has that task."""
    if out.exists() and not out.is_dir():
        return [f"{out} is a file; name a folder"]
    return output_mistakes(out / f"{task_name(statements)}.yaml", force)


def output_mistakes(out: Path, force: bool, *, model: bool = False) -> list[str]:
    """Return why a path cannot be written to: it is there already, or of another kind."""
    if out.exists() and not force:
        return [f"{out} exists already; --force overwrites it"]
    if model and out.exists() and not (out / "config.json").is_file():
        return [f"{out} is not a model folder; --force does not overwrite it"]
    if not model and out.is_dir():
        return [f"{out} is a folder; name a file"]
    return []


def combine_mistakes(masks: Sequence[Path], rules: Sequence[str]) -> list[str]:
    """Return what is wrong with the number of masks or rules given to `combine`."""
    found = []
    if len(rules) != 1:
        given = ", ".join(f"--{rule}" for rule in rules) or "none"
        needed = "--union, --intersection, --floral, --difference"
        found.append(f"combine needs one of {needed}, not {given}")
    if len(masks) < 2:
        found.append(f"combine needs two masks or more, not {len(masks)}")
    return found
