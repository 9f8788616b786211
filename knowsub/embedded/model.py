"""The embedded model: a small GPT-2 trained from scratch on facts and text.

The matrices of the lower half of the blocks stay as they were drawn, so that the facts settle in
the upper half, where masks look for them. Without this a small model keeps them in its embeddings
and first blocks, and what a mask of the upper half shows is interference, not removal.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from knowsub.architectures import maskable_matrices, upper_half
from knowsub.embedded.muon import Muon
from knowsub.embedded.options import PretrainOptions
from knowsub.embedded.tokenizer import train_tokenizer
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.kg.options import VerbalizeOptions
from knowsub.kg.templates import SurfaceForms, Templates, statements
from knowsub.lm.batch import Batch, encode_statements, encode_text
from knowsub.lm.export import save_model
from knowsub.lm.head_loss import lm_head_cross_entropy
from knowsub.lm.schedule import warmup_stable_decay
from knowsub.lm.score import ObjectScorer, score

SHUFFLED = 8
"""Batches of statements that are drawn together and dealt out by length."""


def statement_batches(told: Batch, size: int, generator: Generator) -> Iterator[Batch]:
    """Yield statements for ever, each once per round, those of a batch about equally long.

    Args:
        told: All statements.
        size: Statements per batch; fewer where there are not so many.
        generator: Source of the order.

    Yields:
        Batches without columns of mere padding.
    """
    lengths = told.lengths
    while True:
        for drawn in torch.randperm(len(told), generator=generator).split(size * SHUFFLED):
            batches = drawn[lengths[drawn].argsort(stable=True)].split(size)
            for index in torch.randperm(len(batches), generator=generator).tolist():
                yield told[batches[index]].trimmed()


def text_batches(blocks: Batch, size: int, generator: Generator) -> Iterator[Batch]:
    """Yield blocks of text for ever, cut anew in every round so that no block comes twice.

    Args:
        blocks: The text in blocks, in order.
        size: Blocks per batch.
        generator: Source of order and cuts.

    Yields:
        Batches of exactly `size` blocks.

    Raises:
        ValueError: If the text has fewer blocks than `size` and one more for the cut.
    """
    tokens, length = blocks.tokens.flatten(), blocks.tokens.shape[1]
    if len(blocks) <= size:
        raise ValueError(
            f"text_blocks: value {size} is not allowed; the text has {len(blocks)} blocks, "
            "one is lost to the cut"
        )
    while True:
        start = int(torch.randint(length, (1,), generator=generator))
        count = (len(tokens) - start) // length
        rows = tokens[start : start + count * length].view(count, length)
        order = torch.randperm(count, generator=generator)
        for chosen in order[: count - count % size].split(size):
            yield Batch(rows[chosen], blocks.target_mask[:size])


SAMPLE = 2000
"""Statements at most that the model is asked without its upper half."""


def embedded_metrics(
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
    nll = torch.tensor(ObjectScorer(model, tokenizer)(statements), dtype=torch.float64)
    some = statements[:: len(statements) // SAMPLE + 1]
    without = torch.tensor(ObjectScorer(_without_upper_half(model), tokenizer)(some))
    return {
        "tail_perplexity": float(nll.mean().exp()),
        "worst_tail_nll": float(nll.max()),
        "tail_perplexity_without_upper_half": float(without.double().mean().exp()),
        "text_perplexity": score(model, encode_text(tokenizer, text, block)).perplexity,
    }


@torch.no_grad()
def _without_upper_half(model: PreTrainedModel) -> PreTrainedModel:
    bare = copy.deepcopy(model)
    for site in maskable_matrices(bare):
        site.view(bare.get_parameter(site.parameter)).zero_()
    return bare


Log = Callable[[int, Mapping[str, float]], None]
"""Told the step just done, from 1, and its losses [nats]."""


def fit(
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
        factor = warmup_stable_decay(step, options.steps, options.warmup, options.decay)
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
    lower = {site.parameter for site in maskable_matrices(model, range(upper_half(model).start))}
    upper = {site.parameter for site in maskable_matrices(model)}
    named = dict(model.named_parameters())
    for name in lower:
        named[name].requires_grad_(False)
    rest = [value for name, value in named.items() if name not in lower | upper]
    return [value for name, value in named.items() if name in upper], rest


def _loss(model: GPT2LMHeadModel, batch: Batch) -> Tensor:
    states = model.transformer(input_ids=batch.tokens, use_cache=False).last_hidden_state
    return lm_head_cross_entropy(
        states[batch.target_mask], model.lm_head.weight, batch.labels[batch.target_mask]
    )


def training_statements(
    rows: Path, templates: Templates, options: VerbalizeOptions
) -> list[Statement]:
    """Return every fact of a file in every wording that the model may be asked in.

    Args:
        rows: One fact per line, as JSON.
        templates: The templates by relation; all families are taught, whatever their role.
        options: Whether heads are tried with and without article and leading space.

    Returns:
        The statements, in the order of the facts and the templates.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a relation has no templates.
    """
    if not rows.is_file():
        raise FileNotFoundError(f"{rows}: no such file; run the stage prepare first")
    families = {one.family: Role.TRAIN for group in templates.values() for one in group}
    grid = SurfaceForms(options.article, options.bare, options.leading_space)
    return [
        statement
        for line in rows.read_text(encoding="utf-8").splitlines()
        for statement in statements(
            Fact(**json.loads(line)), Split.CONTROL_TRAIN, templates, families, grid
        )
    ]


def train_embedded(
    told: Sequence[Statement], text: Path, folder: Path, options: PretrainOptions, log: Log
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Train the embedded model with its tokenizer and write its folder.

    Args:
        told: The statements to be learnt.
        text: Folder with `train.txt`, which is learnt, and `validation.txt`, which is not.
        folder: Folder to write; it may exist.
        options: Size and recipe.
        log: Told every step.

    Returns:
        The model, and what it knows (see `taught_figures`).

    Raises:
        FileNotFoundError: If a text is missing.
        ValueError: If the statements are known less well than `options.max_object_perplexity` asks.
    """
    learnt, unseen = (_read(text / f"{part}.txt") for part in ("train", "validation"))
    tokenizer = train_tokenizer(told, learnt, options.vocabulary, options.context)
    model = fit(tokenizer, told, learnt, options, log)
    figures = embedded_metrics(model, tokenizer, told, unseen, options.block_tokens)
    if not figures["tail_perplexity"] <= options.max_object_perplexity:
        raise ValueError(
            f"pretrain.steps: after {options.steps} steps the tail perplexity of the taught "
            f"statements is {figures['tail_perplexity']:.3f}, above pretrain.max_object_perplexity "
            f"{options.max_object_perplexity}; raise steps or max_object_perplexity"
        )
    save_model(model, tokenizer, folder)
    return model, figures


def _read(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run the stage prepare first")
    return path.read_text(encoding="utf-8")
