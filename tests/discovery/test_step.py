from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from knowsub.discovery.kernels import MAX_MATMUL_ERROR, matmul_error
from knowsub.discovery.options import Matmul, Precision, Samples, Suppression
from knowsub.discovery.step import draw_minibatch, neighborhood_counts
from knowsub.discovery.trainer import MaskTrainer
from knowsub.lm.batch import Batch
from knowsub.masks.ablation import applied
from knowsub.masks.gates import Gates, UniformNoise
from knowsub.masks.options import Estimator
from tests.architectures import CONFIGS, PACKABLE
from tests.discovery.setting import search


def multiplied(gates: Gates, factor: torch.Tensor) -> dict[str, torch.Tensor]:
    weights = {name: own.detach().clone() for name, own in gates.masked_weights().weights.items()}
    for span in gates.slices:
        own = span.matrix.view(gates.model.get_parameter(span.matrix.parameter))
        span.matrix.view(weights[span.matrix.parameter]).copy_(own * span.take(factor))
    return weights


def straightforward(trainer: MaskTrainer, sample_seed: int) -> torch.Tensor:
    """The published algorithm written plainly: whole models, full logits, autograd everywhere."""
    gates, data, options = trainer.gates, trainer.data, trainer.options
    model = gates.model
    logits = gates.logits.clone().requires_grad_()
    noise = UniformNoise(sample_seed).uniform(len(logits))
    soft = torch.sigmoid(logits + torch.logit(noise))
    bits = (soft > 0.5).float() - soft.detach() + soft
    minibatch = draw_minibatch(data, options, torch.Generator().manual_seed(sample_seed))
    weights, only = multiplied(gates, 1 - bits), multiplied(gates, bits)

    def kl(batch: Batch) -> torch.Tensor:
        with applied(model, weights):
            masked = model(batch.tokens).logits[batch.target_mask].log_softmax(-1)
        with torch.no_grad():
            original = model(batch.tokens).logits[batch.target_mask].log_softmax(-1)
        return functional.kl_div(masked, original, log_target=True, reduction="batchmean")

    target = data.target[minibatch["suppression"]]
    with applied(model, weights):
        flat = model(target.tokens).logits[target.target_mask].log_softmax(-1)
    uniform = torch.full_like(flat, 1 / flat.shape[-1])
    suppression = functional.kl_div(flat, uniform, reduction="batchmean")
    loss = options.suppression_weight * suppression
    loss = loss + options.control_weight * kl(data.control.batch[minibatch["control"]])
    assert data.neighborhood is not None
    loss = loss + options.neighborhood_weight * kl(
        data.neighborhood.batch[minibatch["neighborhood"]]
    )
    loss = loss + options.text_weight * kl(data.text.batch[minibatch["text"]])
    if options.expression_weight:
        with applied(model, only):
            shown = model(target.tokens).logits[target.target_mask]
        expression = functional.cross_entropy(shown, target.labels[target.target_mask])
        loss = loss + options.expression_weight * expression
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


def fast(trainer: MaskTrainer, sample_seed: int) -> torch.Tensor:
    sample = trainer.gates.sample(UniformNoise(sample_seed))
    minibatch = draw_minibatch(
        trainer.data, trainer.options, torch.Generator().manual_seed(sample_seed)
    )
    return trainer.gradient(sample, minibatch)[1]


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("expression_weight", [0.0, 1.0])
def test_with_the_noise_fixed_the_gradient_is_that_of_the_straightforward_loop(
    kind: str, expression_weight: float
) -> None:
    trainer = search(kind=kind, expression_weight=expression_weight)
    expected = straightforward(trainer, 5)
    error = (fast(trainer, 5) - expected).norm() / expected.norm()
    assert error < 1e-5


def test_objects_of_several_tokens_have_the_same_gradient_too() -> None:
    trainer = search(n_targets=3)
    expected = straightforward(trainer, 5)
    assert (fast(trainer, 5) - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("count", [2, 3])
def test_microbatches_have_the_gradient_of_the_whole_minibatch(count: int) -> None:
    whole, cut = fast(search(), 5), fast(search(grad_accumulation=count), 5)
    assert (whole - cut).norm() / whole.norm() < 1e-5


@pytest.mark.parametrize("expression_weight", [0.0, 1.0])
@pytest.mark.parametrize("count", [1, 2])
def test_with_a_sample_for_every_term_the_gradient_is_the_sum_of_the_terms_own(
    expression_weight: float, count: int
) -> None:
    changes = {"expression_weight": expression_weight, "grad_accumulation": count}
    trainer = search(samples=Samples.PER_TERM, **changes)
    weights = {"suppression": 1.5, "control": 1.0, "neighborhood": 0.6, "text": 0.7}
    weights |= {"expression": expression_weight} if expression_weight else {}
    noise = UniformNoise(0)  # of the search's seed
    expected = torch.zeros_like(trainer.gates.logits)
    order = torch.Generator().manual_seed(0)
    for term in weights:
        alone = {f"{name}_weight": weights[name] * (name == term) for name in weights}
        one = search(**(changes | alone))
        minibatch = draw_minibatch(one.data, one.options, order)
        order = torch.Generator().manual_seed(0)
        expected += one.gradient(one.gates.sample(noise), minibatch)[1]
    minibatch = draw_minibatch(trainer.data, trainer.options, order)
    terms, grad, _ = trainer._sampled_gradient(minibatch, 1.0)
    assert set(terms) == set(weights)
    assert (grad - expected).norm() / expected.norm() < 1e-5


def test_one_sample_for_all_terms_draws_noise_once_and_one_for_each_four_times() -> None:
    shared, each = search(noise_final=1.0), search(noise_final=1.0, samples=Samples.PER_TERM)
    first, second = shared.train_step(), each.train_step()
    # the first term reads the same sample in both, the others do not
    assert first["suppression"] == pytest.approx(second["suppression"], rel=1e-5)
    assert first["control"] != pytest.approx(second["control"], rel=1e-5)
    count = len(shared.gates.logits)
    for trainer, samples in ((shared, 1), (each, 4)):
        noise = UniformNoise(0)
        noise.uniform(samples * count)
        assert torch.equal(trainer.noise.get_state(), noise.get_state())


@pytest.mark.parametrize("suppression", list(Suppression))
@pytest.mark.parametrize("estimator", list(Estimator))
def test_every_suppression_gives_finite_terms_and_pushes_the_target(
    suppression: Suppression, estimator: Estimator
) -> None:
    trainer = search(suppression=suppression, estimator=estimator, steps=3)
    metrics = [trainer.train_step() for _ in range(3)]
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in metrics)
    assert metrics[0]["suppression"] > 0


def test_the_original_model_is_never_written() -> None:
    trainer = search(expression_weight=1.0)
    before = {name: own.clone() for name, own in trainer.gates.model.state_dict().items()}
    for _ in range(3):
        trainer.train_step()
    after = trainer.gates.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bf16_products_give_nearly_the_same_gradient_in_float32() -> None:
    exact, low = fast(search(), 5), fast(search(precision=Precision.BFLOAT16), 5)
    assert low.dtype == torch.float32
    assert 0 < (low - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_every_architecture_computes_with_bf16_products(kind: str) -> None:
    trainer = search(kind=kind, precision=Precision.BFLOAT16, expression_weight=1.0)
    exact = search(kind=kind, expression_weight=1.0)
    metrics, expected = trainer.train_step(), exact.train_step()
    assert {name: pytest.approx(value, rel=0.1, abs=0.05) for name, value in expected.items()} == (
        metrics
    )
    assert all(parameter.dtype == torch.float32 for parameter in trainer.gates.model.parameters())


def test_products_of_another_library_have_the_gradient_of_the_default_or_are_refused() -> None:
    if matmul_error(Matmul.ONEDNN) > MAX_MATMUL_ERROR:
        with pytest.raises(ValueError, match="not allowed on this processor"):
            search(matmul=Matmul.ONEDNN)
        return
    exact, other = fast(search(), 5), fast(search(matmul=Matmul.ONEDNN), 5)
    assert (other - exact).norm() / exact.norm() < 1e-5


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_activation_checkpointing_gives_the_same_gradient_bit_for_bit(kind: str) -> None:
    kept = fast(search(kind=kind, expression_weight=1.0), 5)
    assert torch.equal(
        kept, fast(search(kind=kind, expression_weight=1.0, activation_checkpointing=True), 5)
    )


def test_activation_checkpointing_works_in_bf16() -> None:
    low = (
        search(precision=Precision.BFLOAT16),
        search(precision=Precision.BFLOAT16, activation_checkpointing=True),
    )
    assert torch.equal(fast(low[0], 5), fast(low[1], 5))


@pytest.mark.parametrize("kind", PACKABLE)
@pytest.mark.parametrize("count", [1, 3])
def test_text_and_statements_in_one_pass_have_the_gradient_of_two(kind: str, count: int) -> None:
    chosen = {"kind": kind, "attention": "sdpa", "grad_accumulation": count}
    apart, together = search(**chosen), search(**chosen)
    assert not apart.gradient.single_pass
    together.gradient.single_pass, together.gradient.in_place = True, count == 1
    one, two = fast(together, 5), fast(apart, 5)
    assert (one - two).norm() / two.norm() < 1e-5


def test_facts_and_unseen_entities_have_their_shares_of_the_neighborhood() -> None:
    trainer = search(neighborhood_batch=4, unseen_share=0.5)
    for seed in range(20):
        neighborhood = draw_minibatch(
            trainer.data, trainer.options, torch.Generator().manual_seed(seed)
        )["neighborhood"].tolist()
        assert sorted(set(neighborhood)) == sorted(neighborhood)
        assert sum(row < trainer.data.n_neighborhood for row in neighborhood) == 2
        assert sum(row >= trainer.data.n_neighborhood for row in neighborhood) == 2


@pytest.mark.parametrize(("n_facts", "expected"), [(5, (4, 0)), (0, (0, 4)), (3, (1, 3))])
def test_where_one_kind_is_missing_the_other_takes_its_place(
    n_facts: int, expected: tuple[int, int]
) -> None:
    trainer = search(neighborhood_batch=4, unseen_share=0.75)
    assert (
        neighborhood_counts(replace(trainer.data, n_neighborhood=n_facts), trainer.options)
        == expected
    )


def test_without_a_neighborhood_none_is_drawn() -> None:
    trainer = search()
    bare = replace(trainer.data, neighborhood=None, n_neighborhood=0)
    assert len(draw_minibatch(bare, trainer.options, torch.Generator())["neighborhood"]) == 0
