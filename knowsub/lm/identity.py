"""What a model is beside its weights: the configuration and the tokenizer that its numbers hang on.

The same weights under another `rope_theta`, another norm's epsilon or another tokenizer give other
numbers without a word, so both are part of the fingerprint that manifests and masks carry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

NO_NUMBER = frozenset(
    {
        "_name_or_path", "_attn_implementation", "architectures", "bos_token_id", "dtype",
        "eos_token_id", "finetuning_task", "id2label", "initializer_range", "label2id",
        "output_attentions", "output_hidden_states", "pad_token_id", "prefix", "problem_type",
        "return_dict", "task_specific_params", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
"""Keys of a configuration that change no number of an opened model; the dtype stands elsewhere."""


def identity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    dtype: torch.dtype | None = None,
) -> str:
    """Return the fingerprint of all that numbers hang on, its parts joined by hyphens.

    Args:
        model: The model.
        tokenizer: Its tokenizer; None leaves that part out, where none is at hand.
        dtype: The weights are cast to it first; None for their own.

    Returns:
        Fingerprints of the weights [64 hex digits], of the configuration and the tokenizer [16].
    """
    return "-".join([fingerprint(model, dtype), *_beside_weights(model, tokenizer)])


def identity_for(
    made_for: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> str:
    """Return a model's fingerprint, in the dtype that something was made for if the weights fit.

    A mask is of weights, in whatever dtype they were loaded: bfloat16 weights are the same ones in
    float32, and float32 weights are rounded in the same way by everyone.

    Args:
        made_for: The fingerprint that a mask was made for.
        model: The model.
        tokenizer: Its tokenizer; None leaves that part out.

    Returns:
        The fingerprint with the same weights, cast if need be; the model's own if there is none.
    """
    beside = _beside_weights(model, tokenizer)
    own = fingerprint(model)
    others = (fingerprint(model, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16))
    wanted = made_for.partition("-")[0]
    weights = own if own == wanted else next((each for each in others if each == wanted), own)
    return "-".join([weights, *beside])


def _beside_weights(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    return [config_digest(model.config), *([tokenizer_digest(tokenizer)] if tokenizer else [])]


def fingerprint(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Return the SHA-256 over all parameters by sorted name, tied ones once.

    Args:
        model: The model.
        dtype: The parameters are cast to it first; None for their own.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        stored = parameter.detach().to(dtype or parameter.dtype).cpu().contiguous()
        digest.update(f"{name} {stored.dtype} {tuple(stored.shape)}\n".encode())
        digest.update(stored.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def config_values(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the values of a configuration that numbers hang on.

    Args:
        config: The model's configuration.

    Returns:
        Key -> value, as JSON can hold it.
    """
    values = {key: value for key, value in config.to_diff_dict().items() if key not in NO_NUMBER}
    known: dict[str, Any] = json.loads(json.dumps(values, sort_keys=True, default=str))
    return known


def config_digest(config: PreTrainedConfig) -> str:
    """Return a hash of the values that numbers hang on [16 hex digits]."""
    return _digest(config_values(config))


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of everything that decides how a text becomes tokens [16 hex digits].

    Args:
        tokenizer: The tokenizer; of a fast one all of its parts count, of another one its class,
            vocabulary and special tokens.

    Returns:
        The hash; whether a call pads or truncates does not change it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        parts: Any = [type(tokenizer).__name__, tokenizer.get_vocab()]
    else:
        parts = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    return _digest([parts, tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def differing_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one phrase per key that two configurations differ in: `rope_theta 1e4 -> 1e6`."""
    return [
        f"{key} {before.get(key, 'default')} -> {now.get(key, 'default')}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
