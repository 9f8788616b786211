"""Whether a model says a fact where it writes freely, with nothing of the answer given.

All other metrics give the object's earlier tokens and read the likelihood of the next (teacher
forcing). A model could lose the first token of an answer and come to it some words later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig

from knowsub.evaluation.context import EncodedFacts, EvalContext, best_prompts
from knowsub.evaluation.metrics import Metrics
from knowsub.kg.words import comparable

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
            facts = context.encoder.encode(best_prompts(context.sets[name].statements, 1))
            written = map(_words, continuations(context, facts, tokens))
            pairs = zip(facts.statements, written, strict=True)
            said[name] = torch.tensor([float(_words(each.object) in text) for each, text in pairs])
    return said


def _words(text: str) -> str:
    """Return a text's words as they are compared, a blank before, between and after them."""
    kept = (mark if mark.isalnum() or mark in "'-" else " " for mark in comparable(text))
    return f" {' '.join(''.join(kept).split())} "


@torch.no_grad()
def continuations(context: EvalContext, facts: EncodedFacts, tokens: int) -> list[str]:
    """Return what the model writes after the prompt of each statement, in their order."""
    model: Any = context.encoder.model  # `generate` comes from a class that has no types
    tokenizer = context.encoder.tokenizer
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,  # masked before a prompt, cut off at the end of a text
        eos_token_id=tokenizer.eos_token_id,
    )
    texts = [""] * len(facts)
    for rows, batch in zip(facts.bucket_rows, facts.batches, strict=True):
        ends = batch.first_targets.int().argmax(dim=1) + 1  # tokens of each prompt
        for part in torch.arange(len(rows)).split(ROWS):
            width = int(ends[part].max())
            ids = torch.zeros(len(part), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, index in enumerate(part.tolist()):
                length = int(ends[index])
                ids[row, width - length :] = batch.tokens[index, :length]
                mask[row, width - length :] = 1
            written = model.generate(
                ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
            )
            decoded = tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
            for index, text in zip(part.tolist(), decoded, strict=True):
                texts[int(rows[index])] = text
    return texts
