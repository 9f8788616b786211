"""Blocks in nf4: which weights are, what they compute, and that masks are of the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from knowsub.architectures import block_count, maskable_matrices
from knowsub.discovery.options import Suppression
from knowsub.discovery.setup import SearchModel, build_search
from knowsub.discovery.trainer import find_subnetwork
from knowsub.downstream.model import FinetuneContext
from knowsub.downstream.options import Adaptation, TrainableBlocks
from knowsub.evaluation.options import RelearningMethod
from knowsub.evaluation.relearning import Finetuning, finetune
from knowsub.lm.batch import Batch, encode_statements
from knowsub.lm.blocks import cache_lower_states
from knowsub.lm.export import ModelCard, export_model
from knowsub.lm.gguf import find_pretrained
from knowsub.lm.identity import fingerprint, identity, require_made_for
from knowsub.lm.load import load_model, manifest, open_model, write_manifest
from knowsub.lm.lora import ADAPTER
from knowsub.lm.nf4 import dequantize_, matrix_modules, quantized_blocks
from knowsub.lm.score import score
from knowsub.masks.ablation import all_matrices, plain_blocks
from tests.architectures import ALIKE, CONFIGS, tiny
from tests.discovery import test_setup as setup
from tests.discovery.setting import options
from tests.downstream import setting as downstream
from tests.downstream.setting import word_tokenizer
from tests.lm.setting import folder_of, small_tokenizer, statements, toy_tokenizer, wide

pytest.importorskip("bitsandbytes", reason="the extra nf4 is not installed")

TOKENS = torch.arange(1, 9)[None]
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 values of nf4: Dettmers et al. 2023, appendix E."""


def in_nf4(whole: Path, out: Path, blocks: str = "lower_half", dtype: str = "float32") -> Path:
    """Write the model of a folder with blocks in nf4; return the manifest beside the new folder."""
    out.mkdir()
    files, known = find_pretrained(str(whole), "", blocks, dtype, out / "model", out)
    opened = load_model(files.folder, dtype=dtype)
    return write_manifest(out / "model.json", manifest(*opened, files.path, "") | known)


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix rounded to nf4 by its definition: 64 weights in a row share a scale."""
    flat, levels = weight.float().flatten(), torch.tensor(LEVELS)
    result = torch.empty_like(flat)
    for start in range(0, len(flat), 64):
        part = flat[start : start + 64]
        scale = part.abs().max()
        nearest = (part[:, None] / scale - levels).abs().argmin(dim=1)
        result[start : start + 64] = levels[nearest] * scale
    return result.view(weight.shape)


def rounded_by_hand(kind: str) -> PreTrainedModel:
    """Return a tiny model whose lower half is rounded to nf4 in plain numbers."""
    model = tiny(kind)
    for name in matrix_modules(model, range(block_count(model) // 2)):
        weight = model.get_submodule(name).get_parameter("weight")
        weight.copy_(rounded(weight))
    return model


LINEAR = [
    pytest.param(kind, marks=() if kind in CONFIGS else pytest.mark.slow)
    for kind in sorted(CONFIGS | ALIKE)
    if kind != "gpt2"
]


@pytest.mark.parametrize("kind", LINEAR)
def test_the_lower_half_computes_with_nf4_as_it_is_defined(kind: str, tmp_path: Path) -> None:
    model, _ = open_model(in_nf4(folder_of(kind, tmp_path / "whole"), tmp_path / "out"))
    by_hand = rounded_by_hand(kind)
    batch = Batch(TOKENS, torch.ones_like(TOKENS, dtype=torch.bool))
    for first in (2, 4):
        expected = cache_lower_states(by_hand, first, batch).lower_states
        states = cache_lower_states(model, first, batch).lower_states
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)
    original = cache_lower_states(tiny(kind), 2, batch).lower_states
    assert float((states - original).abs().max()) > 0.01  # and it is another model


@pytest.mark.parametrize("kind", LINEAR)
def test_every_other_weight_is_the_original_bit_for_bit(kind: str, tmp_path: Path) -> None:
    model, _ = open_model(in_nf4(folder_of(kind, tmp_path / "whole"), tmp_path / "out"))
    original = tiny(kind)
    packed = {f"{name}.weight" for name in matrix_modules(model, range(2))}
    for name, parameter in model.named_parameters():
        assert (parameter.dtype is torch.uint8) == (name in packed), name
        if name not in packed:
            assert torch.equal(parameter, original.get_parameter(name)), name
    assert quantized_blocks(model) == [0, 1]
    assert plain_blocks(model) == [2, 3]
    for matrix in maskable_matrices(model):
        assert torch.equal(
            matrix.view(model.get_parameter(matrix.parameter)),
            matrix.view(original.get_parameter(matrix.parameter)),
        )


def test_a_weight_in_nf4_takes_half_a_byte_and_a_sixteenth_of_its_scale(tmp_path: Path) -> None:
    model, _ = open_model(in_nf4(folder_of("llama", tmp_path / "whole"), tmp_path / "out"))
    module: Any = model.get_submodule("model.layers.0.mlp.up_proj")
    assert module.weight.nbytes + module.weight.quant_state.absmax.nbytes == 24 * 16 * (
        1 / 2 + 4 / 64
    )
    assert model.num_parameters() == tiny("llama").num_parameters()


def test_bfloat16_blocks_stay_bfloat16(tmp_path: Path) -> None:
    file = in_nf4(folder_of("llama", tmp_path / "whole"), tmp_path / "out", dtype="bfloat16")
    model, _ = open_model(file)
    matrices = maskable_matrices(model)
    assert {model.get_parameter(m.parameter).dtype for m in matrices} == {torch.bfloat16}
    assert json.loads(file.read_text())["dtype"] == "bfloat16"
    assert torch.isfinite(model(input_ids=TOKENS).logits).all()


def test_no_mask_is_of_a_block_in_nf4(tmp_path: Path) -> None:
    model, _ = open_model(in_nf4(folder_of("llama", tmp_path / "whole"), tmp_path / "out"))
    assert {matrix.block for matrix in all_matrices(model)} == {-1, 2, 3}
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.q_proj\.weight is quantized"):
        maskable_matrices(model, range(1, 4))


def test_the_manifest_names_the_blocks_and_the_original(tmp_path: Path) -> None:
    whole = folder_of("llama", tmp_path / "whole")
    (whole / "README.md").write_text("---\nlicense: mit\n---\n")
    entry = json.loads(in_nf4(whole, tmp_path / "out", "0-1").read_text())
    assert entry["nf4"] == {"source": str(whole), "revision": "", "blocks": [0, 1]}
    assert entry["config"]["quantization_config"]["bnb_4bit_quant_type"] == "nf4"
    assert entry["path"] == "model"
    assert entry["parameters"] == tiny("llama").num_parameters()
    assert (tmp_path / "out/model/README.md").is_file()
    assert not (tmp_path / "out/model.full").exists()


def test_a_mask_of_the_one_model_is_refused_on_the_other(tmp_path: Path) -> None:
    whole = folder_of("llama", tmp_path / "whole")
    original, quantized = load_model(whole), open_model(in_nf4(whole, tmp_path / "out"))
    with pytest.raises(ValueError, match=r"the mask belongs to model .*: another "):
        require_made_for(identity(*quantized), *original)
    with pytest.raises(ValueError, match=r"the mask belongs to model .*: another "):
        require_made_for(identity(*original), *quantized)
    require_made_for(identity(*quantized), *quantized)


def test_the_fingerprint_sees_codes_and_scales(tmp_path: Path) -> None:
    file = in_nf4(folder_of("llama", tmp_path / "whole"), tmp_path / "out")
    model, _ = open_model(file)
    before = fingerprint(model)
    model(input_ids=TOKENS)
    assert fingerprint(model) == before
    assert fingerprint(load_model(file.parent / "model", dtype="bfloat16")[0]) == before
    weight: Any = model.get_submodule("model.layers.0.mlp.up_proj").get_parameter("weight")
    weight.quant_state.absmax[2] *= 1.5
    assert fingerprint(model) != before
    weight.quant_state.absmax[2] /= 1.5
    assert fingerprint(model) == before
    weight.data[3] ^= 1
    assert fingerprint(model) != before


def test_a_written_model_holds_plain_numbers_that_compute_the_same(tmp_path: Path) -> None:
    model, _ = open_model(in_nf4(folder_of("llama", tmp_path / "whole"), tmp_path / "out"))
    expected = model(input_ids=TOKENS).logits
    blocks = dequantize_(model)
    card = ModelCard("whole", "", "0" * 64, "birds", 1, 9, {}, nf4_blocks=blocks)
    export_model(model, small_tokenizer(), tmp_path / "plain", card)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert not hasattr(plain.config, "quantization_config")
    torch.testing.assert_close(plain(input_ids=TOKENS).logits, expected)
    assert (
        "in blocks 0, 1 as nf4 (4 bits) rounds them" in (tmp_path / "plain/README.md").read_text()
    )
    assert dequantize_(tiny("llama")) == []


def test_gpt2_is_refused_because_it_stores_its_matrices_transposed(tmp_path: Path) -> None:
    whole = folder_of("gpt2", tmp_path / "whole")
    assert isinstance(tiny("gpt2").get_submodule("transformer.h.0.mlp.c_fc"), Conv1D)
    with pytest.raises(ValueError, match=r"^pretrain\.nf4_blocks: not for model type 'gpt2'"):
        in_nf4(whole, tmp_path / "out")


def test_blocks_beyond_the_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^pretrain\.nf4_blocks: 0-9 reaches beyond the model's 4"
    ):
        in_nf4(folder_of("llama", tmp_path / "whole"), tmp_path / "out", "0-9")


def test_without_the_extra_one_line_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = folder_of("llama", tmp_path / "whole")
    in_nf4(whole, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for act in (lambda: load_model(tmp_path / "out/model"), lambda: in_nf4(whole, tmp_path / "b")):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'knowsub\[nf4\]'"):
            act()


def test_other_quantizations_are_refused(tmp_path: Path) -> None:
    whole = folder_of("llama", tmp_path / "whole")
    config = json.loads((whole / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (whole / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"quantized \(fp8\); allowed: plain weights, or nf4"):
        load_model(whole)


def test_a_scale_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    in_nf4(folder_of("llama", tmp_path / "whole"), tmp_path / "out")
    path = tmp_path / "out/model/model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight.absmax"][0] = float("inf")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"up_proj\.weight are not finite"):
        load_model(tmp_path / "out/model")


def searched(model: PreTrainedModel) -> tuple[torch.Tensor, Any]:
    """Return the bits of a search of a few steps in the upper half of a model, and the search."""
    tokenizer, text = toy_tokenizer(), setup.TEXT
    model_options = options(block_tokens=8, suppression=Suppression.UNIFORM)
    search = SearchModel(model, tokenizer, model_options)
    trainer, validate = build_search(search, setup.STATEMENTS, text, text, seed=0)
    return find_subnetwork(trainer, validate).bits, trainer


def test_a_search_finds_the_mask_of_the_rounded_model(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    wide("llama").save_pretrained(whole)
    toy_tokenizer().save_pretrained(whole)
    model, _ = open_model(in_nf4(whole, tmp_path / "out"))
    rounded_model, _ = load_model(whole)
    for name in matrix_modules(rounded_model, range(2)):
        weight = rounded_model.get_submodule(name).get_parameter("weight")
        weight.copy_(rounded(weight))
    bits, trainer = searched(model)
    assert 0 < int(bits.sum()) < bits.numel()
    assert {matrix.block for matrix in trainer.gates.matrices} == {2, 3}
    assert torch.equal(bits, searched(rounded_model)[0])
    lower: list[Any] = [model.get_submodule(name) for name in matrix_modules(model, range(2))]
    assert all(each.weight.is_meta and each.quant_state.absmax.is_meta for each in lower)


def test_low_rank_updates_learn_next_to_nf4_and_change_none_of_it(tmp_path: Path) -> None:
    wide("llama").save_pretrained(tmp_path / "whole")
    toy_tokenizer().save_pretrained(tmp_path / "whole")
    model, tokenizer = open_model(in_nf4(tmp_path / "whole", tmp_path / "out"))
    before, batch = fingerprint(model), encode_statements(tokenizer, statements(), 24)
    (tuned,) = finetune(model, batch, Finetuning(0.02, 0, RelearningMethod.LORA), [20])
    assert score(tuned, batch).perplexity < 0.8 * score(model, batch).perplexity
    assert fingerprint(tuned) == fingerprint(model) == before
    names = [name for name, each in tuned.named_modules() if hasattr(each, "lora_A")]
    assert names == matrix_modules(model, range(4))
    updates = [tuned.get_submodule(name).lora_B[ADAPTER].weight for name in names]
    assert all(bool((each != 0).any()) for each in updates)  # those of the blocks in nf4 as well


def test_a_model_is_finetuned_above_nf4_and_shares_the_rest(tmp_path: Path) -> None:
    model, _ = open_model(in_nf4(folder_of("llama", tmp_path / "whole"), tmp_path / "out"))
    chosen = downstream.options(trainable_blocks=TrainableBlocks.ALL)
    mask = downstream.random_mask(model)
    before = fingerprint(model)
    context = FinetuneContext(model, word_tokenizer(), {"remaining": mask}, chosen)
    encoded = context.encode(downstream.questions())
    (train,) = context.cache(encoded)
    lora = context.choice_model("remaining", Adaptation.LORA, 0, train)
    loss = torch.nn.functional.cross_entropy(lora.logits(train), train.answer)
    loss.backward()
    assert all(each.grad is not None for each in lora.trained)
    assert len(lora.trained) == 2 * len(matrix_modules(model, range(4)))
    base = lora.model.get_submodule("model.layers.0.mlp.up_proj").base_layer
    own = model.get_submodule("model.layers.0.mlp.up_proj")
    assert base.weight.data_ptr() == own.weight.data_ptr()
    assert fingerprint(model) == before
