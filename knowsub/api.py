"""The library by one import: open a model, read a mask, remove it, search for one.

    import knowsub

    model, tokenizer = knowsub.load("data/pretrain/model.json")
    mask = knowsub.Mask.load("data/train/building.n.01-0/mask.safetensors")
    with knowsub.ablated(model, mask):
        ...  # model(...), model.generate(...), lm-eval: all see the remaining model

A path may be text. What is here only joins other rooms; `import knowsub` imports none of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.analysis.placement import head_counts, implied_matrices
from knowsub.architectures import MaskableMatrix
from knowsub.discovery import setup, trainer
from knowsub.discovery.options import TrainOptions
from knowsub.kg.build import hash_rank
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.identity import identity, require_made_for, without_adapters
from knowsub.lm.load import load_model, open_model, resolve_model
from knowsub.masks.ablation import ablate_, all_matrices, applied, remaining_weights
from knowsub.masks.mask import Mask

if TYPE_CHECKING:
    from knowsub.report.plots import Figure

Pair = tuple[str, str]
"""A prompt and the object that follows it: `("The capital of France is", "Paris")`."""


def load(
    model: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str = "",
    chat: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a model and its tokenizer, checked.

    Args:
        model: A `model.json` of the pipeline, a Hugging Face folder, or a hub id such as `gpt2`.
        device: `cpu`, `cuda`, `cuda:1` ...
        dtype: `float32`, `bfloat16` or `float16`; a `model.json` has its own.
        revision: Branch, tag or commit of a hub model; empty for its main branch.
        chat: Whether prompts are the user's turn of the model's chat template; `model.json` says it
            of its model.

    Returns:
        The model in evaluation mode, its parameters needing no gradient, and the tokenizer.

    Raises:
        FileNotFoundError: If there is no such model, here or on the hub.
        ValueError: If it cannot be opened, or is not the one that `model.json` names.
    """
    if str(model).endswith(".json"):
        return open_model(Path(model), device)
    return load_model(resolve_model(str(model), revision).folder, device, dtype, chat)


def ablated(model: nn.Module, mask: Mask, *, keep: bool = False) -> AbstractContextManager[None]:
    """Return a `with` block in which a model computes without a mask's weights.

    Args:
        model: The mask's model, in memory; one that `peft` has wrapped too.
        mask: The critical subnetwork.
        keep: If true, the subnetwork is kept and the other maskable weights are removed.

    Returns:
        The block; after it the model has its own weights again.

    Raises:
        ValueError: If the mask belongs to another model.
    """
    base, matrices = _checked(model, mask)
    return applied(base, remaining_weights(base, matrices, mask, keep=keep))


def remove(model: nn.Module, mask: Mask) -> None:
    """Set the weights of a mask to zero in a model, for good (errors: `ablated`)."""
    ablate_(*_checked(model, mask), mask)


def density(mask: Mask, by: str = "matrix") -> dict[str, float]:
    """Return the share of weights that a mask takes, per part of the model.

    Args:
        mask: Any mask.
        by: `matrix`, `block`, `module` or `head`.

    Returns:
        Name of the part -> weights of the mask over its maskable weights [fraction].

    Raises:
        ValueError: If there is no such part.
    """
    matrices = implied_matrices(mask)
    if by == "head":
        counts = head_counts(mask, matrices)
        return {name: members / weights for name, (_, weights, members) in counts.items()}
    names: dict[str, Callable[[MaskableMatrix], str]] = {
        "matrix": lambda matrix: matrix.name,
        "block": lambda matrix: f"block {matrix.block}",
        "module": lambda matrix: str(matrix.module_type),
    }
    if by not in names:
        raise ValueError(f"by: value {by!r} is not allowed; use {', '.join(names)} or head")
    totals: dict[str, list[int]] = {}
    for matrix in matrices:
        total = totals.setdefault(names[by](matrix), [0, 0])
        total[0] += int(mask.bits[matrix.name].sum())
        total[1] += matrix.size
    return {name: members / weights for name, (members, weights) in totals.items()}


def plot(mask: Mask) -> Figure:
    """Draw where a mask lies: the density of every matrix, by module type and block.

    Args:
        mask: Any mask.

    Returns:
        A figure of matplotlib; `figure.savefig("mask.png")` writes it.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ImportError("plot needs matplotlib: pip install 'knowsub[pipeline]'")
    from knowsub.report.plots import density_map, styled

    matrices = [matrix for matrix in implied_matrices(mask) if matrix.module_type]
    types = list(dict.fromkeys(str(matrix.module_type) for matrix in matrices))
    blocks = list(dict.fromkeys(str(matrix.block) for matrix in matrices))
    grid = np.full((len(types), len(blocks)), np.nan)
    for matrix in matrices:
        share = int(mask.bits[matrix.name].sum()) / matrix.size
        grid[types.index(str(matrix.module_type)), blocks.index(str(matrix.block))] = share
    figure = styled(lambda: density_map({mask.meta.get("target", "mask"): grid}, types, blocks))
    assert figure is not None
    return figure


def train_options(**changes: object) -> TrainOptions:
    """Return how a subnetwork is searched for: the section `train` of `params.yaml` as shipped.

    Args:
        **changes: Keys of that section with other values, such as `steps=200` or
            `suppression="uniform"`.

    Returns:
        The options.

    Raises:
        ValueError: If a key is unknown or a value is not allowed.
    """
    text = (files("knowsub") / "defaults/params.yaml").read_text(encoding="utf-8")
    values: dict[str, object] = yaml.safe_load(text)["train"]
    if unknown := sorted(changes.keys() - values.keys()):
        raise ValueError(f"{', '.join(unknown)}: not among {', '.join(values)}")
    try:
        # from JSON, whose strict mode takes text for an enum but no text for a number
        return TypeAdapter(TrainOptions).validate_json(json.dumps(values | changes), strict=True)
    except ValidationError as error:
        raise ValueError("; ".join(map(_mistake, error.errors()))) from None


def _mistake(error: ErrorDetails) -> str:
    """Return what is wrong with a value; what values together break says so itself."""
    key, reason = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    return f"{key}: value {error['input']!r} is not allowed: {reason}" if key else reason


def find_subnetwork(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Sequence[Pair],
    control: Sequence[Pair],
    text: str,
    options: TrainOptions | None = None,
    *,
    seed: int = 0,
    log: Callable[[Mapping[str, float]], None] = lambda metrics: None,
) -> Mask:
    """Search a model for the subnetwork of some facts, in memory.

    A fifth of the control pairs, and the last tenth of the text, choose the checkpoint and are not
    trained on. Nothing is tested: the pipeline holds a mask against random ones, paraphrases and
    ignorance.

    Args:
        model: The model, frozen; it has its own weights again afterwards.
        tokenizer: Its tokenizer.
        target: Prompts and objects to be forgotten.
        control: Prompts and objects to be kept, ten or more.
        text: Running text to be kept, a few thousand words.
        options: How to search, from `train_options`; None for its defaults.
        seed: Seed of the search.
        log: Takes the metrics of every step.

    Returns:
        The mask, with its model's fingerprint.

    Raises:
        ValueError: If there are too few pairs or too little text, one is longer than the context,
            or a loss is not finite.
    """
    held_out = sorted(
        range(len(control)), key=lambda i: hash_rank(str(control[i]), seed, "held out")
    )
    held_out = held_out[: max(1, len(control) // 5)]
    splits = [
        Split.CONTROL_VALIDATION if index in held_out else Split.CONTROL_TRAIN
        for index in range(len(control))
    ]
    statements = [_statement(pair, Split.TARGET, role) for pair in target for role in _SEARCHED]
    statements += [_statement(p, s, Role.TRAIN) for p, s in zip(control, splits, strict=True)]
    cut = len(text) * 9 // 10
    searched = setup.SearchModel(model, tokenizer, options or train_options())
    search = setup.build_trainer(searched, statements, text[:cut], seed)
    validate = setup.build_validation(searched, statements, text[cut:])
    found = trainer.find_subnetwork(search, validate, log)
    return search.gates.to_mask(found.bits, identity(model, tokenizer), {"method": "learned"})


_SEARCHED = (Role.TRAIN, Role.VALIDATION)


def _statement(pair: Pair, split: Split, role: Role) -> Statement:
    prompt, words = pair[0].rstrip(), pair[1].strip()
    fact = Fact(prompt, "", words, prompt, words)
    return Statement(fact, split, "", role, prompt, f" {words}")


def _checked(model: nn.Module, mask: Mask) -> tuple[nn.Module, tuple[MaskableMatrix, ...]]:
    """Return the model beneath adapters and its matrices (ValueError if the mask is another's)."""
    require_made_for(mask.model, model)
    base = without_adapters(model)
    return base, all_matrices(base)
