from dataclasses import replace

import pytest
import torch

from knowsub.evaluation.robustness import (
    RelearnedAccuracy,
    finetune_copy,
    majority_baseline,
    recovery,
    split_folds,
)
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import encode_statements
from knowsub.lm.load import fingerprint
from knowsub.lm.score import score
from tests.evaluation.setting import built_model, statements, tokenizer


def target() -> list[Statement]:
    return [s for s in statements("a") if s.split == Split.TARGET and s.role == Role.TRAIN]


def test_every_statement_is_tested_once_and_never_finetuned_on_in_its_fold() -> None:
    folds = split_folds(target(), 3, torch.Generator().manual_seed(0))
    tested = [s for fold in folds for s in fold.test]
    assert sorted(s.prompt for s in tested) == sorted(s.prompt for s in target())
    for fold in folds:
        finetuned_on = {s.fact.subject_words for s in fold.train}
        assert finetuned_on.isdisjoint({s.fact.subject_words for s in fold.test})
        assert len(fold.train) == len(finetuned_on)


def test_no_more_folds_than_subjects() -> None:
    assert len(split_folds(target(), 9, torch.Generator())) == 5
    with pytest.raises(ValueError, match="at least two subjects"):
        split_folds(target()[:2], 2, torch.Generator())


def test_recovery_is_the_share_of_what_was_lost() -> None:
    metrics = recovery(
        RelearnedAccuracy(1.0, 0.9), RelearnedAccuracy(0.1, 0.5), RelearnedAccuracy(1.0, 1.0)
    )
    assert metrics.values["relearning_recovery"] == pytest.approx(0.4 / 0.8)
    nothing_lost = recovery(
        RelearnedAccuracy(1.0, 1.0), RelearnedAccuracy(0.97, 1.0), RelearnedAccuracy(1.0, 1.0)
    )
    assert "relearning_recovery" not in nothing_lost.values
    assert "removal cost only" in nothing_lost.skipped["relearning_recovery"]


def test_the_commonest_object_is_right_where_objects_are_shared() -> None:
    assert majority_baseline(split_folds(target(), 5, torch.Generator())) == 0
    shared = [replace(s, object=" t0") for s in target()]
    assert majority_baseline(split_folds(shared, 2, torch.Generator())) == 1


def test_finetuning_learns_and_leaves_the_model_alone() -> None:
    model = built_model()
    before = fingerprint(model)
    wrong = [replace(s, object=" t9") for s in target()]
    batch = encode_statements(tokenizer(), wrong, 16)
    tuned = finetune_copy(model, batch, 10, 0.1, torch.Generator().manual_seed(0))
    assert score(tuned, batch).perplexity < score(model, batch).perplexity / 2
    assert fingerprint(model) == before
    assert fingerprint(tuned) != before
