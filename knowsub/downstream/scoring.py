"""How a model chooses: by a head over what its states say of a choice, or by likelihood alone.

Readout `match` takes the states that predict the tokens of a choice, times the output embeddings
of those tokens, element by element, averaged over the choice's tokens. With all weights of the
multiple-choice head equal it is the LM head, so the head learns which of the model's own evidence
for a choice to trust.

Readout `last` takes the state of the last token after prompt and choice, as the multiple-choice
head of GPT-2's double-heads model does. It needs a model whose states say how well the text just
read fits what came before; a model trained to predict tails only has no reason to: on the
embedded model the head then stays near .5 on other questions, whatever is removed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from knowsub.downstream.encode import Encoded
from knowsub.downstream.options import Readout
from knowsub.lm.trunk import last_hidden


class ChoiceHead(nn.Module):
    """A linear multiple-choice head: one score per choice, softmax over the choices.

    Its initial weights are normal of standard deviation 0.02, as in GPT-2.

    Args:
        scale: Standard deviation of each feature; features are divided by it, those that hardly
            vary by a tenth of the mean.
        generator: Source of the initial weights, on the CPU.
    """

    scale: Float[Tensor, " hidden"]

    def __init__(self, scale: Float[Tensor, " hidden"], generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("scale", scale.clamp_min(0.1 * float(scale.mean()) + 1e-12))
        initial = torch.empty(scale.shape).normal_(0.0, 0.02, generator=generator)
        self.weight = nn.Parameter(initial.to(scale))

    def forward(
        self, features: Float[Tensor, "question choice hidden"], encoded: Encoded
    ) -> Float[Tensor, "question choice"]:
        """Return the logit of every choice; those that a question lacks get -inf."""
        scores = (features / self.scale) @ self.weight
        return scores.masked_fill(~encoded.exists, -torch.inf)


def states(
    model: PreTrainedModel, encoded: Encoded
) -> Float[Tensor, "question choice token hidden"]:
    """Return the final states at the positions where choices are read.

    Args:
        model: The model, or its upper part where the batch carries trunk states.
        encoded: The questions.

    Returns:
        The states; those beyond a choice's tokens mean nothing.
    """
    hidden = last_hidden(model, encoded.batch)
    return hidden[encoded.row[..., None], encoded.position]


def features(
    model: PreTrainedModel, encoded: Encoded, readout: Readout
) -> Float[Tensor, "question choice hidden"]:
    """Return what the multiple-choice head reads of every choice.

    Args:
        model: The model, or its upper part where the batch carries trunk states.
        encoded: The questions, encoded for the same readout.
        readout: What is read.

    Returns:
        One vector per choice; zero for a choice that a question lacks.
    """
    if encoded.features is not None:
        return encoded.features
    read = states(model, encoded)
    if readout is Readout.MATCH:
        read = read * _embeddings(model).weight[encoded.token]
    used = encoded.used[..., None]
    return (read * used).sum(dim=2) / used.sum(dim=2).clamp_min(1)


@torch.no_grad()
def all_features(
    model: PreTrainedModel, encoded: Encoded, readout: Readout, questions: int = 256
) -> Encoded:
    """Return questions with what the head reads of them, computed `questions` at a time."""
    parts = [features(model, encoded[index], readout) for index in pieces(encoded, questions)]
    return encoded.with_features(torch.cat(parts))


@torch.no_grad()
def choice_nll(
    model: PreTrainedModel, encoded: Encoded, questions: int = 64
) -> Float[Tensor, "question choice"]:
    """Return what a model without any head makes of every choice.

    Args:
        model: The model, or its upper part where the batch carries trunk states.
        encoded: The questions, encoded for readout `match`.
        questions: Questions per forward pass.

    Returns:
        NLL of each choice after its prompt [nats per token]; inf for a choice that does not
        exist. The least is the model's answer.
    """
    head, parts = _embeddings(model), []
    for index in pieces(encoded, questions):
        part = encoded[index]
        read, back = _distinct(part)
        hidden = last_hidden(model, part.batch)[read[:, 0], read[:, 1]]
        logits = torch.log_softmax(head(hidden).float(), dim=-1)
        nll = -logits[back, part.token[part.used]]
        table = torch.zeros(part.used.shape, device=nll.device)
        table[part.used] = nll
        mean = table.sum(dim=2) / part.used.sum(dim=2).clamp_min(1)
        parts.append(mean.masked_fill(~part.exists, torch.inf))
    return torch.cat(parts)


def pieces(encoded: Encoded, questions: int) -> tuple[Int[Tensor, " question"], ...]:
    """Return the indices of the questions in runs of at most `questions`."""
    return torch.split(torch.arange(len(encoded), device=encoded.answer.device), questions)


def _embeddings(model: PreTrainedModel) -> nn.Linear:
    head: nn.Linear = model.get_output_embeddings()
    return head


def _distinct(encoded: Encoded) -> tuple[Int[Tensor, "place 2"], Int[Tensor, " read"]]:
    """Return the distinct (sequence, position) pairs read, and for each read its pair."""
    rows = encoded.row[..., None].expand_as(encoded.position)[encoded.used]
    places = torch.stack([rows, encoded.position[encoded.used]], dim=1)
    read, back = torch.unique(places, dim=0, return_inverse=True)
    return read, back
