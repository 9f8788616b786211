from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from knowsub.discovery.options import Matmul, Precision, Suppression
from knowsub.discovery.precision import MOST_ERROR, product_error
from knowsub.discovery.step import draw_minibatch
from knowsub.discovery.trainer import MaskTrainer
from knowsub.lm.batch import Batch
from knowsub.masks.ablation import applied
from knowsub.masks.gates import Gates, UniformNoise
from knowsub.masks.options import Estimator
from tests.architectures import CONFIGS
from tests.discovery.setting import search


def multiplied(gates: Gates, factor: torch.Tensor) -> dict[str, torch.Tensor]:
    weights = {name: own.detach().clone() for name, own in gates.masked_weights().weights.items()}
    for span in gates.slices:
        own = span.matrix.view(gates.model.get_parameter(span.matrix.parameter))
        span.matrix.view(weights[span.matrix.parameter]).copy_(own * span.take(factor))
    return weights


def straightforward(made: MaskTrainer, sample_seed: int) -> torch.Tensor:
    """The published algorithm written plainly: whole models, full logits, autograd everywhere."""
    gates, data, options = made.gates, made.data, made.options
    model = gates.model
    logits = gates.logits.clone().requires_grad_()
    noise = UniformNoise(sample_seed).uniform(len(logits))
    soft = torch.sigmoid(logits + torch.logit(noise))
    bits = (soft > 0.5).float() - soft.detach() + soft
    drawn = draw_minibatch(data, options, torch.Generator().manual_seed(sample_seed))
    weights, only = multiplied(gates, 1 - bits), multiplied(gates, bits)

    def kl(batch: Batch) -> torch.Tensor:
        with applied(model, weights):
            masked = model(batch.tokens).logits[batch.target_mask].log_softmax(-1)
        with torch.no_grad():
            original = model(batch.tokens).logits[batch.target_mask].log_softmax(-1)
        return functional.kl_div(masked, original, log_target=True, reduction="batchmean")

    target = data.target[drawn.target]
    with applied(model, weights):
        flat = model(target.tokens).logits[target.target_mask].log_softmax(-1)
    uniform = torch.full_like(flat, 1 / flat.shape[-1])
    suppression = functional.kl_div(flat, uniform, reduction="batchmean")
    loss = options.suppression_weight * suppression
    loss = loss + options.control_weight * kl(data.control.batch[drawn.control])
    assert data.neighborhood is not None
    loss = loss + options.neighborhood_weight * kl(data.neighborhood.batch[drawn.neighborhood])
    loss = loss + options.text_weight * kl(data.text.batch[drawn.text])
    if options.expression_weight:
        with applied(model, only):
            shown = model(target.tokens).logits[target.target_mask]
        expression = functional.cross_entropy(shown, target.labels[target.target_mask])
        loss = loss + options.expression_weight * expression
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


def fast(made: MaskTrainer, sample_seed: int) -> torch.Tensor:
    sample = made.gates.sample(UniformNoise(sample_seed))
    drawn = draw_minibatch(made.data, made.options, torch.Generator().manual_seed(sample_seed))
    return made.gradient(sample, drawn)[1]


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("expression_weight", [0.0, 1.0])
def test_with_the_noise_fixed_the_gradient_is_that_of_the_straightforward_loop(
    kind: str, expression_weight: float
) -> None:
    made = search(kind=kind, expression_weight=expression_weight)
    expected = straightforward(made, 5)
    error = (fast(made, 5) - expected).norm() / expected.norm()
    assert error < 1e-5


def test_tails_of_several_tokens_have_the_same_gradient_too() -> None:
    made = search(tail=3)
    expected = straightforward(made, 5)
    assert (fast(made, 5) - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("pieces", [2, 3])
def test_a_step_in_pieces_has_the_gradient_of_the_whole(pieces: int) -> None:
    whole, cut = fast(search(), 5), fast(search(grad_accumulation=pieces), 5)
    assert (whole - cut).norm() / whole.norm() < 1e-5


@pytest.mark.parametrize("suppression", list(Suppression))
@pytest.mark.parametrize("estimator", list(Estimator))
def test_every_suppression_gives_finite_terms_and_pushes_the_target(
    suppression: Suppression, estimator: Estimator
) -> None:
    made = search(suppression=suppression, estimator=estimator, steps=3)
    figures = [made.train_step() for _ in range(3)]
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in figures)
    assert figures[0]["suppression"] > 0


def test_the_original_model_is_never_written() -> None:
    made = search(expression_weight=1.0)
    before = {name: own.clone() for name, own in made.gates.model.state_dict().items()}
    for _ in range(3):
        made.train_step()
    after = made.gates.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bf16_products_give_nearly_the_same_gradient_in_float32() -> None:
    exact, low = fast(search(), 5), fast(search(precision=Precision.BFLOAT16), 5)
    assert low.dtype == torch.float32
    assert 0 < (low - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_every_architecture_computes_with_bf16_products(kind: str) -> None:
    made = search(kind=kind, precision=Precision.BFLOAT16, expression_weight=1.0)
    exact = search(kind=kind, expression_weight=1.0)
    figures, expected = made.train_step(), exact.train_step()
    assert {name: pytest.approx(value, rel=0.1, abs=0.05) for name, value in expected.items()} == (
        figures
    )
    assert all(parameter.dtype == torch.float32 for parameter in made.gates.model.parameters())


def test_products_of_another_library_have_the_gradient_of_the_default_or_are_refused() -> None:
    if product_error(Matmul.ONEDNN) > MOST_ERROR:
        with pytest.raises(ValueError, match="not allowed on this processor"):
            search(matmul=Matmul.ONEDNN)
        return
    exact, other = fast(search(), 5), fast(search(matmul=Matmul.ONEDNN), 5)
    assert (other - exact).norm() / exact.norm() < 1e-5


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_activations_computed_again_give_the_same_gradient_bit_for_bit(kind: str) -> None:
    kept = fast(search(kind=kind, expression_weight=1.0), 5)
    assert torch.equal(
        kept, fast(search(kind=kind, expression_weight=1.0, activation_checkpointing=True), 5)
    )


def test_activations_are_computed_again_with_bf16_products_too() -> None:
    low = (
        search(precision=Precision.BFLOAT16),
        search(precision=Precision.BFLOAT16, activation_checkpointing=True),
    )
    assert torch.equal(fast(low[0], 5), fast(low[1], 5))


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("pieces", [1, 3])
def test_text_and_statements_in_one_pass_have_the_gradient_of_two(kind: str, pieces: int) -> None:
    chosen = {"kind": kind, "attention": "sdpa", "accumulate": pieces}
    apart, together = search(**chosen), search(**chosen)
    assert not apart.gradient.together
    together.gradient.together, together.gradient.once = True, pieces == 1
    one, two = fast(together, 5), fast(apart, 5)
    assert (one - two).norm() / two.norm() < 1e-5
