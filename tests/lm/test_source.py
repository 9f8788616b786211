"""Hub models that are in the cache in part, and one model at the size of GPT-2 small."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest

from knowsub.lm.load import load_model, resolve_model
from tests.architectures import tiny
from tests.lm.setting import folder_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of `someone/small` in a hub cache of its own, the hub out of reach."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--someone--small"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return folder_of("gpt2", folder / "snapshots" / COMMIT)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_part_of_a_model_in_the_cache_says_what_is_missing(missing: str, cached: Path) -> None:
    (cached / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {missing} .*`hf download someone/small`"):
        resolve_model("someone/small")


def test_a_missing_shard_is_named(cached: Path) -> None:
    (cached / "model.safetensors").unlink()
    tiny("gpt2").save_pretrained(cached, max_shard_size="10KB")
    assert load_model(resolve_model("someone/small").folder)
    index = json.loads((cached / "model.safetensors.index.json").read_text())
    shard = max(index["weight_map"].values())
    (cached / shard).unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {shard} ") as caught:
        resolve_model("someone/small", COMMIT)
    assert f"`hf download someone/small --revision {COMMIT}`" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cached")
def test_offline_a_missing_model_says_why_and_how_to_fetch_it() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        resolve_model("someone/other")
    assert str(caught.value) == (
        "model 'someone/other': no such folder, not in the local cache, and not to be had from the "
        "hub (HF_HUB_OFFLINE is set); fetch it with `hf download someone/other` or give the path "
        "of a folder"
    )
