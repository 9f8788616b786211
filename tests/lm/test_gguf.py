from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from knowsub.lm import gguf as reader
from knowsub.lm.gguf import dequantize, find_pretrained, read_header
from knowsub.lm.load import load_model, manifest, open_model
from tests.lm.setting import toy_tokenizer

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

WIDTH, HEADS, BLOCKS, INNER = 32, 2, 2, 64


def write_gguf(
    path: Path, architecture: str = "qwen2", without: str = "nothing"
) -> dict[str, np.ndarray]:
    """Write a tiny random model in Q8_0 and float32; return what its tensors stand for."""
    tokenizer = toy_tokenizer()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {
        "context_length": 24, "block_count": BLOCKS, "embedding_length": WIDTH,
        "feed_forward_length": INNER, "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS, "vocab_size": len(vocabulary),
    }.items():  # fmt: skip
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_float32(f"{architecture}.rope.freq_base", 10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in vocabulary])
    state = SimpleNamespace(**_bpe(tokenizer))
    writer.add_token_merges([" ".join(pair) for pair in state.merges])
    writer.add_token_types([1] * len(vocabulary))
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    numbers, generator = {}, np.random.default_rng(0)
    for name, shape in _shapes(len(vocabulary)).items():
        if without in name:
            continue
        exact = generator.normal(size=shape).astype(np.float32)
        if len(shape) == 2:
            packed = gguf.quantize(exact, gguf.GGMLQuantizationType.Q8_0)
            numbers[name] = gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            numbers[name] = exact
            writer.add_tensor(name, exact)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


def _bpe(tokenizer: Any) -> dict[str, Any]:
    import json

    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]  # type: ignore[no-any-return]


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, WIDTH),
        "output_norm.weight": (WIDTH,),
        "output.weight": (vocabulary, WIDTH),
    }
    for block in range(BLOCKS):
        own: dict[str, tuple[int, ...]] = {
            "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH, WIDTH),
            "attn_v": (WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER),
        }  # fmt: skip
        shapes |= {f"blk.{block}.{name}.weight": shape for name, shape in own.items()}
        shapes |= {f"blk.{block}.attn_{name}.bias": (WIDTH,) for name in "qkv"}
    return shapes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_gguf(path)


def test_the_folder_holds_exactly_the_numbers_that_the_file_stands_for(
    written: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    path, numbers = written
    files, origin = find_pretrained(
        str(path), "", "none", "float32", tmp_path / "out/model", tmp_path
    )
    pinned = manifest(*load_model(files.folder), files.path, files.revision) | origin
    stored = load_file(tmp_path / "out/model/model.safetensors")
    for ours, theirs in {
        "model.layers.1.self_attn.k_proj.weight": "blk.1.attn_k.weight",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }.items():
        assert stored[ours].dtype == torch.float32
        np.testing.assert_array_equal(stored[ours].numpy(), numbers[theirs])
    assert pinned["gguf"] == {
        "source": "tiny.gguf",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "quantization": "Q8_0",
    }
    (tmp_path / "out/model.json").write_text(__import__("json").dumps(pinned))
    model, tokenizer = open_model(tmp_path / "out/model.json")
    assert model.config.model_type == pinned["architecture"] == "qwen2"
    assert tokenizer("A robin").input_ids == toy_tokenizer()("A robin").input_ids


def test_a_file_is_dequantized_once(
    written: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = written
    first = dequantize(path, tmp_path / "a/model", tmp_path / "kept")
    monkeypatch.setattr(reader, "_convert", None)  # a second conversion would fail
    (tmp_path / "b").mkdir()
    assert dequantize(path, tmp_path / "b/model", tmp_path / "kept") == first
    names = {file.name for file in (tmp_path / "a/model").iterdir()}
    assert names == {file.name for file in (tmp_path / "b/model").iterdir()}


def test_the_header_says_architecture_type_and_number_of_weights(
    written: tuple[Path, dict[str, np.ndarray]],
) -> None:
    path, numbers = written
    header = read_header(path)
    assert (header.architecture, header.quantization) == ("qwen2", "Q8_0")
    assert header.weights == sum(values.size for values in numbers.values())


@pytest.mark.parametrize(
    "name", ["other", "lacking", "none", "damaged", "text", "hash", "form", "disk"]
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    written: tuple[Path, dict[str, np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    path, sha = written[0], ""
    if name == "other":
        path = tmp_path / "other.gguf"
        write_gguf(path, architecture="mamba9")
    if name == "lacking":
        path = tmp_path / "lacking.gguf"
        write_gguf(path, without="ffn_up")
    if name == "none":
        path = tmp_path / "none.gguf"
    if name == "damaged":
        path = tmp_path / "damaged.gguf"
        path.write_bytes(written[0].read_bytes()[:4000])
    if name == "text":
        path = tmp_path / "text.gguf"
        path.write_text("no model")
    if name == "disk":
        monkeypatch.setattr(reader.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    sha = {"hash": "0" * 64, "form": "main"}.get(name, "")
    expected = {
        "other": "could not be dequantized .*mamba9", "none": "no such file",
        "lacking": "the weights of .*up_proj.weight are missing",
        "damaged": "damaged GGUF file", "text": "does not begin with GGUF",
        "hash": "SHA-256 is .* asks for 0000", "form": "value 'main' is not allowed for a GGUF",
        "disk": "need 0.0 GB, .* 0.0 GB left",
    }[name]  # fmt: skip
    with pytest.raises((ValueError, OSError), match=expected) as refusal:
        dequantize(path, tmp_path / "out/model", tmp_path / "kept", sha)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_named(
    written: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"need the extra gguf; pip install"):
        dequantize(written[0], tmp_path / "out/model", tmp_path / "kept")
