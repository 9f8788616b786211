"""A checkpoint is read as it is: no adapter slips in, no tensor is left over, its dtype stays.

Reported as: huggingface/transformers #43746 (an adapter beside a model takes its place),
declare-lab/flacuna #2 (LoRA tensors of a checkpoint that no model reads),
huggingface/transformers #35072 (a model twice its size after it was saved again).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from knowsub.architectures import maskable_matrices
from knowsub.cli.models import predictions, remove_mask
from knowsub.lm.identity import fingerprint, identity
from knowsub.lm.load import load_model, manifest, resolve_model
from knowsub.masks.mask import Mask, load_mask, save_mask
from tests.lm.setting import toy_tokenizer, wide

DTYPES = ["float32", "bfloat16"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder."""
    wide("gpt2").save_pretrained(tmp_path / "model")
    toy_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("opened", [load_model, lambda folder: resolve_model(str(folder))])
def test_an_adapter_beside_a_model_is_refused(
    opened: Callable[[Path], object], folder: Path
) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ValueError, match=r"holds an adapter \(adapter_config\.json\).* merge it"):
        opened(folder)


def test_an_adapter_without_a_model_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter"):
        load_model(tmp_path)


def with_tensors(folder: Path, *names: str, without: str = "") -> None:
    """Add tensors to a folder's checkpoint."""
    file = folder / "model.safetensors"
    tensors = load_file(file) | {name: torch.ones(2, 2) for name in names}
    tensors.pop(without, None)
    save_file(tensors, file, metadata={"format": "pt"})


def test_tensors_that_no_model_reads_are_named(folder: Path) -> None:
    with_tensors(
        folder,
        *(
            f"transformer.h.{block}.attn.c_attn.lora_{part}.weight"
            for block in (0, 1)
            for part in "AB"
        ),
    )
    with pytest.raises(
        ValueError, match=r"does not read: .*h\.0.*lora_A\.weight.* and 1 more"
    ) as e:
        load_model(folder)
    assert "\n" not in str(e.value)


def test_masks_that_old_checkpoints_stored_are_no_weights(folder: Path) -> None:
    with_tensors(folder, "transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias")
    assert fingerprint(load_model(folder)[0]) == fingerprint(wide("gpt2"))


def test_missing_tensors_are_named(folder: Path) -> None:
    with_tensors(folder, without="transformer.h.1.mlp.c_fc.weight")
    with pytest.raises(
        ValueError, match=r"weights of transformer\.h\.1\.mlp\.c_fc\.weight are mis"
    ):
        load_model(folder)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("searched", DTYPES)
@pytest.mark.parametrize("by_manifest", [False, True])
def test_a_mask_fits_the_folder_it_was_found_on_and_removing_it_keeps_the_dtype(
    stored: str, searched: str, by_manifest: bool, tmp_path: Path
) -> None:
    folder, out, dtype = tmp_path / "model", tmp_path / "out", getattr(torch, stored)
    wide("gpt2").to(dtype).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    model, tokenizer = load_model(folder, dtype=searched)
    bits = {m.name: torch.zeros(m.shape, dtype=torch.bool) for m in maskable_matrices(model)}
    bits["blocks.2.mlp_in"][3] = True
    save_mask(Mask(bits, identity(model, tokenizer)), tmp_path / "mask.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(manifest(model, tokenizer, "model", "")))
    name = str(tmp_path / "model.json" if by_manifest else folder)

    remove_mask(name, tmp_path / "mask.safetensors", out)
    opened = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert opened.dtype == dtype
    sizes = [(each / "model.safetensors").stat().st_size for each in (folder, out)]
    assert sizes[0] == sizes[1]
    expected = wide("gpt2").to(dtype)
    expected.get_parameter("transformer.h.2.mlp.c_fc.weight")[3] = 0
    assert fingerprint(opened) == fingerprint(expected)
    assert predictions(name, "A robin is", tmp_path / "mask.safetensors", 1)["answers"]


def test_a_mask_of_another_model_is_still_refused(folder: Path, tmp_path: Path) -> None:
    other = wide("gpt2")
    other.get_parameter("transformer.h.2.mlp.c_fc.weight")[0, 0] += 1.0
    bits = {m.name: torch.zeros(m.shape, dtype=torch.bool) for m in maskable_matrices(other)}
    save_mask(Mask(bits, identity(other, toy_tokenizer())), tmp_path / "mask.safetensors")
    assert load_mask(tmp_path / "mask.safetensors").size == 0
    with pytest.raises(ValueError, match="the mask belongs to model"):
        remove_mask(str(folder), tmp_path / "mask.safetensors", tmp_path / "out")
