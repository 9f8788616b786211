"""The real size once: random weights in the shape of GPT-2 small, loaded, masked and scored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from knowsub.architectures import block_count, maskable_matrices
from knowsub.lm.batch import encode_statements
from knowsub.lm.identity import fingerprint
from knowsub.lm.load import context_length, load_model, manifest
from knowsub.lm.score import score
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import Mask
from tests.lm.setting import statement, toy_tokenizer

SMALL = 124_439_808
"""Parameters of GPT-2 small, the tied LM head counted once."""
MASKABLE = 42_467_328
"""Attention and MLP weights of its upper six blocks: the paper's 42.5M."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model folder of GPT-2 small's shape with a tiny tokenizer; half a gigabyte, not kept."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_model_of_gpt2_smalls_size_is_loaded_masked_and_scored(folder: Path) -> None:
    model, tokenizer = load_model(folder)
    assert manifest(model, tokenizer, "model", "")["parameters"] == SMALL
    matrices = maskable_matrices(model, range(block_count(model) // 2, block_count(model)))
    assert sum(matrix.size for matrix in matrices) == MASKABLE
    generator = torch.Generator().manual_seed(0)
    bits = {
        matrix.name: torch.rand(matrix.shape, generator=generator) < 0.02 for matrix in matrices
    }
    identity = fingerprint(model)
    mask = Mask(bits, identity, {})
    assert mask.sparsity == pytest.approx(0.98, abs=1e-3)
    wanted = statement("A ziggurat is a kind of", " temple")
    batch = encode_statements(tokenizer, [wanted], context_length(model))
    before = score(model, batch).mean_nll
    with ablated(model, matrices, mask):
        after = score(model, batch).mean_nll
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    assert torch.equal(score(model, batch).mean_nll, before)
    assert fingerprint(model) == identity
