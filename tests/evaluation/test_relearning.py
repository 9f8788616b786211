from dataclasses import replace

import pytest
import torch

from knowsub.evaluation.context import EvalContext
from knowsub.evaluation.options import RelearningData, RelearningMethod
from knowsub.evaluation.relearning import (
    Curve,
    Finetuning,
    build_lessons,
    excess,
    finetune,
    relearning_curve,
    relearning_curves,
    split_folds,
    without,
)
from knowsub.evaluation.robustness import RelearnedAccuracy, majority_baseline, recovery
from knowsub.kg.facts import Role, Split, Statement
from knowsub.lm.batch import encode_statements
from knowsub.lm.identity import fingerprint
from knowsub.lm.score import score
from tests.evaluation.setting import (
    built_context,
    built_model,
    fact_mask,
    options,
    statements,
    tokenizer,
)


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


@pytest.mark.parametrize("method", RelearningMethod)
def test_finetuning_learns_and_leaves_the_model_alone(method: RelearningMethod) -> None:
    model = built_model()
    before = fingerprint(model)
    wrong = [replace(s, object=" t9") for s in target()]
    batch = encode_statements(tokenizer(), wrong, 16)
    (tuned,) = finetune(model, batch, Finetuning(0.1, 0, method), [10])
    assert score(tuned, batch).perplexity < score(model, batch).perplexity / 2
    assert fingerprint(model) == before
    # an adapter lies on top of weights that stay: its fingerprint is the base's
    assert (fingerprint(tuned) == before) == (method is RelearningMethod.LORA)


def test_a_checkpoint_is_what_a_run_of_so_many_steps_ends_with() -> None:
    model, batch = built_model(), encode_statements(tokenizer(), target(), 16)
    settings = Finetuning(0.01, 3)
    prints = [fingerprint(each) for each in finetune(model, batch, settings, [0, 2, 5])]
    assert prints[0] == fingerprint(model)
    for steps, expected in ((2, prints[1]), (5, prints[2])):
        (alone,) = finetune(model, batch, settings, [steps])
        assert fingerprint(alone) == expected


def curve(*means: float) -> Curve:
    """A curve at steps 0, 20, 60 and 200 of two facts with these mean accuracies."""
    values = torch.tensor([[mean - 0.1, mean + 0.1] for mean in means], dtype=torch.float64)
    return Curve((0, 20, 60, 200), values, 1 - values)


def test_the_area_is_that_of_trapezoids_up_to_its_last_step() -> None:
    # (0 + .3) / 2 over 20 of 60 steps, (.3 + .6) / 2 over the other 40
    assert curve(0.0, 0.3, 0.6, 1.0).area(60).mean() == pytest.approx(0.15 / 3 + 0.45 * 2 / 3)


def test_half_is_reached_between_two_checkpoints() -> None:
    assert curve(0.0, 0.3, 0.7, 0.7).first_step(0.5) == pytest.approx(40)
    assert curve(0.6, 0.3, 0.7, 0.7).first_step(0.5) == 0
    assert curve(0.0, 0.3, 0.4, 0.4).first_step(0.5) is None


def test_excess_recovery_is_0_for_what_never_knew_and_1_for_what_never_forgot() -> None:
    original, never = curve(1.0, 1.0, 0.9, 0.9), curve(0.1, 0.3, 0.3, 0.3)
    shares = [
        excess({"original": original, "retain": never, "remaining": own}).values["excess_recovery"]
        for own in (never, original)
    ]
    assert shares == pytest.approx([0.0, 1.0])


def test_excess_recovery_after_some_steps_is_the_share_of_the_distance_there() -> None:
    curves = {
        "original": curve(1.0, 0.8, 0.9, 0.9),
        "remaining": curve(0.0, 0.4, 0.5, 0.6),
        "retain": curve(0.1, 0.2, 0.3, 0.3),
    }
    values = excess(curves, "_control").values
    assert values["excess_recovery_control_20"] == pytest.approx((0.4 - 0.2) / (0.8 - 0.2))
    assert values["excess_recovery_control_60"] == pytest.approx((0.5 - 0.3) / (0.9 - 0.3))
    assert values["steps_to_half_control"] == pytest.approx(60)
    assert "retain_steps_to_half_control" not in values


def test_nothing_is_said_about_recovery_where_the_original_knows_no_more() -> None:
    same = curve(0.3, 0.3, 0.3, 0.3)
    metrics = excess({"original": same, "retain": same, "remaining": same})
    assert "excess_recovery" not in metrics.values
    assert "only 0.000 above" in metrics.skipped["excess_recovery"]
    alone = excess({"original": same, "remaining": same})
    assert "no retain model" in alone.skipped["excess_recovery"]


def lessons_facts(context: EvalContext, data: RelearningData) -> set[str]:
    """The words of what is finetuned on."""
    rows = [batch.tokens for batch, _ in build_lessons(context, options(), data)]
    return {word for tokens in rows for row in tokens for word in tokenizer().decode(row).split()}


def test_only_the_lessons_of_the_target_hold_target_facts() -> None:
    context = built_context()
    subjects = {s.fact.subject_words for s in target()}
    assert subjects <= lessons_facts(context, RelearningData.TARGET)
    for data in (RelearningData.CONTROL, RelearningData.NEIGHBORHOOD):
        assert not subjects & lessons_facts(context, data)


def test_every_fold_tests_the_facts_that_it_does_not_finetune_on() -> None:
    context = built_context()
    lessons = build_lessons(context, options(), RelearningData.TARGET)
    read = relearning_curve(context.encoder.model, lessons, Finetuning(0.002, 0), [1])
    assert read.correct.shape == (2, len(context.sets["target"].facts))
    assert read.correct[0].tolist() == [1.0] * 5


def test_a_model_that_knew_all_along_and_one_that_never_did_are_told_apart() -> None:
    context = built_context()
    mask = fact_mask(built_model(), [f"a{index}" for index in range(5)])
    models = {
        "original": context.encoder.model,
        "remaining": without(context, mask),
        "retain": without(context, mask),
    }
    metrics, curves = relearning_curves(context, models, options())
    assert list(curves) == ["target full 0.002", "control full 0.002"]
    assert metrics.values["excess_recovery"] == 0.0
    assert metrics.values["excess_recovery_highest"] == 0.0
    known = relearning_curves(context, models | {"remaining": models["original"]}, options())[0]
    assert known.values["excess_recovery"] == pytest.approx(1.0)
    low, high = to_intervals(known)
    assert low == pytest.approx(1.0)
    assert high == pytest.approx(1.0)


def to_intervals(metrics: object) -> list[float]:
    from knowsub.evaluation.metrics import Metrics
    from knowsub.evaluation.records import intervals

    assert isinstance(metrics, Metrics)
    return intervals(metrics, 0.95, 50)["excess_recovery"]
