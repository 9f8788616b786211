import pytest
import torch

from knowsub.architectures import maskable_matrices
from knowsub.baselines.methods import CalibrationData, baseline_masks, calibration_data
from knowsub.baselines.options import BaselineOptions, Method
from knowsub.masks.mask import Mask
from tests.evaluation.setting import (
    HEADS,
    WORDS,
    built_model,
    fact_mask,
    statements,
    tokenizer,
)


def options(**changes: object) -> BaselineOptions:
    values: dict[str, object] = {
        "methods": list(Method), "control_statements": 12, "batch": 2, "protected_share": 0.05,
        "integration_steps": 4, "factors": [0.5, 2.0], "seed": 0,
    }  # fmt: skip
    return BaselineOptions(**(values | changes))


def shaped(model: torch.nn.Module) -> Mask:
    bits = {
        site.name: (torch.arange(site.size) < 6 + 2 * index).view(site.shape)
        for index, site in enumerate(maskable_matrices(model))
    }
    return Mask(bits, "built")


@pytest.fixture(scope="module")
def material() -> CalibrationData:
    """The model whose facts are single weights, made to answer a little less surely."""
    model = built_model()
    model.lm_head.weight[len(WORDS) - 10 :] *= 0.5
    return calibration_data(model, tokenizer(), shaped(model), statements("a"), options())


def test_every_method_takes_as_many_weights_per_site_at_every_size(
    material: CalibrationData,
) -> None:
    mask = shaped(material.model)
    found = {(one, factor): made for one, factor, made in baseline_masks(mask, material, options())}
    assert found.keys() == {(method, factor) for method in Method for factor in (1.0, 0.5, 2.0)}
    for (method, factor), made in found.items():
        assert made.model == mask.model
        assert made.meta["method"] == method
        if method != Method.KNOWLEDGE_NEURONS:
            assert made.counts() == {n: round(count * factor) for n, count in mask.counts().items()}
        elif factor == 1:
            assert made.size == mask.size
    for method in Method:
        small, large = found[method, 0.5], found[method, 2.0]
        assert all(bool((small.bits[name] <= large.bits[name]).all()) for name in mask.bits)


@pytest.mark.parametrize("method", [Method.SNIP, Method.TAYLOR])
def test_gradients_find_the_weights_that_hold_the_target(
    material: CalibrationData, method: Method
) -> None:
    truth = fact_mask(material.model, [head for head in HEADS if head[0] == "a"])
    chosen = options(methods=[method], factors=[], protected_share=0.01)
    ((_, _, made),) = baseline_masks(truth, material, chosen)
    assert made.bits["blocks.1.mlp_out"].equal(truth.bits["blocks.1.mlp_out"])


def test_wanda_and_neurons_find_the_neurons_of_the_target(material: CalibrationData) -> None:
    wanted = {HEADS.index(head) for head in HEADS if head[0] == "a"}
    truth = fact_mask(material.model, [head for head in HEADS if head[0] == "a"])
    chosen = options(methods=[Method.WANDA], factors=[], protected_share=0.01)
    ((_, _, wanda),) = baseline_masks(truth, material, chosen)
    assert set(wanda.bits["blocks.1.mlp_out"].nonzero()[:, 0].tolist()) == wanted
    counts = {"blocks.1.mlp_out": 5 * 64}
    bits = {name: torch.zeros_like(own) for name, own in truth.bits.items()}
    bits["blocks.1.mlp_out"].view(-1)[: counts["blocks.1.mlp_out"]] = True
    chosen = options(methods=[Method.KNOWLEDGE_NEURONS], factors=[], protected_share=0.01)
    ((_, _, neurons),) = baseline_masks(Mask(bits, "built"), material, chosen)
    rows = neurons.bits["blocks.1.mlp_out"]
    assert set(rows.nonzero()[:, 0].tolist()) == wanted
    assert rows[sorted(wanted)].all()


def test_magnitude_takes_the_largest_weights(material: CalibrationData) -> None:
    model = material.model
    count = len(HEADS)
    bits = {
        site.name: torch.zeros(site.shape, dtype=torch.bool) for site in maskable_matrices(model)
    }
    bits["blocks.1.mlp_in"].view(-1)[:count] = True
    chosen = options(methods=[Method.MAGNITUDE], factors=[])
    ((_, _, made),) = baseline_masks(Mask(bits, "built"), material, chosen)
    assert made.bits["blocks.1.mlp_in"].nonzero().tolist() == [[i, i] for i in range(count)]


def test_no_method_leaves_a_trace_in_the_model(material: CalibrationData) -> None:
    assert not any(parameter.requires_grad for parameter in material.model.parameters())
    assert all(parameter.grad is None for parameter in material.model.parameters())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", 0),
        ("protected_share", 1.0),
        ("factors", [0.0]),
        ("seed", -1),
        ("integration_steps", 0),
    ],
)
def test_impossible_options_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"baseline\.{key}: value .* is not allowed; use"):
        options(**{key: value})
