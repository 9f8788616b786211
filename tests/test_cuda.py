"""On a CUDA device everything is computed there, and comes out as on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from knowsub.architectures import ATTENTION, ModuleType
from knowsub.config import torch_device
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
from knowsub.schema import Device, Machine, Progress
from tests.architectures import CONFIGS, VOCAB, tiny
from tests.discovery.setting import search, validation
from tests.evaluation.setting import built_context, built_model, fact_mask, options

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


class KilledError(Exception):
    pass


def gradient(device: str, **changes: Any) -> torch.Tensor:
    """The gradient of one step, its noise drawn on the CPU whatever the device."""
    made, twin = search(device=device, **changes), search(**changes)
    drawn = twin.gates.sample(UniformNoise(5))
    sample = GateSample(drawn.value.to(device), drawn.ste_grad.to(device))
    rows = draw_minibatch(made.data, made.options, torch.Generator().manual_seed(5))
    found = made.gradient(sample, rows)[1]
    assert found.device.type == device
    return found.cpu()


def run(made: MaskTrainer, store: Checkpoints | None = None, until: int = 99) -> SearchResult:
    def log(figures: dict[str, float]) -> None:
        if figures["step"] > until:
            raise KilledError

    return find_subnetwork(made, lambda: validation(made), log, store)


def evaluated(device: str) -> Metrics:
    """The evidence for a mask with five known facts."""
    context, chosen = built_context("a", built_model().to(device)), options(baseline_sizes=False)
    generator = torch.Generator().manual_seed(0)
    mask = fact_mask(built_model(), ["a0", "a1", "a2", "a3", "a4"])
    references = compute_references(context, chosen, {}, generator)
    randoms = random_masks(mask, 9, generator)
    return evaluate_mask(context, mask, randoms, chosen, references, generator).metrics


@pytest.fixture
def exactly() -> Iterator[None]:
    """Torch as a stage has it."""
    assert torch_device(Machine(Device.AUTO, 1, 1, 8.0, Progress.NONE)) == DEVICE
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("suppression", [Suppression.UNIFORM, Suppression.ZSCORE_ALL])
def test_a_step_has_the_gradient_that_it_has_on_the_cpu(
    kind: str, attention: str, suppression: Suppression
) -> None:
    chosen = {"kind": kind, "attention": attention, "suppression": suppression}
    found, expected = gradient(DEVICE, **chosen), gradient("cpu", **chosen)
    assert (found - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("unit", list(Granularity))
@pytest.mark.parametrize("estimator", list(Estimator))
def test_every_unit_and_estimator_has_its_gradient_there(
    unit: Granularity, estimator: Estimator
) -> None:
    parts = list(ATTENTION) if unit is Granularity.HEAD else list(ModuleType)
    chosen = {"unit": unit, "estimator": estimator, "parts": parts, "expression_weight": 1.0}
    found, expected = gradient(DEVICE, **chosen), gradient("cpu", **chosen)
    assert (found - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("until", [1, 3, 4])
def test_a_search_killed_there_ends_bit_for_bit_like_one_that_was_not(
    tmp_path: Path, until: int, precision: Precision
) -> None:
    whole = run(search(device=DEVICE, precision=precision))
    store = Checkpoints(tmp_path, "same")
    with pytest.raises(KilledError):
        run(search(device=DEVICE, precision=precision), store, until)
    resumed = run(search(device=DEVICE, precision=precision), store)
    assert torch.equal(whole.bits, resumed.bits)
    assert (whole.chosen, whole.curve) == (resumed.chosen, resumed.curve)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("precision", list(Precision))
def test_two_searches_with_fused_attention_are_equal(precision: Precision) -> None:
    chosen: dict[str, Any] = {"attention": "sdpa", "precision": precision, "steps": 12}
    first, second = run(search(device=DEVICE, **chosen)), run(search(device=DEVICE, **chosen))
    assert torch.equal(first.bits, second.bits)
    assert first.curve == second.curve


def test_bfloat16_products_there_change_the_gradient_by_their_rounding() -> None:
    low, exact = gradient(DEVICE, precision=Precision.BFLOAT16), gradient(DEVICE)
    assert 0 < (low - exact).norm() / exact.norm() < 0.1


def test_a_step_asks_for_its_figures_once() -> None:
    made = search(device=DEVICE, attention="sdpa")
    made.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        made.gradient(
            made.gates.sample(made.noise), draw_minibatch(made.data, made.options, made.order)
        )
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
def test_a_mask_found_there_does_the_same_on_the_cpu(tmp_path: Path, kind: str) -> None:
    made = search(device=DEVICE, kind=kind)
    found = run(made)
    save_mask(made.gates.to_mask(found.bits, "tiny", {}), tmp_path / "mask.safetensors")
    mask = load_mask(tmp_path / "mask.safetensors")
    tokens = torch.randint(1, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    there, here = made.gates.model, tiny(kind)
    with ablated(there, made.gates.matrices, mask), ablated(here, made.gates.matrices, mask):
        assert mask.size > 0
        difference = there(tokens.to(DEVICE)).logits.cpu() - here(tokens).logits
    assert difference.abs().max() < 1e-4


def test_the_evidence_is_that_of_the_cpu() -> None:
    found, expected = evaluated(DEVICE).values, evaluated("cpu").values
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
