"""What a taught model knows, and where it keeps it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.anatomy import sites
from knowsub.kg.triple import Statement
from knowsub.lm.encode import encode_text
from knowsub.lm.score import score
from knowsub.lm.tails import TailScorer

SAMPLE = 2000
"""Statements at most that the model is asked without its upper half."""


def taught_figures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    statements: Sequence[Statement],
    text: str,
    block: int,
) -> dict[str, float]:
    """Return what a model knows of the statements it was taught and of a text it was not.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        statements: The taught statements.
        text: Text that it was not trained on.
        block: Length of a text block [tokens].

    Returns:
        `tail_perplexity`; `worst_tail_nll`, of the statement known least [nats per token];
        `tail_perplexity_without_upper_half`, all maskable weights at zero: large if the facts live
        there, computed on every n-th statement; and `text_perplexity`.

    Raises:
        ValueError: As in `encode_statements` and `encode_text`.
    """
    nll = torch.tensor(TailScorer(model, tokenizer)(statements), dtype=torch.float64)
    some = statements[:: len(statements) // SAMPLE + 1]
    without = torch.tensor(TailScorer(_without_upper_half(model), tokenizer)(some))
    return {
        "tail_perplexity": float(nll.mean().exp()),
        "worst_tail_nll": float(nll.max()),
        "tail_perplexity_without_upper_half": float(without.double().mean().exp()),
        "text_perplexity": score(model, encode_text(tokenizer, text, block)).perplexity,
    }


@torch.no_grad()
def _without_upper_half(model: PreTrainedModel) -> PreTrainedModel:
    bare = copy.deepcopy(model)
    for site in sites(bare):
        site.view(bare.get_parameter(site.parameter)).zero_()
    return bare
