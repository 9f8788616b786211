from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from knowsub.discovery.checkpoint import Checkpoints
from knowsub.discovery.options import Candidates, GateMemory, TrainOptions
from knowsub.discovery.trainer import (
    Candidate,
    MaskTrainer,
    SearchResult,
    constraint_violation,
    find_subnetwork,
    is_better,
    is_candidate,
    is_validated,
    learning_rate,
    ramp,
    sparsity_coefficient,
)
from knowsub.masks.gates import open_probability
from tests.discovery.setting import options, search, validation


class KilledError(Exception):
    pass


def run(
    trainer: MaskTrainer, checkpoints: Checkpoints | None = None, until: int = 99
) -> SearchResult:
    def log(metrics: dict[str, float]) -> None:
        if metrics["step"] > until:
            raise KilledError

    return find_subnetwork(trainer, lambda: validation(trainer), log, checkpoints)


@pytest.mark.parametrize(
    ("until", "memory"),
    [
        *((until, GateMemory.FULL) for until in (1, 2, 3, 4, 5)),
        (3, GateMemory.REDRAWN),
        (3, GateMemory.EIGHT_BIT),
    ],
)
def test_a_search_killed_at_any_step_ends_bit_for_bit_like_one_that_was_not(
    tmp_path: Path, until: int, memory: GateMemory
) -> None:
    def start() -> MaskTrainer:
        return search(gate_memory=memory, attention="sdpa")

    whole = run(start())
    store = Checkpoints(tmp_path, "same")
    with pytest.raises(KilledError):
        run(start(), store, until)
    resumed = run(start(), store)
    assert torch.equal(whole.bits, resumed.bits)
    assert (whole.chosen, whole.curve) == (resumed.chosen, resumed.curve)


def test_two_searches_with_one_seed_are_equal_and_with_two_seeds_are_not() -> None:
    first, second, third = run(search(seed=1)), run(search(seed=1)), run(search(seed=2))
    assert first.curve == second.curve
    assert first.curve != third.curve


def test_the_chosen_mask_is_no_denser_than_allowed() -> None:
    result = run(search(max_density=0.05))
    share = float(result.bits.float().mean())
    assert share <= 0.05
    assert result.chosen.density == pytest.approx(share)


def test_the_density_is_the_expected_one_until_the_noise_decays_and_then_the_sampled_one() -> None:
    trainer = search(noise_final=0.0, noise_decay_start=0.5, steps=4)
    expected = open_probability(trainer.gates.logits, trainer.gates.estimator, 1.0).mean().item()
    curve = [trainer.train_step()]
    while trainer.step < 4:
        expected_density = (trainer.gates.logits > 0).double().mean().item()
        curve.append(trainer.train_step())
    assert curve[0]["density"] == pytest.approx(expected, rel=1e-6)
    assert curve[0]["noise_scale"] == 1.0
    assert curve[-1]["noise_scale"] == 0.0
    assert curve[-1]["density"] == pytest.approx(expected_density, rel=1e-9)


@pytest.mark.parametrize("memory", list(GateMemory))
def test_adam_takes_the_learning_rate_of_the_schedule(memory: GateMemory) -> None:
    for warmup in (0.0, 0.5):
        trainer = search(
            steps=4, lr=0.3, warmup=warmup, decay=0.5, gate_memory=memory, attention="sdpa"
        )
        before = trainer.gates.logits.clone()
        trainer.train_step()
        moved = (trainer.gates.logits - before).abs()
        # the first step is as long as the rate, whatever the gradient
        assert moved.median() == pytest.approx(learning_rate(0, trainer.options), rel=1e-3)
    schedule = options(steps=4, lr=0.3, warmup=0.0, decay=0.5)
    taken = [learning_rate(step, schedule) for step in range(4)]
    assert taken == pytest.approx([0.3, 0.3, 0.3, 0.15])


@pytest.mark.parametrize("memory", list(GateMemory))
def test_a_term_that_is_not_finite_stops_the_search_before_the_logits_change(
    memory: GateMemory,
) -> None:
    trainer = search(gate_memory=memory, attention="sdpa")
    trainer.data.target.lower_states[:] = float("nan")
    before = trainer.gates.logits.clone()
    with pytest.raises(ValueError, match=r"step 1: .* of the objective is not finite in float32"):
        trainer.train_step()
    assert torch.equal(before, trainer.gates.logits)


def candidate(step: int, nll: float, control: float = 1.0, text: float = 1.0) -> Candidate:
    return Candidate(step, 0.01, nll, control, text)


def chosen(candidates: list[Candidate], limits: TrainOptions) -> int:
    best: Candidate | None = None
    for each in candidates:
        best = each if is_better(each, best, limits) else best
    assert best is not None
    return best.step


def test_the_highest_nll_wins_among_those_that_qualify_and_the_later_of_ties() -> None:
    limits = options(max_control_ratio=1.05, max_text_ratio=1.2)
    assert chosen([candidate(1, 3.0), candidate(2, 5.0), candidate(3, 4.0)], limits) == 2
    assert chosen([candidate(1, 3.0), candidate(2, 3.0)], limits) == 2
    assert chosen([candidate(1, 1.0), candidate(2, 9.0, control=1.06)], limits) == 1
    assert chosen([candidate(1, 9.0, text=1.3), candidate(2, 1.0)], limits) == 2


def test_if_the_noise_decays_only_the_last_mask_is_a_candidate() -> None:
    def steps(**changes: object) -> list[int]:
        given = options(steps=10, evaluate_every=3, **changes)
        validated = [step for step in range(1, 11) if is_validated(step, given)]
        assert validated == [3, 6, 9, 10]
        return [step for step in validated if is_candidate(step, given)]

    assert steps(noise_decay_start=0.6, noise_final=0.0) == [10]
    assert steps(noise_decay_start=0.7, noise_final=0.5) == [10]
    assert steps(noise_decay_start=1.0, noise_final=1.0) == [3, 6, 9, 10]
    assert steps(noise_decay_start=1.0, noise_final=1.0, candidates=Candidates.LAST) == [10]


def test_a_mask_of_decaying_noise_is_validated_but_never_chosen() -> None:
    forgets = iter([9.0, 1.0])

    def validate() -> dict[str, float]:
        return {"target_nll": next(forgets), "control_ratio": 1.0, "text_ratio": 1.0}

    result = find_subnetwork(search(evaluate_every=4, noise_final=0.0), validate)
    assert (result.chosen.step, result.chosen.target_nll) == (6, 1.0)


def test_if_none_qualifies_the_smallest_violation_wins_and_the_result_says_so() -> None:
    limits = options(max_control_ratio=1.05, max_text_ratio=1.2)
    assert (
        chosen([candidate(1, 1.0, 1.5), candidate(2, 1.0, 1.2), candidate(3, 9.0, 2.0)], limits)
        == 2
    )
    assert constraint_violation(candidate(1, 1.0, float("nan")), limits) == float("inf")
    harmful = {"target_nll": 9.0, "control_ratio": 1.2, "text_ratio": 1.0}
    assert not find_subnetwork(search(max_control_ratio=1.1), lambda: harmful).qualified
    assert find_subnetwork(search(max_control_ratio=1.3), lambda: harmful).qualified


def test_the_curve_has_every_step_and_validations_when_they_are_due(tmp_path: Path) -> None:
    result = run(search(evaluate_every=4))
    assert [row["step"] for row in result.curve] == [1, 2, 3, 4, 5, 6]
    validated = [row["step"] for row in result.curve if "validation_target_nll" in row]
    assert validated == [4, 6]
    with (tmp_path / "curve.csv").open("w") as file:
        csv.DictWriter(file, result.curve[3]).writerows(result.curve)


def test_a_ramp_holds_then_moves_linearly_and_arrives() -> None:
    values = [ramp(step, 11, 2.0, 3.0, 0.5) for step in range(11)]
    assert values[:6] == [2.0] * 6
    assert values[10] == 3.0
    assert values[8] == pytest.approx(2.0 + 2.5 / 4.5)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("begin", [0.0, 0.5, 1.0])
def test_a_ramp_never_leaves_its_ends(steps: int, begin: float) -> None:
    values = [ramp(step, steps, 1.0, 0.0, begin) for step in range(steps)]
    assert all(0 <= value <= 1 for value in values)
    assert values == sorted(values, reverse=True)


def test_the_sparsity_coefficient_rises_steeply_with_the_density_up_to_a_factor() -> None:
    plain = options(
        sparsity_weight_start=40.0, sparsity_weight_end=120.0, sparsity_ramp_start=0.5, steps=11
    )
    steered = replace(plain, target_density=0.02)
    assert [sparsity_coefficient(10, density, plain) for density in (1.0, 0.02, 0.001)] == [
        120.0
    ] * 3
    assert [sparsity_coefficient(10, density, steered) for density in (1.0, 0.02)] == [600.0, 120.0]
    assert sparsity_coefficient(10, 0.021, steered) == pytest.approx(120.0 * 1.05**30)
    assert sparsity_coefficient(10, 0.01, steered) == pytest.approx(120.0 / 2**30)
    assert sparsity_coefficient(0, 0.01, steered) == pytest.approx(40.0 / 2**30)


def test_the_learning_rate_falls_at_the_end_alone() -> None:
    falling = options(steps=10, lr=0.5, warmup=0.0, decay=0.2)
    assert [learning_rate(step, falling) for step in (0, 8, 9)] == pytest.approx([0.5, 0.5, 0.25])
