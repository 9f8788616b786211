import pytest
import torch

from knowsub.evaluation.choice import swap_objects
from knowsub.evaluation.logit_lens import extracted, logit_lens_hits, projections, split_budget
from knowsub.evaluation.objects import relation_objects
from knowsub.lm.batch import Batch
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
    model, items = bench.encoder.model, bench.sets["target"]
    assert logit_lens_hits(model, items, 2).tolist() == [1.0] * 10
    with bench.ablated(fact_mask(model, [head for head in HEADS if head[0] == "a"])):
        assert logit_lens_hits(model, items, 2).sum() == 0


def test_the_floor_asks_for_tails_that_are_not_true() -> None:
    bench = built_bench("a")
    swapped = swap_objects(
        bench.encoder, bench.sets["target"], relation_objects(bench.statements), torch.Generator()
    )
    assert len(swapped) == 30
    own = {one.fact: one.object for one in bench.statements}
    assert all(one.object != own[one.fact] for one in swapped.statements)
