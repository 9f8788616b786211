"""The blocks of docs/recipes.md run as they stand where the package that they need is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from knowsub.cli.harness import write_task
from knowsub.kg.facts import write_statements
from knowsub.lm.identity import identity
from knowsub.masks.mask import Mask
from tests.evaluation.setting import built_model, fact_mask, statements, tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
NEEDED = ("", "", "peft", "", "transformer_lens", "lm_eval")
"""Package that each block needs beside the library."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model and the mask that the blocks name, in the working directory."""
    model, words = built_model(), tokenizer()
    words.eos_token = "unk"  # lm-evaluation-harness asks for one
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    mask = fact_mask(model, ["a0"])
    Mask(mask.bits, identity(model, words), {}).save(tmp_path / "mask.safetensors")
    write_statements(tmp_path / "building.n.01.jsonl", statements())
    write_task(tmp_path / "building.n.01.jsonl", tmp_path / "tasks", 4, 0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning:lm_eval")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(
    ("block", "package"),
    [
        pytest.param(*each, marks=pytest.mark.slow if each[1] == "lm_eval" else ())
        for each in zip(BLOCKS, NEEDED, strict=True)
    ],
    ids=("by itself", "search", "peft", "delta", *NEEDED[4:]),
)
def test_a_recipe_runs_as_it_stands(block: str, package: str, folder: Path) -> None:
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if '"gpt2"' in block:
        pytest.skip("the block names a model of the hub")
    names: dict[str, object] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    if "written" in names:
        written = names["written"]
        assert isinstance(written, torch.Tensor)
        assert written.shape == (1, 8)  # six words and two tokens
    if "plain" in names:
        plain, remaining = names["plain"], names["model"]
        assert isinstance(plain, PreTrainedModel)
        assert isinstance(remaining, PreTrainedModel)
        for name, weight in plain.named_parameters():
            assert weight.equal(remaining.get_parameter(name))
        assert not plain.get_parameter("transformer.h.1.mlp.c_proj.weight").equal(
            built_model().transformer.h[1].mlp.c_proj.weight
        )
    if package == "lm_eval":
        results = [names[name] for name in ("original", "remaining")]
        task = "knowsub_building_n_01"
        found = [each["results"][task]["acc,none"] for each in results]  # type: ignore[index]
        assert found[0] == 1.0
        assert 0.8 <= found[1] < 1.0  # one of five facts is gone
