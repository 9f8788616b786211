from dataclasses import replace

import pytest
import torch

from knowsub.evaluation.relearning import (
    RelearnedAccuracy,
    finetuned,
    folds,
    majority_baseline,
    relearning,
)
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import encode_statements
from knowsub.lm.load import fingerprint
from knowsub.lm.score import score
from tests.evaluation.setting import built_model, statements, tokenizer


def target() -> list[Statement]:
    return [one for one in statements("a") if one.split == Split.TARGET and one.role == Role.TRAIN]


def test_every_statement_is_asked_once_and_never_learned_in_its_fold() -> None:
    parts = folds(target(), 3, torch.Generator().manual_seed(0))
    asked = [one for part in parts for one in part.asked]
    assert sorted(one.prompt for one in asked) == sorted(one.prompt for one in target())
    for part in parts:
        learned = {one.fact.subject_words for one in part.learned}
        assert learned.isdisjoint({one.fact.subject_words for one in part.asked})
        assert len(part.learned) == len(learned)


def test_no_more_folds_than_heads() -> None:
    assert len(folds(target(), 9, torch.Generator())) == 5
    with pytest.raises(ValueError, match="at least two heads"):
        folds(target()[:2], 2, torch.Generator())


def test_recovery_is_the_share_of_what_was_lost() -> None:
    parts = folds(target(), 5, torch.Generator())
    found = relearning(
        RelearnedAccuracy(1.0, 0.9), RelearnedAccuracy(0.1, 0.5), RelearnedAccuracy(1.0, 1.0), parts
    )
    assert found.values["relearning_recovery"] == pytest.approx(0.4 / 0.8)
    nothing_lost = relearning(
        RelearnedAccuracy(1.0, 1.0),
        RelearnedAccuracy(0.97, 1.0),
        RelearnedAccuracy(1.0, 1.0),
        parts,
    )
    assert "relearning_recovery" not in nothing_lost.values
    assert "removal cost only" in nothing_lost.skipped["relearning_recovery"]


def test_guessing_the_commonest_tail_is_right_where_tails_are_shared() -> None:
    parts = folds(target(), 5, torch.Generator())
    assert majority_baseline(parts) == 0
    shared = [one for one in statements("g") if one.fact.object_words in ("t0", "t1")]
    assert majority_baseline(folds(shared, 2, torch.Generator())) <= 1


def test_finetuning_learns_and_leaves_the_model_alone() -> None:
    model = built_model()
    before = fingerprint(model)
    wrong = [replace(one, object=" t9") for one in target()]
    batch = encode_statements(tokenizer(), wrong, 16)
    tuned = finetuned(model, batch, 10, 0.1, torch.Generator().manual_seed(0))
    assert score(tuned, batch).perplexity < score(model, batch).perplexity / 2
    assert fingerprint(model) == before
    assert fingerprint(tuned) != before
