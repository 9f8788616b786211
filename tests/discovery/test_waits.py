"""A GPU works ahead of the orders it gets, unless it is asked for a value.

There need not be one to count such questions: torch's `meta` device has shapes and no values, so
that whatever asks for one there is seen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from knowsub.discovery import step, trainer
from knowsub.discovery.options import Suppression
from knowsub.discovery.step import TrainingData
from knowsub.discovery.teacher import Teacher, TeacherMeanRows, TeacherStates
from knowsub.discovery.trainer import MaskTrainer
from knowsub.lm.batch import to_device_of
from knowsub.lm.blocks import upper_blocks
from knowsub.masks.gates import Gates, UniformNoise
from knowsub.masks.options import Estimator, Granularity
from tests.architectures import CONFIGS
from tests.discovery.setting import search

FIRST = 2
"""The first masked block of the search."""


class Questions(TorchDispatchMode):
    """Notes every call that would wait for the device; a value that is asked for is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), given: Any = None) -> Any:
        given = given or {}
        tensors = [each for each in tree_leaves(args) if isinstance(each, torch.Tensor)]
        there = any(each.is_meta for each in tensors)
        mixed = there and any(not each.is_meta and each.ndim for each in tensors)
        place = given.get("device")
        copied = place is not None and torch.device(place).type != ("meta" if there else "cpu")
        if mixed or ("_local_scalar_dense" in str(call) and there):
            self.asked.append(str(call))
            return call(*args, **given) if mixed else 1.0
        if tensors and copied and not given.get("non_blocking"):
            self.asked.append(str(call))
            return (
                torch.ones(tensors[0].shape, dtype=tensors[0].dtype)
                if there
                else call(*args, **given)
            )
        return call(*args, **given)


def there(made: MaskTrainer) -> MaskTrainer:
    """Return the same search on the device without values, which fused Adam does not know."""
    data, model = made.data, made.gates.model.to("meta")

    def moved(kept: Any) -> Any:
        match kept:
            case TeacherMeanRows():
                return TeacherMeanRows(moved(kept.batch), kept.answers.to("meta"))
            case TeacherStates():
                return TeacherStates(moved(kept.batch), kept.states.to("meta"))
        return kept.with_hidden(kept.hidden.to("meta"))

    known = {name: own.to("meta") for name, own in vars(data.ignorance).items()}
    near: Teacher | None = None if data.neighborhood is None else moved(data.neighborhood)
    elsewhere = TrainingData(
        moved(data.target), moved(data.control), near, data.n_neighborhood, moved(data.text),
        replace(data.ignorance, **known),
    )  # fmt: skip
    gates = Gates(model, made.gates.matrices, made.options.granularity, made.options.estimator)
    made = MaskTrainer(gates, upper_blocks(model, FIRST), elsewhere, made.options, 0)
    made.optimizer = torch.optim.Adam([gates.logits], foreach=False)
    return made


class Silence(UniformNoise):
    """Noise for a device that torch has no generator for."""

    def __init__(self, seed: int, device: torch.device | str) -> None:
        super().__init__(seed)
        self.device = torch.device(device)

    def uniform(self, count: int) -> torch.Tensor:
        return torch.rand(count, device=self.device)


def test_whoever_asks_is_seen() -> None:
    kept, rows = torch.ones(3, device="meta"), torch.tensor([0, 2])
    for wait in (
        lambda: kept.sum().item(),
        kept.tolist,
        lambda: bool(kept.any()),
        lambda: kept[rows],
        lambda: rows.to("meta"),
    ):
        with Questions() as questions:
            wait()
        assert len(questions.asked) == 1
    with Questions() as questions:
        kept[to_device_of(rows, kept)] *= 2
    assert questions.asked == []
    with Questions(), pytest.raises(NotImplementedError):
        kept[kept > 0]


CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in sorted(CONFIGS)),
    ("gpt2", {"suppression": Suppression.ZSCORE_ALL}),
    ("gpt2", {"suppression": Suppression.ZSCORE_LABEL, "accumulate": 3}),
    ("gpt2", {"expression_weight": 1.0}),
    ("gpt2", {"estimator": Estimator.HARD_CONCRETE, "noise_decay_start": 0.0}),
]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_a_step_asks_for_its_figures_once_and_for_nothing_else(
    kind: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "Noise", Silence)
    made = there(search(kind=kind, attention="sdpa", **changes))
    for _ in range(2):
        with Questions() as questions:
            made.train_step()
        assert len(questions.asked) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (True, True)),
        ({"attention": "eager"}, (False, False)),
        ({"accumulate": 3}, (True, False)),
        ({"unit": Granularity.OUTPUT}, (True, False)),
    ],
)
def test_statements_and_text_share_a_pass_there_and_nowhere_else(
    changes: dict[str, Any], expected: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "Noise", Silence)
    here = search(**({"attention": "sdpa"} | changes))
    assert not here.gradient.together
    assert not here.gradient.once
    made = there(here).gradient
    assert (made.together, made.once) == expected


@pytest.mark.parametrize(("limit", "expected"), [(65, True), (64, False)])
def test_passes_with_more_tokens_are_two(
    limit: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "Noise", Silence)
    monkeypatch.setattr(step, "TOGETHER", limit)
    made = there(search(attention="sdpa", target_batch=2, control_batch=3, neighborhood_batch=1))
    assert made.gradient.together is expected
