"""On a CUDA device everything is computed on it, with the results of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from knowsub.architectures import ATTENTION, ModuleType
from knowsub.config import Device, Machine, Progress, torch_device
from knowsub.discovery.checkpoint import Checkpoints
from knowsub.discovery.options import Precision, Suppression
from knowsub.discovery.setup import MemmapAllocator
from knowsub.discovery.step import draw_minibatch
from knowsub.discovery.trainer import MaskTrainer, SearchResult, find_subnetwork
from knowsub.evaluation.evaluate import compute_references, evaluate_mask
from knowsub.evaluation.metrics import Metrics
from knowsub.masks.ablation import ablated
from knowsub.masks.gates import GateSample, UniformNoise
from knowsub.masks.mask import load_mask, random_masks, save_mask
from knowsub.masks.options import Estimator, Granularity
from tests.architectures import CONFIGS, VOCAB, tiny
from tests.discovery.setting import search, validation
from tests.evaluation.setting import built_context, built_model, fact_mask, options

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


class KilledError(Exception):
    pass


def gradient(device: str, **changes: Any) -> torch.Tensor:
    """The gradient of one step, its noise drawn on the CPU whatever the device."""
    trainer, cpu_trainer = search(device=device, **changes), search(**changes)
    sample = cpu_trainer.gates.sample(UniformNoise(5))
    sample = GateSample(sample.value.to(device), sample.ste_grad.to(device))
    minibatch = draw_minibatch(trainer.data, trainer.options, torch.Generator().manual_seed(5))
    result = trainer.gradient(sample, minibatch)[1]
    assert result.device.type == device
    return result.cpu()


def run(trainer: MaskTrainer, store: Checkpoints | None = None, until: int = 99) -> SearchResult:
    def log(metrics: dict[str, float]) -> None:
        if metrics["step"] > until:
            raise KilledError

    return find_subnetwork(trainer, lambda: validation(trainer), log, store)


def evaluated(device: str) -> Metrics:
    """The evidence for a mask with five known facts."""
    context, chosen = built_context("a", built_model().to(device)), options(baseline_sizes=False)
    generator = torch.Generator().manual_seed(0)
    mask = fact_mask(built_model(), ["a0", "a1", "a2", "a3", "a4"])
    references = compute_references(context, chosen, {}, generator)
    randoms = random_masks(mask, 9, generator)
    return evaluate_mask(context, mask, randoms, chosen, references, generator).metrics


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Torch as a stage sets it up."""
    assert torch_device(Machine(Device.AUTO, 1, 1, 8.0, Progress.NONE)) == DEVICE
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("suppression", [Suppression.UNIFORM, Suppression.ZSCORE_ALL])
def test_a_step_has_the_gradient_that_it_has_on_the_cpu(
    kind: str, attention: str, suppression: Suppression
) -> None:
    changes = {"kind": kind, "attention": attention, "suppression": suppression}
    actual, expected = gradient(DEVICE, **changes), gradient("cpu", **changes)
    assert (actual - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("estimator", list(Estimator))
def test_every_granularity_and_estimator_has_the_gradient_of_the_cpu(
    granularity: Granularity, estimator: Estimator
) -> None:
    modules = list(ATTENTION) if granularity is Granularity.HEAD else list(ModuleType)
    changes = {
        "granularity": granularity, "estimator": estimator, "modules": modules,
        "expression_weight": 1.0,
    }  # fmt: skip
    actual, expected = gradient(DEVICE, **changes), gradient("cpu", **changes)
    assert (actual - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("until", [1, 3, 4])
def test_a_killed_and_resumed_search_ends_bit_for_bit_like_one_that_was_not(
    tmp_path: Path, until: int, precision: Precision
) -> None:
    whole = run(search(device=DEVICE, precision=precision))
    store = Checkpoints(tmp_path, "same")
    with pytest.raises(KilledError):
        run(search(device=DEVICE, precision=precision), store, until)
    resumed = run(search(device=DEVICE, precision=precision), store)
    assert torch.equal(whole.bits, resumed.bits)
    assert (whole.chosen, whole.curve) == (resumed.chosen, resumed.curve)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("precision", list(Precision))
def test_two_searches_with_fused_attention_are_equal(precision: Precision) -> None:
    changes: dict[str, Any] = {"attention": "sdpa", "precision": precision, "steps": 12}
    first, second = run(search(device=DEVICE, **changes)), run(search(device=DEVICE, **changes))
    assert torch.equal(first.bits, second.bits)
    assert first.curve == second.curve


def test_bfloat16_products_change_the_gradient_by_their_rounding() -> None:
    low, exact = gradient(DEVICE, precision=Precision.BFLOAT16), gradient(DEVICE)
    assert 0 < (low - exact).norm() / exact.norm() < 0.1


def test_a_gradient_never_waits_for_the_device() -> None:
    trainer = search(device=DEVICE, attention="sdpa")
    trainer.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        minibatch = draw_minibatch(trainer.data, trainer.options, trainer.order)
        trainer.gradient(trainer.gates.sample(trainer.noise), minibatch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_states_that_spill_to_a_file_are_read_from_there(tmp_path: Path) -> None:
    spilled = run(search(device=DEVICE, allocate=MemmapAllocator(tmp_path, 0.0)))
    assert spilled.curve == run(search(device=DEVICE)).curve


def test_recomputed_activations_give_the_same_search() -> None:
    assert (
        run(search(device=DEVICE, activation_checkpointing=True)).curve
        == run(search(device=DEVICE)).curve
    )


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_mask_found_on_the_device_does_the_same_on_the_cpu(tmp_path: Path, kind: str) -> None:
    trainer = search(device=DEVICE, kind=kind)
    result = run(trainer)
    save_mask(trainer.gates.to_mask(result.bits, "tiny", {}), tmp_path / "mask.safetensors")
    mask = load_mask(tmp_path / "mask.safetensors")
    tokens = torch.randint(1, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    model, cpu_model, matrices = trainer.gates.model, tiny(kind), trainer.gates.matrices
    with ablated(model, matrices, mask), ablated(cpu_model, matrices, mask):
        assert mask.size > 0
        difference = model(tokens.to(DEVICE)).logits.cpu() - cpu_model(tokens).logits
    assert difference.abs().max() < 1e-4


def test_the_evidence_is_that_of_the_cpu() -> None:
    found, expected = evaluated(DEVICE).values, evaluated("cpu").values
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
