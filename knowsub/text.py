"""Running text: the committed English corpora, files of the user, or a Hugging Face data set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from knowsub.artifacts import read_utf8

EMBEDDED = {
    "embedded": Path("data/raw/text/english.txt"),
    "embedded-other": Path("data/raw/text/english-other.txt"),
}
"""The committed texts by the names that `params.yaml` gives them, relative to the repository."""
SPLITS = ("train", "validation", "test")
ALIASES = {"valid": "validation", "val": "validation", "dev": "validation"}


def read_text(source: str) -> str:
    """Return a running text, its paragraphs separated by blank lines.

    Args:
        source: `embedded` or `embedded-other` (files of `data/raw/text`), the path of a text file
            or of a folder of `.txt` files, or a Hugging Face data set with a column `text`: a hub
            id or a local folder, with `:configuration` behind it where there are several.

    Returns:
        The text; of a folder or a data set all files or splits, joined.

    Raises:
        FileNotFoundError: If nothing of that name exists, here or on the hub.
        ValueError: If a file is not UTF-8 or empty, or a data set has no column `text`.
    """
    return "\n\n".join(_read_parts(source).values())


def read_splits(
    source: str, validation_share: float, test_share: float
) -> tuple[dict[str, str], str]:
    """Return a text in three splits: as published where it has them, else cut by share.

    A data set with the splits `train`, `validation` and `test`, or a folder with text files of
    these names (`valid`, `val` and `dev` stand for `validation`), keeps them as published.

    Args:
        source: As in `read_text`.
        validation_share: Where the text is cut: for choosing checkpoints [fraction of characters].
        test_share: Where the text is cut: for the report [fraction of characters].

    Returns:
        Text by split, `train`, `validation` and `test`, and one line on where the splits are from.

    Raises:
        FileNotFoundError: As in `read_text`.
        ValueError: As in `read_text`, or if a split would be empty.
    """
    parts = {ALIASES.get(name, name): text for name, text in _read_parts(source).items()}
    if not set(SPLITS) <= set(parts):
        cut = split_text("\n\n".join(parts.values()), validation_share, test_share)
        return cut, f"cut by share: {validation_share} validation, {test_share} test"
    if empty := [name for name in SPLITS if not parts[name].strip()]:
        raise ValueError(f"text {source!r}: its split {empty[0]!r} is empty")
    unused = sorted(set(parts) - set(SPLITS))
    left_out = f"; left out: {', '.join(unused)}" if unused else ""
    return {name: parts[name] for name in SPLITS}, f"its own splits{left_out}"


def split_text(text: str, validation_share: float, test_share: float) -> dict[str, str]:
    """Return the text in three splits that share no paragraph.

    The text is cut between paragraphs into about 50 stretches of equal length. Each goes to the
    split that is furthest behind its share, so that every split covers the same topics. Paragraphs
    that `train` holds, too, are dropped from `validation`, and those of both from `test`.

    The text has blank lines between its paragraphs, or one paragraph per line. The shares are
    fractions of its characters. Raises ValueError if they or the text leave a split empty.
    """
    if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
        raise ValueError(
            f"validation_share {validation_share} and test_share {test_share} are not allowed; "
            "both above 0 and less than 1 together"
        )
    shares = {"train": 1 - test_share - validation_share}
    # `max` takes the first of equals, so the order of the splits is part of the result.
    shares |= {"test": test_share, "validation": validation_share}
    assigned = dict.fromkeys(shares, 0)
    splits: dict[str, list[str]] = {name: [] for name in shares}
    for stretch in _cut(_paragraphs(text), stretches=50):
        length = sum(map(len, stretch))
        total = sum(assigned.values()) + length
        name = max(shares, key=lambda split: shares[split] * total - assigned[split])
        assigned[name] += length
        splits[name] += stretch
    seen = set(splits["train"])
    for name in ("validation", "test"):
        splits[name] = [paragraph for paragraph in splits[name] if paragraph not in seen]
        seen |= set(splits[name])
    if empty := [name for name, paragraphs in splits.items() if not paragraphs]:
        raise ValueError(f"text of {len(text)} characters: nothing is left for {empty[0]}")
    return {name: "\n\n".join(splits[name]) for name in SPLITS}


def _paragraphs(text: str) -> list[str]:
    paragraphs = re.split(r"\n\s*\n", text)
    stripped = map(str.strip, paragraphs if len(paragraphs) >= 3 else text.splitlines())
    return [paragraph for paragraph in stripped if paragraph]


def _cut(paragraphs: list[str], stretches: int) -> Iterator[list[str]]:
    """Yield consecutive paragraphs in stretches of about equal length."""
    limit = sum(map(len, paragraphs)) / stretches
    stretch: list[str] = []
    for paragraph in paragraphs:
        stretch.append(paragraph)
        if sum(map(len, stretch)) >= limit:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


def _read_parts(source: str) -> dict[str, str]:
    """Return what a text is made of: name of a file or split -> its text, in a fixed order."""
    path = EMBEDDED.get(source, Path(source))
    if path.is_file() or source in EMBEDDED:
        return {path.stem: _read_file(path)}
    if path.is_dir() and (files := sorted(path.rglob("*.txt"))):
        return {
            file.relative_to(path).with_suffix("").as_posix(): _read_file(file) for file in files
        }
    return _read_dataset(source)


def _read_file(path: Path) -> str:
    text = read_utf8(path)
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    return text


def _read_dataset(source: str) -> dict[str, str]:
    """Return the text of every split of a data set, splits in alphabetical order."""
    name, _, configuration = source.partition(":")
    try:
        dataset = _load_dataset(name, configuration or None)
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
    splits = {key: dataset[key] for key in sorted(dataset)}
    for key, split in splits.items():
        if "text" not in split.column_names:
            shown = ", ".join(split.column_names)
            raise ValueError(f"data set {source!r}: split {key!r} has no column 'text' ({shown})")
    return {key: "\n".join(row or "" for row in split["text"]) for key, split in splits.items()}


def _load_dataset(name: str, configuration: str | None) -> Any:
    import datasets  # slow to import, and most texts are files

    if (Path(name) / "dataset_dict.json").is_file():
        return datasets.load_from_disk(name)
    if (Path(name) / "dataset_info.json").is_file():
        return {"train": datasets.load_from_disk(name)}
    try:
        return datasets.load_dataset(name, configuration)
    except ConnectionError as offline:
        # `hf download` fills the hub's cache, where `datasets` does not look.
        try:
            folder = snapshot_download(name, repo_type="dataset", local_files_only=True)
        except (OSError, ValueError):
            raise offline from None
        return datasets.load_dataset(folder, configuration)
