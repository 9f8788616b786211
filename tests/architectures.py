"""Tiny, random, real models of every architecture in the table, made without a download."""

from __future__ import annotations

import copy

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCAB, CONTEXT = 61, 24

_DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = _DECODER | {"num_key_value_heads": 2}

CONFIGS: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=4, n_head=4, n_positions=CONTEXT,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    ),
    "gemma3_text": Gemma3TextConfig(
        **_GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=CONTEXT,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "gpt_neox": GPTNeoXConfig(**_DECODER),
    "llama": LlamaConfig(**_GROUPED),
    "mistral": MistralConfig(**_GROUPED, sliding_window=None),
    "qwen2": Qwen2Config(**_GROUPED),
    "qwen3": Qwen3Config(**_GROUPED, head_dim=8),
    "opt": OPTConfig(
        vocab_size=VOCAB, hidden_size=16, ffn_dim=24, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=CONTEXT, word_embed_proj_dim=16, dropout=0.0,
    ),
}  # fmt: skip


def tiny(kind: str | PretrainedConfig, seed: int = 0, attention: str = "eager") -> PreTrainedModel:
    """Return a random model, its weights large enough for every part to matter."""
    torch.manual_seed(seed)
    # A model may change its own configuration.
    config = copy.deepcopy(CONFIGS[kind] if isinstance(kind, str) else kind)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.3)
    return model.requires_grad_(False)
