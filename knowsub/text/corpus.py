"""Running text: the committed English corpus, files of the user, or a Hugging Face data set."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType
from typing import Any

from huggingface_hub import snapshot_download


def read_dataset(source: str) -> dict[str, str]:
    """Return the text of every split of a data set.

    Args:
        source: A hub id or a local folder, with `:configuration` behind it where there are several.

    Returns:
        Name of the split -> its rows joined by line breaks, splits in alphabetical order.

    Raises:
        FileNotFoundError: If there is no such folder, and no such data set on the hub or, offline,
            in its cache; the message says how to fetch it.
        ValueError: If a local folder is no data set, or a split has no column `text`.
    """
    import datasets

    name, _, configuration = source.partition(":")
    try:
        found: Any = _load(datasets, name, configuration or None)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if Path(name).is_dir():
            raise ValueError(
                f"text {source!r}: {name} holds no .txt file and no data set that can be opened "
                f"({reason})"
            ) from None
        raise FileNotFoundError(
            f"text {source!r}: no such file or folder, and no data set of that name could be "
            f"opened ({reason}); fetch it with `hf download --repo-type dataset {name}`"
        ) from None
    splits = {key: found[key] for key in sorted(found)}
    for key, split in splits.items():
        if "text" not in split.column_names:
            shown = ", ".join(split.column_names)
            raise ValueError(f"data set {source!r}: split {key!r} has no column 'text' ({shown})")
    return {key: "\n".join(row or "" for row in split["text"]) for key, split in splits.items()}


def _load(datasets: ModuleType, name: str, configuration: str | None) -> Any:
    if (Path(name) / "dataset_dict.json").is_file():
        return datasets.load_from_disk(name)
    if (Path(name) / "dataset_info.json").is_file():
        return {"train": datasets.load_from_disk(name)}
    try:
        return datasets.load_dataset(name, configuration)
    except ConnectionError as offline:
        # What `hf download` fetched lies in the hub's cache, where `datasets` does not look.
        try:
            folder = snapshot_download(name, repo_type="dataset", local_files_only=True)
        except (OSError, ValueError):
            raise offline from None
        return datasets.load_dataset(folder, configuration)


MODULES = """
argparse bdb calendar cmd configparser contextlib csv difflib doctest email/message enum fractions
ftplib functools heapq http/cookiejar imaplib ipaddress json/__init__ logging/__init__ mailbox
optparse pickle pydoc random shutil smtplib socketserver statistics string subprocess tempfile
textwrap threading turtle typing unittest/case urllib/request weakref
"""
"""Modules whose docstrings are the text `embedded-other`, read in this order."""
PLAIN = str.maketrans("‘’“”–—\N{NO-BREAK SPACE}", "''\"\"-- ")
"""Typographic characters and what stands for them."""


def topic_prose() -> list[str]:
    """Return the paragraphs of prose in `pydoc_data.topics`, each once, topics in order."""
    return _prose(topics[name] for name in sorted(topics))


def docstring_prose() -> list[str]:
    """Return the paragraphs of prose in docstrings of the standard library, each once."""
    return _prose(_docstrings())


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


PARTS = ("train", "validation", "test")
"""Parts of a text; a set with splits of these names keeps them."""
ALIASES = {"valid": "validation", "val": "validation", "dev": "validation"}
"""Other names of those splits."""


def read_text(source: str) -> str:
    """Return a running text, its paragraphs separated by blank lines.

    Args:
        source: `embedded` (the prose of `pydoc_data.topics`), `embedded-other` (docstrings of
            standard-library modules, no paragraph shared with the first), the path of a text file
            or of a folder of `.txt` files, or a Hugging Face data set with a column `text`: a hub
            id or a local folder, with `:configuration` behind it where there are several.
            Of a data set all splits are joined.

    Returns:
        The text; the same for the same Python version and files.

    Raises:
        FileNotFoundError: If nothing of that name exists, here or on the hub.
        ValueError: If a file is not UTF-8 or empty, or a data set has no column `text`.
    """
    return "\n\n".join(_pieces(source).values())


def read_splits(
    source: str, validation_share: float, test_share: float
) -> tuple[dict[str, str], str]:
    """Return a text in three parts: its own where it has them, else cut by share.

    A data set with the splits `train`, `validation` and `test`, or a folder with text files of
    these names (`valid`, `val` and `dev` stand for `validation`), keeps them as published.

    Args:
        source: As in `read_text`.
        validation_share: As in `split_text`; not used where the text has parts of its own.
        test_share: As in `split_text`; not used where the text has parts of its own.

    Returns:
        The parts by the names `train`, `validation` and `test`, and one line on where they come
        from, for the stage's counts.

    Raises:
        FileNotFoundError: As in `read_text`.
        ValueError: As in `read_text` and `split_text`, or if a part of its own is empty.
    """
    pieces = {ALIASES.get(name, name): text for name, text in _pieces(source).items()}
    if not set(PARTS) <= set(pieces):
        parts = split_text("\n\n".join(pieces.values()), validation_share, test_share)
        return parts, f"cut by share: {validation_share} validation, {test_share} test"
    if empty := [name for name in PARTS if not pieces[name].strip()]:
        raise ValueError(f"text {source!r}: its split {empty[0]!r} is empty")
    beyond = sorted(set(pieces) - set(PARTS))
    left_out = f"; left out: {', '.join(beyond)}" if beyond else ""
    return {name: pieces[name] for name in PARTS}, f"its own splits{left_out}"


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
    return {name: "\n\n".join(parts[name]) for name in PARTS}


def _pieces(source: str) -> dict[str, str]:
    """Return what a text is made of: name of a file or split -> its text, in a fixed order."""
    if source == "embedded":
        return {source: "\n\n".join(topic_prose())}
    if source == "embedded-other":
        known = set(topic_prose())
        own = (piece for piece in docstring_prose() if piece not in known)
        return {source: "\n\n".join(own)}
    path = Path(source)
    if path.is_file():
        return {path.stem: _read_file(path)}
    files = sorted(path.rglob("*.txt")) if path.is_dir() else []
    if files:
        names = (file.relative_to(path).with_suffix("").as_posix() for file in files)
        return {name: _read_file(file) for name, file in zip(names, files, strict=True)}
    return read_dataset(source)


def _read_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 (byte {error.start})") from None
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    return text


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
