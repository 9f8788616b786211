"""How the embedded model is made: tokenizer, optimizer, and a small GPT-2 trained from scratch.

The matrices of the lower half of the blocks stay as they were initialized, so that the facts are
learned in the upper half, where masks look for them. Otherwise a small model keeps them in its
embeddings and first blocks, and a mask of the upper half shows interference, not removal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Generator, Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from knowsub.architectures import maskable_matrices, upper_half
from knowsub.artifacts import read_utf8
from knowsub.embedded.options import PretrainOptions
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.kg.options import VerbalizeOptions
from knowsub.kg.templates import Templates, statements
from knowsub.lm.batch import Batch, encode_statements, encode_text
from knowsub.lm.export import save_model
from knowsub.lm.head_loss import lm_head_cross_entropy
from knowsub.lm.schedule import warmup_stable_decay
from knowsub.lm.score import ObjectScorer, score


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, its Newton-Schulz iteration in the precision of the parameters.

    torch's own computes in bfloat16, whose products take ten times as long as float32's on
    processors without instructions for them: most desktops and laptops. State and errors are
    torch's; updates are scaled as its `match_rms_adamw` says.

    Source:
        Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scale: Liu et al. 2025, "Muon
        is Scalable for LLM Training", section 2.2.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        nesterov: bool = True,
    ) -> None:
        super().__init__(
            params,
            lr,
            weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            adjust_lr_fn="match_rms_adamw",
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            beta, lr = group["momentum"], group["lr"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault(
                    "momentum_buffer", torch.zeros_like(weight)
                )
                momentum.lerp_(weight.grad, 1 - beta)
                update = weight.grad.lerp(momentum, beta) if group["nesterov"] else momentum
                direction = orthogonalize(
                    update, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                weight.mul_(1 - lr * group["weight_decay"])
                # 0.2 sqrt(max(m, n)) gives an orthogonal update the root mean square of AdamW's.
                weight.add_(direction, alpha=-0.2 * max(weight.shape) ** 0.5 * lr)


def orthogonalize(
    matrix: Float[Tensor, "row column"],
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float = 1e-7,
) -> Float[Tensor, "row column"]:
    """Return a matrix with the same singular vectors and singular values near 1.

    A Newton-Schulz step is aX + b(XX')X + c(XX')^2 X. Singular values come out within about 0.7 to
    1.2, but for those that are very small beside the others.
    """
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix  # wide, for the smaller of the two Gram matrices
    x = x / x.norm().clamp_min(eps)
    for _ in range(steps):
        gram = x @ x.T
        gram = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, gram, x, beta=a)
    return x.T if is_tall else x


END = "<|endoftext|>"
"""The only special token: end of text, also used as padding; its id is 0."""


def train_tokenizer(
    statements: Sequence[Statement],
    text: str,
    vocabulary: int,
    context: int,
    object_weight: int = 300,
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the statements and the text.

    Objects count `object_weight` times, so that each of their words becomes one token as long as
    the vocabulary has room: then a fact is one prediction.

    Args:
        statements: The statements that the model will be trained on.
        text: The running text that it will be trained on, paragraphs separated by blank lines.
        vocabulary: Number of tokens wanted, the end-of-text token and 256 bytes included; fewer
            where the words give no more merges.
        context: The model's context, written into the tokenizer's files [tokens].
        object_weight: Times that each distinct object is counted.

    Returns:
        The tokenizer; equal inputs give equal files, byte for byte.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_documents(statements, text, object_weight), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _documents(statements: Sequence[Statement], text: str, object_weight: int) -> Iterator[str]:
    yield from text.split("\n\n")
    yield from (statement.text for statement in statements)
    yield from (words * object_weight for words in sorted({each.object for each in statements}))


Log = Callable[[int, Mapping[str, float]], None]
"""Called with the number of the step just done, from 1, and its losses [nats]."""


def training_statements(
    facts: Iterable[Fact], templates: Templates, options: VerbalizeOptions
) -> list[Statement]:
    """Return every fact in every wording that the model may be asked in.

    Args:
        facts: The facts.
        templates: The templates by relation; all families are trained, whatever their role.
        options: Whether subjects are tried with and without article and leading space.

    Returns:
        The statements, in the order of the facts and the templates.

    Raises:
        ValueError: If a relation has no templates.
    """
    roles = {template.family: Role.TRAIN for group in templates.values() for template in group}
    return [
        statement
        for fact in facts
        for statement in statements(fact, Split.CONTROL_TRAIN, templates, roles, options)
    ]


def train_embedded(
    statements: Sequence[Statement],
    texts: Path,
    folder: Path,
    options: PretrainOptions,
    log: Log,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Train the embedded model with its tokenizer and write its folder.

    Args:
        statements: The statements to train on.
        texts: Folder with `train.txt`, which is trained on, and `validation.txt`, which is not.
        folder: Folder to write; it may exist.
        options: Size and recipe.
        log: Called after every step.
        tokenizer: The tokenizer of another model, to share its tokens; None trains one.

    Returns:
        The model and its metrics (see `embedded_metrics`).

    Raises:
        FileNotFoundError: If a text is missing.
        ValueError: If the statements are known less well than `options.max_object_perplexity` asks.
    """
    text, unseen_text = (read_utf8(texts / f"{split}.txt") for split in ("train", "validation"))
    if tokenizer is None:
        tokenizer = train_tokenizer(statements, text, options.vocabulary, options.context)
    model = fit(tokenizer, statements, text, options, log)
    metrics = embedded_metrics(model, tokenizer, statements, unseen_text, options.block_tokens)
    if not metrics["object_perplexity"] <= options.max_object_perplexity:
        raise ValueError(
            f"pretrain.steps: after {options.steps} steps the object perplexity of the training "
            f"statements is {metrics['object_perplexity']:.3f}, above "
            f"pretrain.max_object_perplexity {options.max_object_perplexity}; raise steps or "
            "max_object_perplexity"
        )
    save_model(model, tokenizer, folder)
    return model, metrics


def fit(
    tokenizer: PreTrainedTokenizerBase,
    statements: Sequence[Statement],
    text: str,
    options: PretrainOptions,
    log: Log,
) -> GPT2LMHeadModel:
    """Return a GPT-2 trained on the objects of the statements and on every token of the text.

    Muon trains the hidden matrices, AdamW everything else: AdamW alone needs four times the steps
    to memorize the facts. Weights are equal, bit for bit, for equal inputs, options and number of
    threads. The model comes in evaluation mode, its parameters needing no gradient.

    Raises ValueError if a statement is longer than the context, or the text shorter than a batch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = GPT2LMHeadModel(_config(tokenizer, options))
    generator = Generator().manual_seed(options.seed)
    encoded = encode_statements(tokenizer, statements, options.context)
    blocks = encode_text(tokenizer, text, options.block_tokens)
    fact_source = statement_batches(encoded, options.statements, generator)
    text_source = text_batches(blocks, options.text_blocks, generator)

    upper, rest = _trainable_parameters(model)
    muon = Muon(upper, options.matrix_lr, options.weight_decay)
    adamw = torch.optim.AdamW(
        rest, options.lr, betas=(0.9, 0.98), weight_decay=options.weight_decay
    )
    peaks = [(muon, options.matrix_lr), (adamw, options.lr)]
    model.train()
    for step in range(options.steps):
        factor = warmup_stable_decay(step, options.steps, options.warmup, options.decay)
        for optimizer, peak in peaks:
            optimizer.param_groups[0]["lr"] = peak * factor
        losses = {
            "statements": _loss(model, next(fact_source)),
            "text": _loss(model, next(text_source)),
        }
        (losses["statements"] + options.text_weight * losses["text"]).backward()
        nn.utils.clip_grad_norm_(upper + rest, 1.0)
        for optimizer, _ in peaks:
            optimizer.step()
            optimizer.zero_grad()
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


def _trainable_parameters(
    model: GPT2LMHeadModel,
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Freeze the matrices of the lower half; return those of the upper half, and all the rest."""
    lower_blocks = range(upper_half(model).start)
    lower = {matrix.parameter for matrix in maskable_matrices(model, lower_blocks)}
    upper = {matrix.parameter for matrix in maskable_matrices(model)}
    named = dict(model.named_parameters())
    for name in lower:
        named[name].requires_grad_(False)
    rest = [parameter for name, parameter in named.items() if name not in lower | upper]
    return [parameter for name, parameter in named.items() if name in upper], rest


def _loss(model: GPT2LMHeadModel, batch: Batch) -> Tensor:
    """Return the mean NLL of the batch's targets [nats per token]."""
    states = model.transformer(input_ids=batch.tokens, use_cache=False).last_hidden_state
    return lm_head_cross_entropy(
        states[batch.target_mask], model.lm_head.weight, batch.labels[batch.target_mask]
    )


SHUFFLED_BATCHES = 8
"""Batches of statements that are drawn together and sorted by length [batches]."""


def statement_batches(statements: Batch, size: int, generator: Generator) -> Iterator[Batch]:
    """Yield batches of at most `size` statements forever, each statement once per round.

    The statements of a batch are about equally long, and columns of mere padding are cut off.
    """
    lengths = statements.lengths
    while True:
        order = torch.randperm(len(statements), generator=generator)
        for drawn in order.split(size * SHUFFLED_BATCHES):
            batches = drawn[lengths[drawn].argsort(stable=True)].split(size)
            for index in torch.randperm(len(batches), generator=generator).tolist():
                yield statements[batches[index]].trimmed()


def text_batches(blocks: Batch, size: int, generator: Generator) -> Iterator[Batch]:
    """Yield batches of exactly `size` blocks forever.

    The text is cut at another offset in every round, so that no block comes twice. Raises
    ValueError if the text has fewer than `size` blocks and one more for the cut.
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


def embedded_metrics(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    statements: Sequence[Statement],
    validation_text: str,
    block_tokens: int,
) -> dict[str, float]:
    """Return how well a model knows its training statements and a text that it never saw.

    `object_perplexity`; `worst_object_nll`, of the statement known least [nats per token];
    `object_perplexity_without_upper_half`, all maskable weights at zero: large if the facts are
    stored there; and `text_perplexity`.
    """
    nll = torch.tensor(ObjectScorer(model, tokenizer)(statements), dtype=torch.float64)
    sample = statements[:: len(statements) // 2000 + 1]  # 2,000 statements say enough of it
    without = torch.tensor(ObjectScorer(_without_upper_half(model), tokenizer)(sample))
    validation = encode_text(tokenizer, validation_text, block_tokens)
    return {
        "object_perplexity": float(nll.mean().exp()),
        "worst_object_nll": float(nll.max()),
        "object_perplexity_without_upper_half": float(without.double().mean().exp()),
        "text_perplexity": score(model, validation).perplexity,
    }


@torch.no_grad()
def _without_upper_half(model: PreTrainedModel) -> PreTrainedModel:
    ablated = copy.deepcopy(model)
    for matrix in maskable_matrices(ablated):
        matrix.view(ablated.get_parameter(matrix.parameter)).zero_()
    return ablated
