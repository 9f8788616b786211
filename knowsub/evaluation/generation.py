"""Whether a model says a fact where it writes freely, with nothing of the answer given.

All other metrics give the object's earlier tokens and read the likelihood of the next (teacher
forcing). A model could lose the first token of an answer and come to it some words later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from knowsub.evaluation.context import EvalContext, PrefixEncoder, best_prompts
from knowsub.evaluation.metrics import Metrics
from knowsub.kg.facts import Statement
from knowsub.kg.words import comparable
from knowsub.lm.batch import encode_statements
from knowsub.lm.load import context_length

SETS = ("target", "heldout", "neighborhood")
"""The sets whose facts are written about."""
ROWS = 64
"""Prompts per call of `generate`."""

Said = Mapping[str, Float[Tensor, " fact"]]
"""Set -> 1 for each fact whose object was said, else 0."""


def free_generation(context: EvalContext, original: Said, tokens: int) -> Metrics:
    """Return `<set>_generated` and `<set>_original_generated`, the shares of facts that are said.

    Args:
        context: The evaluation; the model's weights are as they are now.
        original: What the original model says; no set, no metric.
        tokens: Tokens written after each prompt.

    Returns:
        The shares [fraction].
    """
    metrics = Metrics()
    for name, said in (says_objects(context, tokens) if original else {}).items():
        metrics.add(f"{name}_generated", said)
        metrics.values[f"{name}_original_generated"] = float(original[name].mean())
    return metrics


def says_objects(context: EvalContext, tokens: int) -> Said:
    """Return for which facts the model, as it is now, writes the object after the best prompt.

    Greedy decoding, the likeliest token each time; the object has to occur as whole words, however
    it is spelled (`comparable`). With no token to write there is no set.
    """
    said = {}
    for name in SETS if tokens else ():
        if name in context.sets:
            statements = best_prompts(context.sets[name].statements, 1)
            written = map(_words, continuations(context.encoder, statements, tokens))
            pairs = zip(statements, written, strict=True)
            said[name] = torch.tensor([float(_words(each.object) in text) for each, text in pairs])
    return said


def _words(text: str) -> str:
    """Return a text's words as they are compared, a blank before, between and after them."""
    kept = (mark if mark.isalnum() or mark in "'-" else " " for mark in comparable(text))
    return f" {' '.join(''.join(kept).split())} "


@torch.no_grad()
def continuations(
    encoder: PrefixEncoder, statements: Sequence[Statement], tokens: int
) -> list[str]:
    """Return what the model writes after the prompt of each statement, in their order."""
    model: Any = encoder.model  # `generate` comes from a class that has no types
    tokenizer = encoder.tokenizer
    batch = encode_statements(tokenizer, statements, context_length(model))
    ends = batch.first_targets.int().argmax(dim=1) + 1  # tokens of each prompt
    prompts = [row[:end] for row, end in zip(batch.tokens, ends.tolist(), strict=True)]
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,  # masked before a prompt, cut off at the end of a text
        eos_token_id=tokenizer.eos_token_id,
    )
    texts: list[str] = []
    for part in (prompts[start : start + ROWS] for start in range(0, len(prompts), ROWS)):
        ids, mask = (
            pad_sequence(rows, batch_first=True, padding_side="left").to(model.device)
            for rows in (part, [torch.ones_like(prompt) for prompt in part])
        )
        written = model.generate(ids, attention_mask=mask, generation_config=config)
        texts += tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return texts
