"""Running text: the standard library's own English, a user's files, or a Hugging Face data set."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

MODULES = """
argparse bdb calendar cmd configparser contextlib csv difflib doctest email/message enum fractions
ftplib functools heapq http/cookiejar imaplib ipaddress json/__init__ logging/__init__ mailbox
optparse pickle pydoc random shutil smtplib socketserver statistics string subprocess tempfile
textwrap threading turtle typing unittest/case urllib/request weakref
"""
"""Modules whose docstrings are the text `embedded-other`, read in this order."""
PLAIN = str.maketrans("‘’“”–—\N{NO-BREAK SPACE}", "''\"\"-- ")
"""Typographic characters and what stands for them."""


def read_text(source: str) -> str:
    """Return a running text, its paragraphs separated by blank lines.

    Args:
        source: `embedded` (the prose of `pydoc_data.topics`), `embedded-other` (docstrings of
            standard-library modules, no paragraph shared with the first), the path of a text file
            or of a folder of `.txt` files, or a Hugging Face data set with a column `text`: a hub
            id, `id:configuration`, or a local folder. Of a data set all splits are joined.

    Returns:
        The text; the same for the same Python version and files.

    Raises:
        FileNotFoundError: If nothing of that name exists, here or on the hub.
        ValueError: If a file is not UTF-8 or empty, or a data set has no column `text`.
    """
    if source == "embedded":
        return "\n\n".join(_prose(topics[name] for name in sorted(topics)))
    if source == "embedded-other":
        known = set(_prose(topics.values()))
        return "\n\n".join(piece for piece in _prose(_docstrings()) if piece not in known)
    path = Path(source)
    if path.is_file():
        return _read_file(path)
    files = sorted(path.rglob("*.txt")) if path.is_dir() else []
    if files:
        return "\n\n".join(_read_file(file) for file in files)
    return _read_dataset(source)


def split_text(
    text: str, validation_share: float, test_share: float, stretches: int = 50
) -> dict[str, str]:
    """Return the text in three parts that share no paragraph.

    The text is cut between paragraphs into stretches of about equal length, which are dealt out
    evenly along it, so that every part speaks of the same matters. A paragraph that an earlier
    part already holds is dropped from `validation` and `test`.

    Args:
        text: Paragraphs separated by blank lines (or lines, where there are no blank ones).
        validation_share: Share of the text for choosing checkpoints [fraction of characters].
        test_share: Share of the text for the report [fraction of characters].
        stretches: Number of stretches; fewer where there are fewer paragraphs.

    Returns:
        The parts by the names `train`, `validation` and `test`.

    Raises:
        ValueError: If the shares are not positive or leave nothing to train on, or the text is
            too short for three parts.
    """
    if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
        raise ValueError(
            f"validation_share {validation_share} and test_share {test_share} are not allowed; "
            "both above 0 and less than 1 together"
        )
    shares = {"test": test_share, "validation": validation_share}
    shares = {"train": 1 - test_share - validation_share} | shares
    dealt = dict.fromkeys(shares, 0)
    parts: dict[str, list[str]] = {name: [] for name in shares}
    for stretch in _cut(_paragraphs(text), stretches):
        length = sum(map(len, stretch))
        name = max(
            shares, key=lambda part: shares[part] * (sum(dealt.values()) + length) - dealt[part]
        )
        dealt[name] += length
        parts[name] += stretch
    seen = set(parts["train"])
    for name in ("validation", "test"):
        parts[name] = [piece for piece in parts[name] if piece not in seen]
        seen |= set(parts[name])
    if empty := [name for name, pieces in parts.items() if not pieces]:
        raise ValueError(f"text of {len(text)} characters: nothing is left for {empty[0]}")
    return {name: "\n\n".join(parts[name]) for name in ("train", "validation", "test")}


def _paragraphs(text: str) -> list[str]:
    pieces = [piece.strip() for piece in re.split(r"\n\s*\n", text)]
    if len(pieces) < 3:
        pieces = [line.strip() for line in text.splitlines()]
    return [piece for piece in pieces if piece]


def _cut(paragraphs: list[str], stretches: int) -> Iterator[list[str]]:
    limit = sum(map(len, paragraphs)) / stretches
    stretch: list[str] = []
    for paragraph in paragraphs:
        stretch.append(paragraph)
        if sum(map(len, stretch)) >= limit:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


def _prose(documents: Iterable[str]) -> list[str]:
    """Return the English paragraphs, unwrapped, each once; code, grammar and tables left out."""
    pieces = dict.fromkeys(
        _unwrap(paragraph)
        for document in documents
        for paragraph in re.split(r"\n\s*\n", document.translate(PLAIN))
    )
    return [piece for piece in pieces if _is_prose(piece)]


def _unwrap(paragraph: str) -> str:
    lines = (line.strip() for line in paragraph.splitlines())
    kept = (line for line in lines if not re.fullmatch(r"[=*\-~^\"'+|#. ]*", line))
    return re.sub(r"^(\*|-|\d+\.|\[\d+\]) +|(?<= ) +", "", " ".join(kept))


def _is_prose(piece: str) -> bool:
    """Say whether a paragraph is a sentence or more: words by far, a full stop, no prompt."""
    words = re.findall(r"(?<![\w.\"_])[A-Za-z][a-z]+(?![\w(_=])", piece)
    letters = sum(char.isalpha() or char == " " for char in piece)
    return (
        len(words) >= 6
        and piece[-1] in ".:;!?)"
        and not re.search(r"::=|>>>|\.\. \w+::| = .* = ", piece)
        and letters > 0.81 * len(piece)
    )


def _docstrings() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    for name in MODULES.split():
        file = library / f"{name}.py"
        if not file.is_file():
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def _read_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 (byte {error.start})") from None
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    return text


def _read_dataset(source: str) -> str:
    import datasets

    name, _, configuration = source.partition(":")
    try:
        found: Any = _load(datasets, name, configuration)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise FileNotFoundError(
            f"text {source!r}: no such file or folder, and no data set of that name could be "
            f"opened ({reason}); fetch it with `hf download --repo-type dataset {name}`"
        ) from None
    splits = [found[key] for key in sorted(found)]
    if without := [split.column_names for split in splits if "text" not in split.column_names]:
        raise ValueError(f"data set {source!r}: no column 'text' among {without[0]}")
    return "\n\n".join("\n".join(split["text"]) for split in splits)


def _load(datasets: Any, name: str, configuration: str) -> Any:
    if (Path(name) / "dataset_dict.json").is_file():
        return datasets.load_from_disk(name)
    if (Path(name) / "dataset_info.json").is_file():
        return {"train": datasets.load_from_disk(name)}
    return datasets.load_dataset(name, configuration or None)
