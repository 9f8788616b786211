"""What tests of every room share: small real models without a download, a toy KG, a seed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DVC_NO_ANALYTICS"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
for name in [name for name in os.environ if name.startswith("DVC_") and name != "DVC_NO_ANALYTICS"]:
    del os.environ[name]
os.environ.pop("MLFLOW_TRACKING_URI", None)

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel, LlamaForCausalLM

    from knowsub.kg.facts import Fact

VOCABULARY, CONTEXT, WIDTH, BLOCKS, HEADS = 64, 32, 16, 4, 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of the network unless asked for, and of the GPU where there is none.

    The longest file comes first, so that no worker is left alone with it at the end.
    """
    items.sort(key=lambda item: "pipeline" not in item.path.parts)
    asked = "network" in str(config.getoption("-m"))
    for item in items:
        if item.get_closest_marker("network") and not asked:
            item.add_marker(pytest.mark.skip(reason="needs the network; run with -m network"))
        if item.get_closest_marker("gpu") and not _cuda():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def generator() -> torch.Generator:
    """A source of randomness that is the same in every test."""
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def tiny_gpt2() -> GPT2LMHeadModel:
    """A GPT-2 of four blocks with random weights, in evaluation mode."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=BLOCKS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def tiny_llama() -> LlamaForCausalLM:
    """A Llama of four blocks with random weights and one key head per two query heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def toy_kg() -> list[Fact]:
    """Eight facts of one relation with three tails."""
    from knowsub.kg.facts import Fact

    pairs = {
        "temple": ("ziggurat", "pagoda", "shrine"),
        "house": ("villa", "chalet", "bungalow"),
        "fruit": ("quince", "medlar"),
    }
    return [
        Fact(f"{head}.n.01", "hypernym", f"{tail}.n.01", head, tail)
        for tail, heads in pairs.items()
        for head in heads
    ]
