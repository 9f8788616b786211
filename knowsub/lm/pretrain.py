"""The embedded model: a small GPT-2 that learns facts and text from scratch, in about a minute.

The matrices of the lower half of the blocks stay as they were drawn, so that the facts settle in
the upper half, where masks look for them. Without this a small model keeps them in its embeddings
and first blocks, and what a mask of the upper half shows is interference, not removal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from knowsub.anatomy import sites, upper_half
from knowsub.kg.triple import Statement
from knowsub.lm.batches import statement_batches, text_batches
from knowsub.lm.encode import Batch, encode_statements, encode_text
from knowsub.lm.head_loss import head_loss
from knowsub.lm.muon import Muon
from knowsub.lm.options import PretrainOptions
from knowsub.lm.schedule import lr_factor

Log = Callable[[int, Mapping[str, float]], None]
"""Told the step just done, from 1, and its losses [nats]."""


def train_embedded(
    tokenizer: PreTrainedTokenizerBase,
    statements: Sequence[Statement],
    text: str,
    options: PretrainOptions,
    log: Log,
) -> GPT2LMHeadModel:
    """Return a GPT-2 that has learnt the statements' tails and the text.

    Muon trains the hidden matrices, AdamW everything else: AdamW alone needs four times the steps
    to memorise the facts.

    Args:
        tokenizer: Its tokenizer.
        statements: The statements, each fact in every wording that will be asked; only the tails
            are learnt.
        text: Running text, learnt at every position.
        options: Size and recipe.
        log: Told every step.

    Returns:
        The model in evaluation mode, its parameters needing no gradient; the same weights, bit for
        bit, for the same inputs, options and number of threads.

    Raises:
        ValueError: If a statement is longer than the context, or the text shorter than a batch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = GPT2LMHeadModel(_config(tokenizer, options))
    generator = torch.Generator().manual_seed(options.seed)
    told = encode_statements(tokenizer, statements, options.context)
    blocks = encode_text(tokenizer, text, options.block_tokens)
    facts = statement_batches(told, options.statements, generator)
    texts = text_batches(blocks, options.text_blocks, generator)
    upper, rest = _split_parameters(model)
    decay = options.weight_decay
    muon = Muon(upper, lr=options.matrix_lr, weight_decay=decay)
    adam = torch.optim.AdamW(rest, lr=options.lr, betas=(0.9, 0.98), weight_decay=decay)
    peaks = [(muon, options.matrix_lr), (adam, options.lr)]
    model.train()
    for step in range(options.steps):
        factor = lr_factor(step, options.steps, options.warmup, options.decay)
        for optimiser, peak in peaks:
            optimiser.param_groups[0]["lr"] = peak * factor
        losses = {"statements": _loss(model, next(facts)), "text": _loss(model, next(texts))}
        (losses["statements"] + options.text_weight * losses["text"]).backward()
        nn.utils.clip_grad_norm_(upper + rest, 1.0)
        for optimiser, _ in peaks:
            optimiser.step()
            optimiser.zero_grad()
        log(step + 1, {name: float(loss.detach()) for name, loss in losses.items()})
    model.requires_grad_(False).eval()
    return model


def _config(tokenizer: PreTrainedTokenizerBase, options: PretrainOptions) -> GPT2Config:
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=options.context,
        n_embd=options.width,
        n_layer=options.blocks,
        n_head=options.heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _split_parameters(model: GPT2LMHeadModel) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the matrices of the upper half and all the rest but those of the lower half."""
    lower = {site.parameter for site in sites(model, range(upper_half(model).start))}
    upper = {site.parameter for site in sites(model)}
    named = dict(model.named_parameters())
    for name in lower:
        named[name].requires_grad_(False)
    rest = [value for name, value in named.items() if name not in lower | upper]
    return [value for name, value in named.items() if name in upper], rest


def _loss(model: GPT2LMHeadModel, batch: Batch) -> Tensor:
    states = model.transformer(input_ids=batch.tokens, use_cache=False).last_hidden_state
    return head_loss(states[batch.reads], model.lm_head.weight, batch.labels[batch.reads])
