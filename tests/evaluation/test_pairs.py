import pytest
import torch

from knowsub.evaluation.context import PrefixEncoder, score_facts
from knowsub.evaluation.objects import ask, pair_nll
from knowsub.evaluation.robustness import without_lower_states
from knowsub.kg.facts import Fact, Role, Split, Statement
from knowsub.lm.blocks import upper_blocks
from tests.architectures import tiny
from tests.evaluation.setting import tokenizer


def told(prompt: str, tail: str) -> Statement:
    fact = Fact(prompt, "is", tail, prompt, tail)
    return Statement(fact, Split.TARGET, "kind", Role.TRAIN, prompt, tail)


@pytest.fixture(scope="module")
def reader() -> PrefixEncoder:
    return PrefixEncoder(tiny("gpt2"), tokenizer(), 2)


MIXED = [
    told("kind a0 b0 b1", " t0 t1"), told("a1", " t2"), told("sort a2", " t3 t4 t5"),
    told("kind a3", " t0"),
]  # fmt: skip


def test_scores_come_back_in_the_order_of_the_statements(reader: PrefixEncoder) -> None:
    together = score_facts(upper_blocks(reader.model, 2), reader.encode(MIXED))
    assert together.tokens.tolist() == [2, 1, 3, 1]
    for index, one in enumerate(MIXED):
        alone = score_facts(reader.model, without_lower_states(reader.encode([one])))
        assert together.nll[index] == pytest.approx(float(alone.nll[0]), rel=1e-4)
        assert together.rank[index] == alone.rank[0]


def test_pairs_of_any_length_agree_with_statements(reader: PrefixEncoder) -> None:
    tails = [" t0", " t1 t2", " t5"]
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(3))
    upper = upper_blocks(reader.model, 2)
    found = pair_nll(upper, ask(reader, MIXED, tails, grid))
    for (row, column), nll in zip(grid.tolist(), found.tolist(), strict=True):
        items = reader.encode([told(MIXED[row].prompt, tails[column])])
        assert nll == pytest.approx(float(score_facts(upper, items).mean_nll), rel=1e-4)


def test_means_over_facts_weigh_every_prompt_of_a_fact(reader: PrefixEncoder) -> None:
    items = reader.encode([told("a0", " t0"), told("a1", " t1"), told("a0", " t0")])
    assert items.per_fact(torch.tensor([1.0, 5.0, 2.0])).tolist() == [1.5, 5.0]
