"""Rivals of a mask: unlearning that changes weights, stopped at the damage that is given.

    search = SearchModel(model, tokenizer, train_options())
    found = unlearn(search, statements, validation_text, rival_options("npo"))
    with applied(model, found.weights):
        ...  # the model has unlearned

Each objective is a pure function of a few lines. All train the matrices that a mask covers, with
AdamW, on the statements of target and control facts that a search trains on, and on those of
neighborhood facts if asked. Damage is read on the validation's control facts; the last checkpoint
within the limit is what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, mse_loss
from transformers import PreTrainedModel

from knowsub.architectures import MaskableMatrix, ModuleType, block_count, maskable_matrices
from knowsub.discovery.setup import SearchModel, build_validation
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import last_hidden, lower_blocks, upper_blocks
from knowsub.lm.score import NotFiniteError, target_logits
from knowsub.masks.ablation import applied


class Method(StrEnum):
    """What is minimized."""

    GRADIENT_ASCENT = "gradient_ascent"
    GRADIENT_DIFFERENCE = "gradient_difference"
    NPO = "npo"
    RMU = "rmu"


def gradient_ascent(nll: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return E log p(object): the likelihood of what is to be forgotten falls [nats].

    Source: Jang et al. 2023 (arXiv 2210.01504). With the NLL of what is to be kept added it is the
    gradient difference, Liu et al. 2022 (arXiv 2203.12817).
    """
    return -nll.mean()


def negative_preference(
    nll: Float[Tensor, " batch"], reference: Float[Tensor, " batch"], beta: float
) -> Float[Tensor, ""]:
    """Return -(2 / beta) E log sigmoid(-beta log(p / p_original)) of objects, p = exp(-nll).

    As beta -> 0 its gradient is that of `gradient_ascent`; a statement far below its original
    likelihood counts no more. Source: Zhang et al. 2024 (arXiv 2404.05868), equation 3.
    """
    return -(2 / beta) * logsigmoid(beta * (nll - reference)).mean()


def misdirection(
    states: Float[Tensor, "target hidden"],
    direction: Float[Tensor, " hidden"],
    kept: Sequence[tuple[Float[Tensor, "_ hidden"], Float[Tensor, "_ hidden"]]],
    control_weight: float,
) -> Float[Tensor, ""]:
    """Return MSE of target states from a direction + weight * MSE of kept states from before.

    `kept` are the states of each set that is to stay, now and before; their MSEs are added.

    Source: Li et al. 2024 (arXiv 2403.03218), section 4. They take every position of a text; here
    it is those that predict an object, as target and control statements share the words before.
    """
    steered = mse_loss(states, direction.expand_as(states))
    return steered + control_weight * sum(mse_loss(now, before) for now, before in kept)


@dataclass(frozen=True)
class RivalOptions:
    """How a model unlearns; `rival_options` has values per method."""

    method: Method
    """What is minimized."""
    lr: float
    """Learning rate of AdamW, constant; no weight decay."""
    control_weight: float = 1.0
    """Coefficient of the control's NLL, or of RMU's MSE on the control's states (its alpha)."""
    beta: float = 0.1
    """NPO's inverse temperature."""
    steering: float = 20.0
    """Norm of RMU's direction (its c)."""
    block: int | None = None
    """0-based masked block whose output RMU steers; None for the middle of the masked ones."""
    steps: int = 200
    """Optimizer steps."""
    evaluate_every: int = 10
    """Steps between validations."""
    target_batch: int = 16
    """Target statements per step."""
    control_batch: int = 24
    """Control statements per step."""
    neighborhood_batch: int = 0
    """Neighborhood statements per step, kept as the control ones are; 0 leaves them out."""
    max_control_ratio: float = 1.02
    """Validation PPL ratio on control facts that a checkpoint may have."""

    def __post_init__(self) -> None:
        """Raise ValueError if a value is not allowed."""
        for name in ("lr", "beta", "steering", "steps", "evaluate_every", "target_batch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: value {getattr(self, name)!r} is not allowed; use > 0")
        if self.control_weight < 0 or self.control_batch < 1 or self.max_control_ratio < 1:
            raise ValueError("control_weight >= 0, control_batch >= 1, max_control_ratio >= 1")
        if self.neighborhood_batch < 0:
            raise ValueError(f"neighborhood_batch: value {self.neighborhood_batch} is below 0")


TUNED: Mapping[Method, Mapping[str, float]] = {
    Method.GRADIENT_ASCENT: {"lr": 1e-5},
    Method.GRADIENT_DIFFERENCE: {"lr": 1e-5},
    Method.NPO: {"lr": 1e-5},
    Method.RMU: {"lr": 1e-3, "control_weight": 1.0},
}
"""Method -> what is chosen on the validation of one target of the embedded default."""


def rival_options(method: str, **changes: object) -> RivalOptions:
    """Return how a model unlearns by a method, other values given by name.

    Raises ValueError if there is no such method or a value is not allowed, TypeError if there is no
    such name.
    """
    if method not in set(Method):
        raise ValueError(f"method: value {method!r} is not allowed; use {', '.join(Method)}")
    options = RivalOptions(Method(method), **TUNED[Method(method)])  # type: ignore[arg-type]
    return replace(options, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Unlearned:
    """Weights that have unlearned, and how they were found."""

    weights: dict[str, Tensor]
    """Parameter name -> tensor; the original's where no checkpoint stayed within the limit."""
    step: int
    """Steps that led to them, 0 for the original's."""
    validation: dict[str, float]
    """What `build_validation` says of them."""
    curve: list[dict[str, float]]
    """`step`, `loss` and the validation of every checkpoint."""


def unlearn(
    search: SearchModel,
    statements: Sequence[Statement],
    validation_text: str,
    options: RivalOptions,
    seed: int = 0,
    log: Callable[[Mapping[str, float]], None] = lambda metrics: None,
) -> Unlearned:
    """Return weights that forget the target facts at no more damage than the options allow.

    Training goes on for all steps, or until a loss is no number; the last checkpoint that is within
    the limit is kept, the one of most training. The model has its own weights again afterwards.

    Args:
        search: The model with the blocks and modules that are masked; its input embedding stays.
        statements: Statements of one target KG's facts in all splits and roles.
        validation_text: Text on which damage is read too, and does not choose.
        options: Objective, optimizer and limit.
        seed: Seed of the order of the statements and of RMU's direction.
        log: Takes each row of the curve.

    Returns:
        The weights of the kept checkpoint, and the curve.

    Raises:
        ValueError: If a set is empty, a statement is longer than the context, the text shorter than
            a block, or the model has no matrix that the method trains.
    """
    generator, model = torch.Generator().manual_seed(seed), search.model
    sizes = [options.target_batch, options.control_batch, options.neighborhood_batch]
    read = [(splits, size) for splits, size in zip(_TRAINED_ON, sizes, strict=True) if size]
    sets = [search.encode_statements(_chosen(statements, splits)) for splits, _ in read]
    validate = build_validation(search, statements, validation_text)
    matrices = trained_matrices(search, options)
    loss = _objective(search, sets, options, generator)
    shares = _trained_entries(model, matrices)
    weights = {n: model.get_parameter(n).detach().clone().requires_grad_() for n in shares}
    optimizer = torch.optim.AdamW(weights.values(), lr=options.lr, weight_decay=0.0)
    kept = Unlearned(_copies(weights), 0, validate(), [])
    with applied(model, weights):
        for step in range(1, options.steps + 1):
            drawn = [_draw(own, n, generator) for own, (_, n) in zip(sets, read, strict=True)]
            try:
                value = loss(drawn)
                _set_gradients(value, weights, shares)
                optimizer.step()
                if step % options.evaluate_every and step != options.steps:
                    continue
                validation = validate()
            except NotFiniteError:
                break
            kept.curve.append({"step": float(step), "loss": float(value.detach()), **validation})
            log(kept.curve[-1])
            if validation["control_ratio"] <= options.max_control_ratio:
                kept = Unlearned(_copies(weights), step, validation, kept.curve)
    return kept


_TRAINED_ON = (
    (Split.TARGET,),
    (Split.CONTROL_TRAIN, Split.CONTROL_TRAIN_UNKNOWN),
    (Split.NEIGHBORHOOD_TRAIN, Split.NEIGHBORHOOD_TRAIN_UNKNOWN),
)


def _chosen(statements: Sequence[Statement], splits: tuple[Split, ...]) -> list[Statement]:
    """Return the statements of some splits that a search trains on."""
    chosen = [each for each in statements if each.split in splits and each.role is Role.TRAIN]
    if not chosen:
        raise ValueError(f"no statement of split {splits[0]} and role {Role.TRAIN}")
    return chosen


def _draw(batch: Batch, count: int, generator: torch.Generator) -> Int[Tensor, " row"]:
    return torch.randperm(len(batch), generator=generator)[:count]


def _copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def trained_matrices(search: SearchModel, options: RivalOptions) -> list[MaskableMatrix]:
    """Return what a method trains: every maskable matrix of the masked blocks, by RMU few of them.

    RMU: the second matrix of the MLP in the steered block and the two before it, as far as they are
    masked. ValueError if there is none, or the block is not a masked one.
    """
    blocks = search.options.block_range(block_count(search.model))
    matrices = maskable_matrices(search.model, blocks, search.options.modules)
    if options.method is not Method.RMU:
        return list(matrices)
    last = _steered_block(search, options)
    near = [m for m in matrices if last - 2 <= m.block <= last]
    chosen = [m for m in near if m.module_type is ModuleType.MLP_OUT]
    if not chosen:
        masked = ", ".join(search.options.modules)
        raise ValueError(f"rmu trains mlp_out, which is not among {masked}")
    return chosen


def _steered_block(search: SearchModel, options: RivalOptions) -> int:
    blocks = search.options.block_range(block_count(search.model))
    block = blocks[(len(blocks) - 1) // 2] if options.block is None else options.block
    if block not in blocks:
        raise ValueError(f"block: value {block} is not among {blocks.start} to {blocks.stop - 1}")
    return block


def _trained_entries(
    model: PreTrainedModel, matrices: Sequence[MaskableMatrix]
) -> dict[str, Tensor]:
    """Return parameter name -> 1 where a matrix lies in it, 0 elsewhere (matrices can be fused)."""
    shares = {m.parameter: torch.zeros_like(model.get_parameter(m.parameter)) for m in matrices}
    for matrix in matrices:
        matrix.view(shares[matrix.parameter]).fill_(1.0)
    return shares


def _set_gradients(
    value: Tensor, weights: Mapping[str, Tensor], shares: Mapping[str, Tensor]
) -> None:
    """Set the gradient of the weights alone; other parameters of the model may need one too."""
    gradients = torch.autograd.grad(value, list(weights.values()))
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        weight.grad = gradient * shares[name]


def sequence_nll(upper: PreTrainedModel, batch: Batch) -> Float[Tensor, " batch"]:
    """Return the NLL of each statement's object, summed over its tokens [nats]."""
    _, logits, labels = next(target_logits(upper, batch, rows=len(batch)))
    rows = batch.target_mask.nonzero()[:, 0].to(logits.device)
    nll = cross_entropy(logits.float(), labels, reduction="none")
    return nll.new_zeros(len(batch)).index_add(0, rows, nll)


Objective = Callable[[Sequence[Int[Tensor, " row"]]], Tensor]
"""Rows of the target's statements and of each kept set's -> loss under the weights as they are."""


def _objective(
    search: SearchModel, sets: Sequence[Batch], options: RivalOptions, generator: torch.Generator
) -> Objective:
    """Return the loss of a method; the original weights must be in place when it is made.

    `sets` are the target's statements and each kept set's.
    """
    if options.method is Method.RMU:
        return _steering(search, sets, options, generator)
    upper, (target, *kept_sets) = search.upper, sets
    with torch.no_grad():
        rows = torch.arange(len(target)).split(options.target_batch)
        reference = torch.cat([sequence_nll(upper, target[own].trimmed()) for own in rows])

    def loss(drawn: Sequence[Tensor]) -> Tensor:
        nll = sequence_nll(upper, target[drawn[0]].trimmed())
        if options.method is Method.GRADIENT_ASCENT:
            return gradient_ascent(nll)
        rows = zip(kept_sets, drawn[1:], strict=True)
        kept = sum(sequence_nll(upper, own[held].trimmed()).mean() for own, held in rows)
        if options.method is Method.NPO:
            before = reference[drawn[0].to(reference.device)]
            forgotten = negative_preference(nll, before, options.beta)
        else:
            forgotten = gradient_ascent(nll)
        return forgotten + options.control_weight * kept

    return loss


def _steering(
    search: SearchModel, sets: Sequence[Batch], options: RivalOptions, generator: torch.Generator
) -> Objective:
    """Return RMU's loss, on the output of one block; nothing above it is computed."""
    target, *kept_sets = sets
    up_to_block = lower_blocks(search.model, _steered_block(search, options) + 1)
    part = upper_blocks(up_to_block, search.first_block)

    def states(batch: Batch) -> Tensor:
        return last_hidden(part, batch)[batch.target_mask]

    def by_statement(batch: Batch) -> tuple[Tensor, ...]:
        rows = torch.arange(len(batch)).split(options.control_batch)
        before = torch.cat([states(batch[own].trimmed()) for own in rows])
        parts: tuple[Tensor, ...] = before.split(batch.target_mask.sum(dim=1).tolist())
        return parts

    with torch.no_grad():
        originals = [by_statement(own) for own in kept_sets]
    # A unit vector of entries drawn from [0, 1), as theirs is.
    any_state = originals[0][0][0]
    unit = torch.nn.functional.normalize(torch.rand(len(any_state), generator=generator), dim=0)
    direction = options.steering * unit.to(any_state)

    def loss(drawn: Sequence[Tensor]) -> Tensor:
        steered = states(target[drawn[0]].trimmed())
        kept = [
            (states(own[held].trimmed()), torch.cat([before[row] for row in held.tolist()]))
            for own, before, held in zip(kept_sets, originals, drawn[1:], strict=True)
        ]
        return misdirection(steered, direction, kept, options.control_weight)

    return loss
