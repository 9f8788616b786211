from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from knowsub.discovery.checkpoint import Checkpoints
from knowsub.discovery.options import TrainOptions
from knowsub.discovery.selection import (
    Candidate,
    constraint_violation,
    is_better,
    is_candidate,
    is_validated,
)
from knowsub.discovery.trainer import MaskTrainer, SearchResult, find_subnetwork
from knowsub.masks.gates import open_probability
from tests.discovery.setting import options, search, validation


class KilledError(Exception):
    pass


def run(made: MaskTrainer, checkpoints: Checkpoints | None = None, until: int = 99) -> SearchResult:
    def log(figures: dict[str, float]) -> None:
        if figures["step"] > until:
            raise KilledError

    return find_subnetwork(made, lambda: validation(made), log, checkpoints)


@pytest.mark.parametrize("until", [1, 2, 3, 4, 5])
def test_a_search_killed_at_any_step_ends_bit_for_bit_like_one_that_was_not(
    tmp_path: Path, until: int
) -> None:
    whole = run(search())
    store = Checkpoints(tmp_path, "same")
    with pytest.raises(KilledError):
        run(search(), store, until)
    resumed_search = search()
    resumed = run(resumed_search, store)
    assert torch.equal(whole.bits, resumed.bits)
    assert (whole.chosen, whole.curve) == (resumed.chosen, resumed.curve)


def test_a_checkpoint_of_another_search_is_never_resumed(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "one").save(4, {"x": torch.zeros(1)}, {})
    assert Checkpoints(tmp_path, "two").load() is None


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, "same")
    for step in (2, 4, 6):
        store.save(step, {"x": torch.tensor([float(step)])}, {"note": step})
    newest = sorted(tmp_path.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-3])
    found = store.load()
    assert found is not None
    step, tensors, state = found
    assert (step, tensors["x"].item(), state) == (4, 4.0, {"note": 4})
    assert len(list(tmp_path.iterdir())) == 2
    store.clear()
    assert not tmp_path.exists()


def test_two_searches_with_one_seed_are_equal_and_with_two_seeds_are_not() -> None:
    first, second, third = run(search(seed=1)), run(search(seed=1)), run(search(seed=2))
    assert first.curve == second.curve
    assert first.curve != third.curve


def test_the_chosen_mask_is_no_denser_than_allowed() -> None:
    found = run(search(max_density=0.05))
    share = float(found.bits.float().mean())
    assert share <= 0.05
    assert found.chosen.density == pytest.approx(share)


def test_the_density_is_expected_while_the_noise_is_whole_and_counted_once_it_falls() -> None:
    made = search(noise_final=0.0, noise_decay_start=0.5, steps=4)
    expected = open_probability(made.gates.logits, made.gates.estimator, 1.0).mean().item()
    curve = [made.train_step()]
    while made.step < 4:
        opened = (made.gates.logits > 0).double().mean().item()
        curve.append(made.train_step())
    assert curve[0]["density"] == pytest.approx(expected, rel=1e-6)
    assert curve[0]["noise"] == 1.0
    assert curve[-1]["noise"] == 0.0
    assert curve[-1]["density"] == pytest.approx(opened, rel=1e-9)


def test_the_learning_rate_that_adam_takes_falls_at_the_end() -> None:
    made, taken = search(steps=4, lr=0.3, warmup=0.0, decay=0.5), []
    while made.step < 4:
        made.train_step()
        taken.append(made.optimizer.param_groups[0]["lr"])
    assert taken == pytest.approx([0.3, 0.3, 0.3, 0.15])


def test_a_term_that_is_not_finite_stops_the_search_before_the_logits_change() -> None:
    made = search()
    made.data.target.lower_states[:] = float("nan")
    before = made.gates.logits.clone()
    with pytest.raises(ValueError, match="step 1: a term of the objective is not finite"):
        made.train_step()
    assert torch.equal(before, made.gates.logits)


def candidate(step: int, nll: float, control: float = 1.0, text: float = 1.0) -> Candidate:
    return Candidate(step, 0.01, nll, control, text)


def chosen(candidates: list[Candidate], limits: TrainOptions) -> int:
    best: Candidate | None = None
    for each in candidates:
        best = each if is_better(each, best, limits) else best
    assert best is not None
    return best.step


def test_the_rule_prefers_forgetting_among_the_harmless_and_the_later_among_equals() -> None:
    limits = options(max_control_ratio=1.05, max_text_ratio=1.2)
    assert chosen([candidate(1, 3.0), candidate(2, 5.0), candidate(3, 4.0)], limits) == 2
    assert chosen([candidate(1, 3.0), candidate(2, 3.0)], limits) == 2
    assert chosen([candidate(1, 1.0), candidate(2, 9.0, control=1.06)], limits) == 1
    assert chosen([candidate(1, 9.0, text=1.3), candidate(2, 1.0)], limits) == 2


def test_where_the_noise_falls_the_last_mask_alone_is_a_candidate() -> None:
    def steps(**changes: float) -> list[int]:
        given = options(steps=10, evaluate_every=3, **changes)
        validated = [step for step in range(1, 11) if is_validated(step, given)]
        assert validated == [3, 6, 9, 10]
        return [step for step in validated if is_candidate(step, given)]

    assert steps(noise_decay_start=0.6, noise_final=0.0) == [10]
    assert steps(noise_decay_start=0.7, noise_final=0.5) == [10]
    assert steps(noise_decay_start=1.0, noise_final=1.0) == [3, 6, 9, 10]


def test_a_mask_that_is_not_settled_is_validated_but_never_chosen() -> None:
    forgets = iter([9.0, 1.0])

    def validate() -> dict[str, float]:
        return {"target_nll": next(forgets), "control_ratio": 1.0, "text_ratio": 1.0}

    found = find_subnetwork(search(evaluate_every=4, noise_final=0.0), validate)
    assert (found.chosen.step, found.chosen.target_nll) == (6, 1.0)


def test_if_all_do_harm_the_least_harmful_is_chosen_and_said_not_to_qualify() -> None:
    limits = options(max_control_ratio=1.05, max_text_ratio=1.2)
    assert (
        chosen([candidate(1, 1.0, 1.5), candidate(2, 1.0, 1.2), candidate(3, 9.0, 2.0)], limits)
        == 2
    )
    assert constraint_violation(candidate(1, 1.0, float("nan")), limits) == float("inf")
    harmful = {"target_nll": 9.0, "control_ratio": 1.2, "text_ratio": 1.0}
    assert not find_subnetwork(search(max_control_ratio=1.1), lambda: harmful).qualified
    assert find_subnetwork(search(max_control_ratio=1.3), lambda: harmful).qualified


def test_curves_hold_every_step_and_validations_when_they_were_due(tmp_path: Path) -> None:
    found = run(search(evaluate_every=4))
    assert [row["step"] for row in found.curve] == [1, 2, 3, 4, 5, 6]
    validated = [row["step"] for row in found.curve if "validation_target_nll" in row]
    assert validated == [4, 6]
    with (tmp_path / "curve.csv").open("w") as file:
        csv.DictWriter(file, found.curve[3]).writerows(found.curve)
