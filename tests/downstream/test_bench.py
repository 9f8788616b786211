import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from knowsub.downstream import runs as bench_file
from knowsub.downstream.finetune import ChoiceModel, Outcome, Schedule, finetune
from knowsub.downstream.model import merge_lora
from knowsub.downstream.options import Adaptation, Readout, RemovedWeights, TrainableBlocks
from knowsub.downstream.runs import FinetuneContext, FinetuneRun
from knowsub.masks.mask import Mask
from tests.architectures import CONFIGS, tiny
from tests.downstream.setting import options, questions, removed_values, some_mask, words

SCHEDULE = Schedule(4, 4, 0.05, 0.02, 2, 4, 0)


def state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}


def trained(
    kind: str, adaptation: Adaptation, **changes: Any
) -> tuple[PreTrainedModel, Mask, ChoiceModel, Outcome]:
    """Train a tiny remaining model; return the original, the mask, the learner, the outcome."""
    original, chosen = tiny(kind), options(**changes)
    mask = some_mask(original)
    bench = FinetuneContext(original, words(), {"original": None, "remaining": mask}, chosen)
    train, held = bench.cache(
        bench.encode(questions(12, long=True)), bench.encode(questions(6, long=True))
    )
    learner = bench.choice_model(FinetuneRun(adaptation, "remaining", 0), train)
    outcome = finetune(learner, train, {"validation": held}, SCHEDULE, lambda points: None)
    return original, mask, learner, outcome


def whole(learner: ChoiceModel, original: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Every parameter of the upper blocks of a learner, under the name in the whole model."""
    return {name: each.detach() for name, each in learner.model.named_parameters()}


@pytest.mark.parametrize("adaptation", list(Adaptation))
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("blocks", list(TrainableBlocks))
def test_removed_weights_stay_zero_bit_for_bit(
    kind: str, adaptation: Adaptation, blocks: TrainableBlocks
) -> None:
    original, mask, learner, _ = trained(kind, adaptation, blocks=blocks)
    before = state(original)
    merge_lora(learner.model, learner.hold)
    bits = [own for _, own in learner.hold._held]
    values = [parameter.detach()[own] for parameter, own in learner.hold._held]
    assert sum(int(own.sum()) for own in bits) == mask.size
    assert all(torch.equal(own, torch.zeros_like(own)) for own in values)
    assert all(torch.equal(each, before[name]) for name, each in original.state_dict().items())


def test_free_removed_weights_are_learned_again() -> None:
    _, mask, learner, _ = trained(
        "gpt2",
        Adaptation.FULL,
        removed_weights=RemovedWeights.FREE,
        trainable_blocks=TrainableBlocks.ALL,
    )
    assert removed_values(learner.model, mask).abs().max() > 1e-4


@pytest.mark.parametrize("removed", list(RemovedWeights))
def test_head_only_changes_no_weight_of_the_model(removed: RemovedWeights) -> None:
    original, mask, learner, _ = trained(
        "gpt2", Adaptation.HEAD, trainable_blocks=TrainableBlocks.ALL, removed_weights=removed
    )
    untouched = copy.deepcopy(original)
    from knowsub.architectures import maskable_matrices
    from knowsub.masks.ablation import ablate_

    ablate_(untouched, maskable_matrices(untouched), mask)
    for name, parameter in learner.model.named_parameters():
        assert torch.equal(parameter, untouched.get_parameter(name)), name


def curve(outcome: Outcome) -> list[float]:
    return [point.loss for point in outcome.points]


@pytest.mark.parametrize("readout", list(Readout))
@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize("adaptation", [Adaptation.LORA, Adaptation.FULL])
def test_cached_trunk_states_change_no_figure(
    kind: str, adaptation: Adaptation, readout: Readout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cache = curve(trained(kind, adaptation, readout=readout)[3])
    monkeypatch.setattr(bench_file, "TRUNK_BYTES", 0)
    without = curve(trained(kind, adaptation, readout=readout)[3])
    assert with_cache == pytest.approx(without, abs=2e-4)


def test_likelihood_answers_are_those_of_the_model_without_the_weights() -> None:
    original = tiny("gpt2")
    masks: Mapping[str, Mask | None] = {"original": None, "remaining": some_mask(original, 1.0)}
    bench = FinetuneContext(original, words(), masks, options())
    (encoded,) = bench.cache(bench.encode(questions(12)))
    answers = {name: bench.answers(name, {"test": encoded})["test"] for name in masks}
    assert len(answers["original"]) == 12
    assert answers["original"] != answers["remaining"]
