"""Tiny, random, real models of every architecture in the table, made without a download."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

VOCAB, CONTEXT = 61, 24

_DECODER: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4,
    "num_attention_heads": 4, "max_position_embeddings": CONTEXT,
}  # fmt: skip
_GROUPED = _DECODER | {"num_key_value_heads": 2}
_GPT2 = {
    "vocab_size": VOCAB, "n_embd": 16, "n_layer": 4, "n_head": 4, "n_positions": CONTEXT,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_OPT = {
    "vocab_size": VOCAB, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 4,
    "num_attention_heads": 4, "max_position_embeddings": CONTEXT, "dropout": 0.0,
}  # fmt: skip
_GEMMA = _GROUPED | {
    "head_dim": 8, "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def _config(model_type: str, **values: Any) -> PretrainedConfig:
    return AutoConfig.for_model(model_type, **values)


CONFIGS: dict[str, PretrainedConfig] = {
    "bloom": _config("bloom", vocab_size=VOCAB, hidden_size=16, n_layer=4, n_head=4,
                     seq_length=CONTEXT, hidden_dropout=0.0, attention_dropout=0.0, **_SPECIAL),
    "gemma2": _config("gemma2", **_GEMMA, sliding_window=CONTEXT, final_logit_softcapping=3.0,
                      attn_logit_softcapping=2.0),
    "gemma3_text": _config("gemma3_text", **_GEMMA, sliding_window=CONTEXT),
    "gpt2": _config("gpt2", **_GPT2),
    "gpt_neox": _config("gpt_neox", **_DECODER),
    "llama": _config("llama", **_GROUPED),
    "opt": _config("opt", **_OPT, word_embed_proj_dim=16),
    "phi3": _config("phi3", **_GROUPED, **_SPECIAL),
}  # fmt: skip
"""One architecture for each thing that only some of them have: every test runs on these."""

ALIKE: dict[str, PretrainedConfig] = {
    "cohere": _config("cohere", **_GROUPED, **_SPECIAL, logit_scale=0.3, use_qk_norm=True),
    "cohere2": _config("cohere2", **_GROUPED, **_SPECIAL, logit_scale=0.3, sliding_window=4),
    "gemma": _config("gemma", **_GROUPED, head_dim=8),
    "glm": _config("glm", **_GROUPED, **_SPECIAL, head_dim=8),
    "gpt_neo": _config(
        "gpt_neo", vocab_size=VOCAB, hidden_size=16, num_layers=4, num_heads=4, window_size=4,
        attention_types=[[["global", "local"], 2]], max_position_embeddings=CONTEXT, **_SPECIAL,
    ),
    "gptj": _config("gptj", **_GPT2, rotary_dim=4),
    "granite": _config("granite", **_GROUPED, embedding_multiplier=3.0, logits_scaling=2.0,
                       residual_multiplier=0.6, attention_multiplier=0.4),
    "mistral": _config("mistral", **_GROUPED, sliding_window=None),
    "olmo": _config("olmo", **_GROUPED, **_SPECIAL),
    "olmo2": _config("olmo2", **_GROUPED, **_SPECIAL),
    "olmo3": _config("olmo3", **_GROUPED, **_SPECIAL, sliding_window=4),
    "phi": _config("phi", **_DECODER),
    "qwen2": _config("qwen2", **_GROUPED),
    "qwen3": _config("qwen3", **_GROUPED, head_dim=8),
    "smollm3": _config("smollm3", **_GROUPED, **_SPECIAL),
    "stablelm": _config(  # rotates a quarter of a head
        "stablelm", **_SPECIAL, use_qkv_bias=True,
        **(_DECODER | {"num_attention_heads": 2, "num_key_value_heads": 1}),
    ),
    "starcoder2": _config("starcoder2", **_GROUPED, **_SPECIAL, sliding_window=None),
}  # fmt: skip
"""The other architectures of the table: the sweep of `tests/test_sweep.py` runs on them too."""

EAGER = frozenset({"bloom", "gemma2", "gpt_neo", "gptj"})
"""Architectures without torch's fused attention."""

PACKABLE = sorted(CONFIGS.keys() - EAGER)
"""Those of `CONFIGS` whose sequences can share a row."""


def tiny(kind: str | PretrainedConfig, seed: int = 0, attention: str = "eager") -> PreTrainedModel:
    """Return a random model, its weights large enough for every part to matter."""
    torch.manual_seed(seed)
    # A model may change its own configuration.
    config = copy.deepcopy((CONFIGS | ALIKE)[kind] if isinstance(kind, str) else kind)
    attention = "eager" if config.model_type in EAGER else attention
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.3)
            else:  # biases and norms
                noise = torch.empty_like(parameter).normal_(0.0, 0.1, generator=generator)
                parameter.add_(noise)
    return model.requires_grad_(False)
