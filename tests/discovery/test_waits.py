"""A step waits for the GPU only once: every read of a device value stalls the launch queue.

No GPU is needed to count such reads: torch's `meta` device has shapes but no values, so that
whatever reads one there is seen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from knowsub.discovery import step
from knowsub.discovery.options import GateMemory, Suppression
from knowsub.discovery.step import TrainingData
from knowsub.discovery.teacher import Teacher, TeacherMeanRows, TeacherStates
from knowsub.discovery.trainer import MaskTrainer
from knowsub.lm.batch import to_device_of
from knowsub.lm.blocks import upper_blocks
from knowsub.masks.gates import Gates
from knowsub.masks.options import Estimator, Granularity
from tests.architectures import PACKABLE
from tests.discovery.setting import search

FIRST = 2
"""The first masked block of the search."""


class DeviceReads(TorchDispatchMode):
    """Records every call that would wait for the device; a value that is read is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), given: Any = None) -> Any:
        given = given or {}
        tensors = [each for each in tree_leaves(args) if isinstance(each, torch.Tensor)]
        there = any(each.is_meta for each in tensors)
        mixed = there and any(not each.is_meta and each.ndim for each in tensors)
        place = given.get("device")
        copied = place is not None and torch.device(place).type != ("meta" if there else "cpu")
        if mixed or ("_local_scalar_dense" in str(call) and there):
            self.calls.append(str(call))
            return call(*args, **given) if mixed else 1.0
        if tensors and copied and not given.get("non_blocking"):
            self.calls.append(str(call))
            return (
                torch.ones(tensors[0].shape, dtype=tensors[0].dtype)
                if there
                else call(*args, **given)
            )
        return call(*args, **given)


def on_meta(made: MaskTrainer) -> MaskTrainer:
    """Return the same search on the meta device."""
    data, model = made.data, made.gates.model.to("meta")

    def moved(teacher: Any) -> Any:
        match teacher:
            case TeacherMeanRows():
                return TeacherMeanRows(moved(teacher.batch), teacher.mean_rows.to("meta"))
            case TeacherStates():
                return TeacherStates(moved(teacher.batch), teacher.states.to("meta"))
        return teacher.with_lower_states(teacher.lower_states.to("meta"))

    known = {name: own.to("meta") for name, own in vars(data.ignorance).items()}
    near: Teacher | None = None if data.neighborhood is None else moved(data.neighborhood)
    elsewhere = TrainingData(
        moved(data.target), moved(data.control), near, data.n_neighborhood, moved(data.text),
        replace(data.ignorance, **known),
    )  # fmt: skip
    gates = Gates(model, made.gates.matrices, made.options.granularity, made.options.estimator)
    return MaskTrainer(gates, upper_blocks(model, FIRST), elsewhere, made.options, 0)


def test_every_read_is_recorded() -> None:
    kept, rows = torch.ones(3, device="meta"), torch.tensor([0, 2])
    for wait in (
        lambda: kept.sum().item(),
        kept.tolist,
        lambda: bool(kept.any()),
        lambda: kept[rows],
        lambda: rows.to("meta"),
    ):
        with DeviceReads() as reads:
            wait()
        assert len(reads.calls) == 1
    with DeviceReads() as reads:
        kept[to_device_of(rows, kept)] *= 2
    assert reads.calls == []
    with DeviceReads(), pytest.raises(NotImplementedError):
        kept[kept > 0]


CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in PACKABLE),  # the others' own attention waits
    ("gpt2", {"suppression": Suppression.ZSCORE_ALL}),
    ("gpt2", {"suppression": Suppression.ZSCORE_LABEL, "grad_accumulation": 3}),
    ("gpt2", {"expression_weight": 1.0}),
    ("gpt2", {"estimator": Estimator.HARD_CONCRETE, "noise_decay_start": 0.0}),
]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_a_step_reads_its_metrics_once_and_nothing_else(kind: str, changes: dict[str, Any]) -> None:
    made = on_meta(search(kind=kind, attention="sdpa", **changes))
    for _ in range(2):
        with DeviceReads() as reads:
            made.train_step()
        assert len(reads.calls) == 1


@pytest.mark.parametrize("memory", [GateMemory.REDRAWN, GateMemory.EIGHT_BIT])
def test_a_step_in_pieces_reads_its_terms_before_the_logits_change_and_the_density_after(
    memory: GateMemory,
) -> None:
    made = on_meta(search(attention="sdpa", gate_memory=memory))
    with DeviceReads() as reads:
        made.train_step()
    assert len(reads.calls) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (True, True)),
        ({"attention": "eager"}, (False, False)),
        ({"grad_accumulation": 3}, (True, False)),
        ({"granularity": Granularity.OUTPUT}, (True, False)),
    ],
)
def test_statements_and_text_share_a_pass_only_on_a_gpu(
    changes: dict[str, Any], expected: tuple[bool, bool]
) -> None:
    here = search(**({"attention": "sdpa"} | changes))
    assert not here.gradient.single_pass
    assert not here.gradient.in_place
    made = on_meta(here).gradient
    assert (made.single_pass, made.in_place) == expected


@pytest.mark.parametrize(("limit", "expected"), [(65, True), (64, False)])
def test_passes_with_more_tokens_are_two(
    limit: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "LAUNCH_BOUND_TOKENS", limit)
    made = on_meta(search(attention="sdpa", target_batch=2, control_batch=3, neighborhood_batch=1))
    assert made.gradient.single_pass is expected
