"""What makes a removal hold: that neither states nor embeddings tell the target's subjects apart.

A removal that only hides the answers leaves the states in which they differ from subject to
subject, and a few steps of finetuning on some facts read the answers to the others off them again.
Where every target subject leaves the same states, there is nothing left to be read, whatever is
finetuned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowsub.kg.facts import Fact, Statement
from knowsub.lm.batch import Batch, to_device_of
from knowsub.masks.ablation import EMBEDDING
from knowsub.masks.gates import Gates


def family_rows(statements: Sequence[Statement]) -> tuple[Int[Tensor, " row"], ...]:
    """Return the rows of the statements of each template family that has at least two."""
    rows: dict[str, list[int]] = {}
    for row, statement in enumerate(statements):
        rows.setdefault(statement.family, []).append(row)
    return tuple(torch.tensor(members) for members in rows.values() if len(members) > 1)


def spread(model: PreTrainedModel, batch: Batch) -> Float[Tensor, " block"]:
    """Return, for each block, how far the states of several statements lie from their mean.

    That is the mean square distance from the mean of the outputs of the block at the last position
    of the prompt; the last block's are taken after the final norm.

    Args:
        model: The whole model, or its upper part where the batch has cached lower states.
        batch: Statements of one template family, at least two.

    Returns:
        One value per block.
    """
    device_of = next(model.parameters())
    if batch.lower_states is None:
        inputs = {"input_ids": to_device_of(batch.tokens, device_of)}
    else:
        inputs = {"inputs_embeds": to_device_of(batch.lower_states, device_of)}
    outputs = model.base_model(**inputs, use_cache=False, output_hidden_states=True)
    prompt_end = to_device_of(batch.first_targets, device_of)
    states = torch.stack([block[prompt_end] for block in outputs.hidden_states[1:]])
    centered = (states - states.mean(dim=1, keepdim=True)).float()  # (block, statement, hidden)
    return centered.square().sum(dim=2).mean(dim=1)


class Distinction:
    """The spread of the target's states under the mask, over that of the original model.

    Args:
        upper: The upper blocks of the original model, its weights in place.
        target: The target statements.
        families: Rows of the statements of each template family.
        size: Statements per step.

    Raises:
        ValueError: If no template family has two statements.
    """

    def __init__(
        self,
        upper: PreTrainedModel,
        target: Batch,
        families: Sequence[Int[Tensor, " row"]],
        size: int,
    ) -> None:
        if not families:
            raise ValueError(
                "train.distinction_weight: no template family has two target statements; use 0"
            )
        self.target, self.families, self.size = target, families, size
        with torch.no_grad():
            self.original = [spread(upper, target[rows].trimmed()) for rows in families]

    def draw(self, order: torch.Generator) -> Int[Tensor, " row"]:
        """Return rows of statements of one template family, drawn without replacement."""
        rows = self.families[int(torch.randint(len(self.families), (1,), generator=order))]
        return rows[torch.randperm(len(rows), generator=order)[: self.size]]

    def loss(self, upper: PreTrainedModel, rows: Int[Tensor, " row"]) -> Float[Tensor, ""]:
        """Return the mean over the blocks of the spread over the original's: 1 as in the original.

        It is 0 if and only if all the statements, rows from `draw`, leave the same states.
        """
        (family,) = [i for i, own in enumerate(self.families) if bool((own == rows[0]).any())]
        return (spread(upper, self.target[rows].trimmed()) / self.original[family]).mean()


# Own rows. A fact comes back after a few steps of finetuning as long as the embeddings tell its
# subject from others. Entries that are set to zero one by one leave the rest of a row, and the rest
# is enough, so the rows of the target's own tokens go whole: those that no prompt of a preserved
# fact has. The search reads and removes entries of them as of others until the noise begins to
# fall. Without them from the start, it would take more from what other facts share; without them at
# the end alone, it would not see what a prompt without its subject answers.


def in_prompt(batch: Batch) -> Bool[Tensor, "statement position"]:
    """Return the positions that are read before the first target position, and at it."""
    return (batch.target_mask.cumsum(dim=1) == 0) | batch.first_targets


def prompt_tokens(batch: Batch) -> Int[Tensor, " token"]:
    """Return the distinct tokens of the prompts, on the CPU."""
    tokens: Tensor = batch.tokens[in_prompt(batch)].unique()
    return tokens.cpu()


def own_tokens(target: Batch, preserved: Iterable[Batch]) -> Int[Tensor, " token"]:
    """Return the tokens of the target's prompts that no prompt of a preserved fact has."""
    tokens = prompt_tokens(target)
    others = torch.cat([prompt_tokens(batch) for batch in preserved])
    return tokens[~torch.isin(tokens, others)]


def facts_with(
    statements: Sequence[Statement], batch: Batch, tokens: Int[Tensor, " token"]
) -> frozenset[Fact]:
    """Return the facts that have a statement whose prompt has one of some tokens.

    Args:
        statements: Statements.
        batch: The same, encoded.
        tokens: Tokens, such as `own_tokens` returns.

    Returns:
        The facts of the rows that have one.
    """
    rows = (torch.isin(batch.tokens, tokens.to(batch.tokens)) & in_prompt(batch)).any(dim=1)
    return frozenset(statements[row].fact for row in rows.nonzero().flatten().tolist())


@torch.no_grad()
def close_rows(
    gates: Gates, target: Batch, own: Int[Tensor, " token"]
) -> Int[Tensor, " gate"] | None:
    """Close the gates of all tokens that no target statement has, for good.

    A logit of minus infinity has no probability, no noise and no gradient.

    Args:
        gates: The gates, the embedding's among them.
        target: The target statements.
        own: The target's own tokens; see `own_tokens`.

    Returns:
        The gates of the target's own tokens, to be opened for good later. None where a gate covers
        a whole dimension of the embedding; those stay as they are.
    """
    (embedding,) = [each for each in gates.slices if each.matrix.name == EMBEDDING]
    if embedding.shape[0] == 1:
        return None
    unused = torch.ones(embedding.shape[0], dtype=torch.bool)
    unused[target.tokens.unique().cpu()] = False
    embedding.take(gates.logits)[to_device_of(unused, gates.logits)] = -torch.inf
    indices = torch.arange(embedding.start, embedding.start + embedding.size)
    return to_device_of(indices.view(embedding.shape)[own].flatten(), gates.logits)
