from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from knowsub.discovery.options import Precision
from knowsub.discovery.teacher import cache_teacher, compared_tokens_only
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import cache_lower_states, last_hidden, upper_blocks
from knowsub.lm.head import lm_head
from tests.architectures import CONFIGS, VOCAB, tiny
from tests.discovery.setting import statements


def batches_of(kind: str) -> tuple[PreTrainedModel, dict[str, Batch]]:
    model = tiny(kind)
    encoded = {
        name: cache_lower_states(model, 2, statements(5, 7, seed))
        for seed, name in enumerate(("target", "control"))
    }
    return upper_blocks(model, 2), encoded


def compared(upper: PreTrainedModel, batches: dict[str, Batch], likeliest: int) -> torch.Tensor:
    """Return the tokens that occur, and the likeliest by the plain logits."""
    tokens = [batch.tokens.flatten() for batch in batches.values()]
    for batch in batches.values():
        logits = lm_head(upper)(last_hidden(upper, batch))[batch.target_mask]
        tokens.append(logits.sort(descending=True).indices[:, :likeliest].flatten())
    return torch.cat(tokens).unique()


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_logits_of_the_compared_tokens_are_those_of_the_whole_head(kind: str) -> None:
    upper, batches = batches_of(kind)
    part, renumbered = compared_tokens_only(upper, batches, 2)
    seen = compared(upper, batches, 2)
    assert len(compared(upper, batches, 0)) < len(seen)
    assert 1 < len(seen) < VOCAB
    states = last_hidden(upper, batches["target"])
    assert torch.equal(last_hidden(part, renumbered["target"]), states)
    whole = upper.get_output_embeddings()(states)
    torch.testing.assert_close(part.get_output_embeddings()(states), whole[..., seen])
    assert len(upper.get_output_embeddings().weight) == VOCAB
    for name, batch in batches.items():
        assert torch.equal(seen[renumbered[name].tokens], batch.tokens)
        assert torch.equal(seen[renumbered[name].labels[batch.target_mask]],
                           batch.labels[batch.target_mask])  # fmt: skip


def test_the_divergence_is_that_of_the_distributions_over_the_compared_tokens() -> None:
    upper, batches = batches_of("gpt2")
    part, renumbered = compared_tokens_only(upper, batches, 1)
    teacher = cache_teacher(part, renumbered["control"], Precision.FLOAT32)
    moved = last_hidden(upper, batches["control"])[batches["control"].target_mask] + 0.3
    actual = teacher.divergence(lm_head(part), moved, torch.arange(5))
    seen = compared(upper, batches, 1)
    head = upper.get_output_embeddings()
    original = last_hidden(upper, batches["control"])[batches["control"].target_mask]
    log_p = head(original)[:, seen].log_softmax(-1)
    log_q = head(moved)[:, seen].log_softmax(-1)
    expected = functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-4)
    assert expected > 0.1


def test_tokens_are_not_renumbered_before_the_lower_blocks_have_read_them() -> None:
    with pytest.raises(ValueError, match="after the lower states"):
        compared_tokens_only(upper_blocks(tiny("gpt2"), 2), {"target": statements(5, 7, 1)})
