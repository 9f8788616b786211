"""Which model it is: weights, and the configuration and tokenizer that its numbers hang on too.

The same weights under another `rope_theta`, another norm's epsilon or another tokenizer give other
numbers without a word, so both are part of the fingerprint that manifests and masks carry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from knowsub.artifacts import other_model_error

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
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    dtype: torch.dtype | None = None,
) -> str:
    """Return the fingerprint of all that numbers hang on, its parts joined by hyphens.

    Args:
        model: The model, with or without adapters of `peft` on top.
        tokenizer: Its tokenizer; None leaves that part out, where none is at hand.
        dtype: The weights are cast to it first; None for their own.

    Returns:
        Fingerprints of the weights [64 hex digits], of the configuration and the tokenizer [16].
    """
    return "-".join([fingerprint(model, dtype), *_config_and_tokenizer(model, tokenizer)])


def require_made_for(
    made_for: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None = None,
    known: str = "",
) -> None:
    """Require that something was made for a model, in whatever dtype it was opened.

    A mask is of weights: bfloat16 weights are the same ones in float32, and float32 weights are
    rounded in the same way by everyone. All weights are hashed once, and once more per other dtype
    that they may have had; not at all if their fingerprint is known already.

    Args:
        made_for: The fingerprint that a mask was made for.
        model: The model, with or without adapters on top.
        tokenizer: Its tokenizer; None leaves that part out.
        known: A fingerprint that the model is known to have.

    Raises:
        ValueError: If it was made for another model; the message says what differs.
    """
    if known and not other_model_error(made_for, known):
        return
    others, dtypes = (
        _config_and_tokenizer(model, tokenizer),
        _other_dtypes(cast(torch.dtype, model.dtype)),
    )
    own = "-".join([fingerprint(model), *others])
    if not other_model_error(made_for, own):
        return
    if made_for.split("-")[1 : 1 + len(others)] == others:
        casts = ("-".join([fingerprint(model, dtype), *others]) for dtype in dtypes)
        if not all(other_model_error(made_for, cast) for cast in casts):
            return
    raise ValueError(other_model_error(made_for, own))


def _other_dtypes(dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """Return the dtypes in which weights may be the same ones; one half never gives the other."""
    halves = (torch.bfloat16, torch.float16)
    return (torch.float32,) if dtype in halves else halves


def _config_and_tokenizer(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    config = cast(PreTrainedConfig, model.config)
    return [config_digest(config), *([tokenizer_digest(tokenizer)] if tokenizer else [])]


def fingerprint(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """Return the SHA-256 over all parameters by sorted name, tied ones once.

    Weights in nf4 count as the codes and scales that are stored, which no dtype changes.
    What `peft` put on top of a model does not count: the wrapped model has its base's fingerprint.

    Args:
        model: The model.
        dtype: The parameters are cast to it first; None for their own.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(_own_parameters(model)):
        for suffix, tensor in parts_of(parameter).items():
            own = dtype or tensor.dtype if parameter.is_floating_point() else tensor.dtype
            stored = tensor.to(own).cpu().contiguous()
            digest.update(f"{name}{suffix} {stored.dtype} {tuple(stored.shape)}\n".encode())
            digest.update(stored.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parts_of(parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return a parameter's values under an empty name; of one in nf4 codes, and scales by name."""
    state = getattr(parameter, "quant_state", None)
    scales = state.as_dict().items() if state is not None else ()
    named = {f".{name}": scale for name, scale in scales if isinstance(scale, Tensor)}
    return {"": parameter.detach(), **named}


def without_adapters(model: nn.Module) -> nn.Module:
    """Return the model that `peft` has wrapped, its adapters in place; another one as it is."""
    if not hasattr(model, "get_base_model"):
        return model
    return cast(nn.Module, model.get_base_model())  # type: ignore[operator]


BENEATH = ("base_layer", "original_module")
"""Names that `peft` gives to a module that it wraps, whose place the wrapper takes."""


def _own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of a model without adapters, by the names that they have there."""
    inner = without_adapters(model)
    wrappers = {
        path
        for path, module in inner.named_modules()
        if any(name in BENEATH for name in module._modules)
    }
    for name, parameter in inner.named_parameters():
        path, kept = "", []
        for part in name.split("."):
            if path not in wrappers:
                kept.append(part)
            elif part not in BENEATH:
                break  # an adapter's
            path = f"{path}.{part}".lstrip(".")
        else:
            yield ".".join(kept), parameter


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
