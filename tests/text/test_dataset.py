"""Data sets in the real formats of `datasets`, made here: parquet as the hub has it, and saved."""

from __future__ import annotations

from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest

from knowsub.text import read_splits, read_text

ROWS = {
    "train": ["", " = Robin = \n", "", " A robin sings . \n"],
    "validation": ["", " = Oak = \n", " An oak stands . \n"],
    "test": [" = Trout = \n", " A trout swims . \n"],
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what is prepared out of the user's cache, and the hub out of reach."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "prepared")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def wikitext(folder: Path, rows: dict[str, list[str]] | None = None) -> Path:
    """Write a WikiText-2 of a few lines as the hub lays it out; return the folder of its parts."""
    inner = folder / "wikitext-2-raw-v1"
    inner.mkdir(parents=True)
    card = ["---", "configs:", "- config_name: wikitext-2-raw-v1", "  data_files:"]
    for split, text in (rows or ROWS).items():
        file = inner / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict({"text": text}).to_parquet(file)
        card += [f"  - split: {split}", f"    path: wikitext-2-raw-v1/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")
    return inner


def expected() -> dict[str, str]:
    return {split: "\n".join(rows) for split, rows in ROWS.items()}


@pytest.mark.parametrize("ending", ["/wikitext-2-raw-v1", ":wikitext-2-raw-v1", ""])
def test_wikitext_keeps_its_own_train_validation_and_test(ending: str, tmp_path: Path) -> None:
    wikitext(tmp_path / "wikitext")
    parts, origin = read_splits(f"{tmp_path / 'wikitext'}{ending}", 0.05, 0.1)
    assert parts == expected()
    assert origin == "its own splits"


def test_text_files_named_after_splits_are_the_same_to_datasets_and_to_us(tmp_path: Path) -> None:
    for split in ROWS:
        (tmp_path / f"{split}.txt").write_text(f"one {split}\n\ntwo", encoding="utf-8")
    found = datasets.load_dataset(str(tmp_path))
    parts, _ = read_splits(str(tmp_path), 0.05, 0.1)
    assert {name: "\n".join(found[name]["text"]) for name in ROWS} == parts


def test_splits_beyond_the_three_are_left_out_and_named(tmp_path: Path) -> None:
    wikitext(tmp_path / "w", ROWS | {"extra": ["more"]})
    parts, origin = read_splits(f"{tmp_path / 'w'}:wikitext-2-raw-v1", 0.05, 0.1)
    assert parts == expected()
    assert origin == "its own splits; left out: extra"


def test_without_a_validation_split_all_text_is_cut_by_share(tmp_path: Path) -> None:
    lines = {name: [f"{name} line {i}" for i in range(30)] for name in ("train", "test")}
    folder = wikitext(tmp_path / "w", lines)
    parts, origin = read_splits(str(folder), 0.1, 0.2)
    assert origin.startswith("cut by share")
    assert sorted("\n\n".join(parts.values()).split()) == sorted(read_text(str(folder)).split())


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    folder = wikitext(tmp_path / "w", ROWS | {"test": ["", " \n"]})
    with pytest.raises(ValueError, match="its split 'test' is empty"):
        read_splits(str(folder), 0.05, 0.1)


def test_saved_data_sets_are_read_split_after_split(tmp_path: Path) -> None:
    parts = {
        "train": datasets.Dataset.from_dict({"text": ["one", None, "two"]}),
        "test": datasets.Dataset.from_dict({"text": ["three"]}),
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    parts["train"].save_to_disk(tmp_path / "single")
    assert read_text(str(tmp_path / "saved")) == "three\n\none\n\ntwo"
    assert read_text(str(tmp_path / "single")) == "one\n\ntwo"


def test_a_data_set_without_texts_is_refused_with_its_columns(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"words": ["one"]}).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=r"split 'train' has no column 'text' \(words\)"):
        read_text(str(tmp_path / "set"))


def test_a_folder_that_is_no_data_set_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    wikitext(tmp_path / "w")
    (tmp_path / "empty").mkdir()
    cases = {f"{tmp_path / 'w'}:other": "wikitext-2-raw-v1", str(tmp_path / "empty"): "no data set"}
    for source, message in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            read_text(source)
        assert "hf download" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_offline_a_missing_data_set_says_what_is_missing_and_how_to_fetch_it() -> None:
    with pytest.raises(
        FileNotFoundError, match="`hf download --repo-type dataset nobody/nothing`"
    ) as caught:
        read_text("nobody/nothing:raw")
    assert "'nobody/nothing:raw'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_offline_a_data_set_that_was_downloaded_is_found_in_the_hubs_cache(tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "datasets--someone--wiki"
    wikitext(cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    parts, _ = read_splits("someone/wiki:wikitext-2-raw-v1", 0.05, 0.1)
    assert parts == expected()
