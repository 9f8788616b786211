from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import BertConfig, BertModel

from knowsub.lm.identity import fingerprint, identity
from knowsub.lm.load import (
    context_length,
    load_model,
    manifest,
    open_model,
    read_manifest,
    resolve_model,
)
from tests.architectures import CONFIGS, CONTEXT, tiny
from tests.lm.setting import folder_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_manifest(folder: Path, path: str) -> Path:
    """Write the manifest of a folder's model beside it."""
    file = folder.parent / "model.json"
    file.write_text(json.dumps(manifest(*load_model(folder), path, "")))
    return file


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_every_family_opens_from_its_folder(kind: str, tmp_path: Path) -> None:
    model, tokenizer = load_model(folder_of(kind, tmp_path))
    assert fingerprint(model) == fingerprint(tiny(kind))
    assert context_length(model) == CONTEXT
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer("A robin")["input_ids"]


def test_weights_come_in_the_number_format_asked_for(tmp_path: Path) -> None:
    model, _ = load_model(folder_of("llama", tmp_path), dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert fingerprint(model) != fingerprint(tiny("llama"))


def test_a_fingerprint_sees_a_single_weight_and_nothing_else() -> None:
    model = tiny("gpt2")
    before = fingerprint(model)
    model.train()
    assert fingerprint(model) == before
    model.get_parameter("transformer.h.1.mlp.c_fc.weight")[3, 5] += 1e-6
    assert fingerprint(model) != before


def test_a_manifest_leads_back_to_the_model_beside_it(tmp_path: Path) -> None:
    file = write_manifest(folder_of("gpt2", tmp_path / "model"), "model")
    model, tokenizer = open_model(file)
    assert identity(model, tokenizer) == read_manifest(file)["fingerprint"]
    assert read_manifest(file)["architecture"] == "gpt2"
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert fingerprint(open_model(moved / "model.json")[0]) == fingerprint(model)


def test_weights_other_than_those_of_the_manifest_are_refused(tmp_path: Path) -> None:
    file = write_manifest(folder_of("gpt2", tmp_path / "model"), "model")
    tiny("gpt2", seed=1).save_pretrained(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"model\.json: the weights in .* changed.*--single-item pretrain"
    ):
        open_model(file)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"scheme": 7}', '{"scheme": 1}'])
def test_an_invalid_manifest_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="not the manifest of a model"):
        read_manifest(file)


def test_a_missing_manifest_says_which_stage_writes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage pretrain first"):
        open_model(tmp_path / "model.json")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = folder_of("gpt2", tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(tiny("gpt2").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no safetensors in .*pytorch_model\.bin.*are refused"):
        load_model(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no model, it has no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{]")
    with pytest.raises(ValueError, match="not the configuration of a model"):
        load_model(tmp_path)


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'bert' is not in the table \(known: .*gpt2"):
        load_model(tmp_path)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = folder_of("gpt2", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    model = tiny("gpt2")
    model.get_parameter("transformer.h.2.mlp.c_fc.weight")[0, 0] = value
    folder = folder_of("gpt2", tmp_path)
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"h\.2\.mlp\.c_fc\.weight are not finite"):
        load_model(folder)


def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = folder_of("gpt2", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="could not be opened") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    folder = folder_of("gpt2", tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"n_layer": 5}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"weights of transformer\.h\.4\..* are missing"):
        load_model(folder)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device 'cuda:99' is not there"):
        load_model(folder_of("gpt2", tmp_path), device="cuda:99")


def test_a_local_folder_resolves_to_itself(tmp_path: Path) -> None:
    source = resolve_model(str(folder_of("opt", tmp_path)))
    assert source.folder == tmp_path.resolve()
    assert (source.path, source.revision) == (str(tmp_path.resolve()), "")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        resolve_model(name)


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of `someone/small` in a hub cache of its own, the hub out of reach."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--someone--small"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return folder_of("gpt2", folder / "snapshots" / COMMIT)


@pytest.mark.usefixtures("cached")
def test_a_hub_model_that_is_missing_offline_says_why_and_how_to_download_it() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        resolve_model("someone/other", "v2")
    assert str(caught.value) == (
        "model 'someone/other' at 'v2': no such folder, not in the local cache, and could not be "
        "downloaded (HF_HUB_OFFLINE is set); download it with `hf download someone/other "
        "--revision v2` or give the path of a folder"
    )


@pytest.mark.usefixtures("cached")
def test_a_hub_model_in_the_cache_is_found_offline_with_its_commit() -> None:
    source = resolve_model("someone/small")
    assert (source.path, source.revision) == ("someone/small", COMMIT)
    assert load_model(source.folder)


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
