"""A mask belongs to weights, configuration and tokenizer; another one of either is refused.

Reported as: Open-Athena/MarinFold #184 (another rope base read, 0.765 nats per token, no warning),
lyogavin/airllm #368 (the default base in place of the configuration's), huggingface/transformers
#27923 (pointers of Git LFS in place of weights), #12763 and EuroEval/EuroEval #52 (tokens beyond
the embedding).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from knowsub.cli.models import open_named, scores
from knowsub.lm.identity import config_digest, identity, tokenizer_digest
from knowsub.lm.load import load_model, manifest, open_model, resolve_model
from knowsub.masks.mask import Mask, save_mask
from tests.lm.setting import folder_of, small_tokenizer, toy_tokenizer, wide


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama with the toy tokenizer."""
    wide("llama").save_pretrained(tmp_path / "model")
    toy_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def other_base(folder: Path) -> None:
    edit(folder / "config.json", lambda c: c["rope_parameters"].update(rope_theta=500000.0))


def other_epsilon(folder: Path) -> None:
    edit(folder / "config.json", lambda c: c.update(rms_norm_eps=0.01))


def other_merges(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda t: t["model"].update(merges=t["model"]["merges"][:-20]))


def other_weights(folder: Path) -> None:
    model = wide("llama")
    model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 5] += 1e-3
    model.save_pretrained(folder)


def no_number(folder: Path) -> None:
    harmless = {"use_cache": False, "transformers_version": "9", "_name_or_path": "x"}
    edit(folder / "config.json", lambda c: c.update(harmless))


CHANGES = {
    "configuration": [other_base, other_epsilon], "tokenizer": [other_merges],
    "weights": [other_weights],
}  # fmt: skip


@pytest.mark.parametrize(("part", "change"), [(p, c) for p, all_ in CHANGES.items() for c in all_])
def test_a_mask_of_another_part_is_refused_with_its_name(
    folder: Path, part: str, change: Any
) -> None:
    opened = open_named(str(folder))
    bits = {m.name: torch.zeros(m.shape, dtype=torch.bool) for m in opened.matrices}
    save_mask(Mask(bits, opened.fingerprint), folder.parent / "mask.safetensors")
    change(folder)
    with pytest.raises(ValueError, match=f"belongs to model .*: another {part}$"):
        scores(str(folder), "A robin is a kind of", "bird", folder.parent / "mask.safetensors")


@pytest.mark.parametrize(("part", "change"), [(p, c) for p, all_ in CHANGES.items() for c in all_])
def test_a_manifest_says_what_changed_and_how_to_go_on(
    folder: Path, part: str, change: Any
) -> None:
    file = folder.parent / "model.json"
    file.write_text(json.dumps(manifest(*load_model(folder), "model", "")))
    open_model(file)
    change(folder)
    with pytest.raises(ValueError, match=f"the {part} in .* changed.*dvc repro --force"):
        open_model(file)


def test_a_changed_value_of_the_configuration_is_named(folder: Path) -> None:
    file = folder.parent / "model.json"
    file.write_text(json.dumps(manifest(*load_model(folder), "model", "")))
    other_epsilon(folder)
    with pytest.raises(ValueError, match=r"rms_norm_eps 1e-06 -> 0\.01"):
        open_model(file)


def test_what_changes_no_number_changes_no_fingerprint(folder: Path) -> None:
    before = identity(*load_model(folder))
    no_number(folder)
    model, tokenizer = load_model(folder)
    assert identity(model, tokenizer) == before
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer(["A robin", "A robin is a kind of"], padding=True, truncation=True, max_length=3)
    assert tokenizer_digest(tokenizer) == before.split("-")[2]


def test_a_saved_copy_has_the_same_fingerprint(folder: Path) -> None:
    model, tokenizer = load_model(folder)
    model.save_pretrained(folder.parent / "copy")
    tokenizer.save_pretrained(folder.parent / "copy")
    assert identity(*load_model(folder.parent / "copy")) == identity(model, tokenizer)
    assert config_digest(wide("llama").config) == config_digest(model.config)


def test_a_mask_of_an_earlier_version_says_so(folder: Path) -> None:
    opened = open_named(str(folder))
    bits = {m.name: torch.zeros(m.shape, dtype=torch.bool) for m in opened.matrices}
    old = Mask(bits, opened.fingerprint.partition("-")[0])
    save_mask(old, folder.parent / "mask.safetensors")
    with pytest.raises(ValueError, match=r"of an earlier version.*search it again"):
        opened.mask(folder.parent / "mask.safetensors")


def test_a_pointer_of_git_lfs_is_named_as_one(folder: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 5341104\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(ValueError, match=r"model\.safetensors is a pointer of Git LFS.*lfs pull"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "said"), [("m.gguf", "a GGUF file is not read here"), ("m.bin", "is a file; a model")]
)
def test_a_file_is_told_from_a_folder_that_is_missing(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF\x03")
    with pytest.raises(ValueError, match=said):
        resolve_model(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        resolve_model(str(tmp_path / "none" / name))


def test_a_tokenizer_beyond_the_embedding_is_refused_at_opening(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path)
    toy_tokenizer().save_pretrained(folder)
    with pytest.raises(ValueError, match=r"has token .* at \d+, its embedding 61 rows"):
        load_model(folder)
    shutil.rmtree(folder)
    folder = folder_of("llama", tmp_path)
    added = small_tokenizer()
    added.add_special_tokens({"additional_special_tokens": [f"<image{i}>" for i in range(90)]})
    added.save_pretrained(folder)
    load_model(folder)  # no text contains them
    added.add_tokens(["pagoda"])
    added.save_pretrained(folder)
    with pytest.raises(ValueError, match="token 'pagoda' at"):
        load_model(folder)
