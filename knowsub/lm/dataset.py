"""Texts of Hugging Face data sets, from the hub, its cache or a local folder."""

from __future__ import annotations

from pathlib import Path
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
