import pytest
import torch

from knowsub.evaluation.recall import swap_tails
from knowsub.evaluation.residual import extracted, projections, residual_hits, split_budget
from knowsub.evaluation.tails import known_tails
from knowsub.lm.encode import Batch
from tests.architectures import VOCAB, tiny
from tests.evaluation.setting import HEADS, built_bench, fact_mask


@pytest.mark.parametrize(("budget", "blocks"), [(20, 4), (20, 12), (20, 48), (1, 3)])
def test_the_budget_is_spent_and_no_more(budget: int, blocks: int) -> None:
    counts = split_budget(budget, blocks)
    assert sum(counts) == budget
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts)


def test_a_tail_seen_in_any_block_is_a_hit() -> None:
    lower = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    upper = torch.tensor([[0.0, 0.0, 5.0, 0.0], [9.0, 0.0, 0.0, 0.0]])
    tokens = torch.tensor([[0, 1, 2], [3, 0, 1]])
    found = extracted((lower, upper), tokens, 2)
    assert found.tolist() == [[True, False, True], [True, True, False]]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "opt"])
def test_the_last_block_says_what_the_model_says(kind: str) -> None:
    model = tiny(kind)
    tokens = torch.randint(1, VOCAB, (3, 6), generator=torch.Generator().manual_seed(0))
    reads = torch.zeros_like(tokens, dtype=torch.bool)
    reads[:, 3:5] = True
    with torch.no_grad():
        expected = model(input_ids=tokens).logits[:, 3]
    found = projections(model, Batch(tokens, reads))
    assert len(found) == 4
    assert torch.allclose(found[-1], expected, atol=1e-5)


def test_knowledge_is_read_off_the_original_and_gone_from_the_remaining_model() -> None:
    bench = built_bench("a")
    model, items = bench.reader.model, bench.sets["target"]
    assert residual_hits(model, items, 2).tolist() == [1.0] * 10
    with bench.removed(fact_mask(model, [head for head in HEADS if head[0] == "a"])):
        assert residual_hits(model, items, 2).sum() == 0


def test_the_floor_asks_for_tails_that_are_not_true() -> None:
    bench = built_bench("a")
    swapped = swap_tails(
        bench.reader, bench.sets["target"], known_tails(bench.statements), torch.Generator()
    )
    assert len(swapped) == 30
    own = {one.fact: one.tail for one in bench.statements}
    assert all(one.tail != own[one.fact] for one in swapped.statements)
