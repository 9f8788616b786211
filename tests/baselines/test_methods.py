import pytest
import torch

from knowsub.architectures import maskable_matrices
from knowsub.baselines.methods import (
    CalibrationData,
    baseline_masks,
    calibration_data,
    scale_counts,
    select,
    set_difference,
    snip,
    taylor,
)
from knowsub.baselines.options import BaselineOptions, Method
from knowsub.masks.mask import Mask, random_scores
from tests.architectures import tiny
from tests.evaluation.setting import (
    SUBJECTS,
    WORDS,
    built_model,
    fact_mask,
    statements,
    tokenizer,
)


def options(**changes: object) -> BaselineOptions:
    values: dict[str, object] = {
        "methods": list(Method), "control_statements": 12, "batch": 2, "protected_share": 0.05,
        "integration_steps": 4, "size_multipliers": [0.5, 2.0], "seed": 0,
    }  # fmt: skip
    return BaselineOptions(**(values | changes))


def graded_mask(model: torch.nn.Module) -> Mask:
    """A mask of another size in every matrix."""
    bits = {
        matrix.name: (torch.arange(matrix.size) < 6 + 2 * index).view(matrix.shape)
        for index, matrix in enumerate(maskable_matrices(model))
    }
    return Mask(bits, "built")


@pytest.fixture(scope="module")
def data() -> CalibrationData:
    """The model whose facts are single weights, made to answer a little less surely."""
    model = built_model()
    model.lm_head.weight[len(WORDS) - 10 :] *= 0.5
    return calibration_data(model, tokenizer(), graded_mask(model), statements("a"), options())


def test_every_method_takes_as_many_weights_per_matrix_at_every_size(data: CalibrationData) -> None:
    mask = graded_mask(data.model)
    masks = {(method, factor): m for method, factor, m in baseline_masks(mask, data, options())}
    assert masks.keys() == {(method, factor) for method in Method for factor in (1.0, 0.5, 2.0)}
    for (method, factor), made in masks.items():
        assert made.model == mask.model
        assert made.meta["method"] == method
        if method != Method.KNOWLEDGE_NEURONS:
            assert made.counts() == {n: round(count * factor) for n, count in mask.counts().items()}
        elif factor == 1:
            assert made.size == mask.size
    for method in Method:
        small, large = masks[method, 0.5], masks[method, 2.0]
        assert all(bool((small.bits[name] <= large.bits[name]).all()) for name in mask.bits)


def test_the_random_mask_of_a_mask_of_neurons_has_as_many_whole_neurons(
    data: CalibrationData,
) -> None:
    rows = {matrix.name: matrix for matrix in data.matrices}
    inputs = {name: [a in each.input_axes for a in each.axes] for name, each in rows.items()}
    bits = {}
    for name, each in rows.items():
        sizes = [n if kept else 1 for n, kept in zip(each.shape, inputs[name], strict=True)]
        chosen = torch.arange(torch.tensor(sizes).prod()) < 2
        bits[name] = chosen.view(sizes).expand(each.shape).contiguous()
    mask = Mask(bits, "built", {"options": '{"granularity": "input"}'})
    given = options(methods=[Method.RANDOM], size_multipliers=[])
    ((_, _, drawn),) = baseline_masks(mask, data, given)
    assert drawn.counts() == mask.counts()
    for name, each in drawn.bits.items():
        shared = [axis for axis, kept in enumerate(inputs[name]) if not kept]
        assert torch.equal(each.amin(dim=shared), each.amax(dim=shared))


A_SUBJECTS = [subject for subject in SUBJECTS if subject[0] == "a"]


@pytest.mark.parametrize("method", [Method.SNIP, Method.TAYLOR])
def test_gradients_find_the_weights_that_hold_the_target(
    data: CalibrationData, method: Method
) -> None:
    truth = fact_mask(data.model, A_SUBJECTS)
    chosen = options(methods=[method], size_multipliers=[], protected_share=0.01)
    ((_, _, made),) = baseline_masks(truth, data, chosen)
    assert made.bits["blocks.1.mlp_out"].equal(truth.bits["blocks.1.mlp_out"])


def test_wanda_and_neurons_find_the_neurons_of_the_target(data: CalibrationData) -> None:
    expected = {SUBJECTS.index(subject) for subject in A_SUBJECTS}
    truth = fact_mask(data.model, A_SUBJECTS)
    chosen = options(methods=[Method.WANDA], size_multipliers=[], protected_share=0.01)
    ((_, _, wanda),) = baseline_masks(truth, data, chosen)
    assert set(wanda.bits["blocks.1.mlp_out"].nonzero()[:, 0].tolist()) == expected
    bits = {name: torch.zeros_like(own) for name, own in truth.bits.items()}
    bits["blocks.1.mlp_out"].view(-1)[: 5 * 64] = True
    chosen = options(methods=[Method.KNOWLEDGE_NEURONS], size_multipliers=[], protected_share=0.01)
    ((_, _, neurons),) = baseline_masks(Mask(bits, "built"), data, chosen)
    rows = neurons.bits["blocks.1.mlp_out"]
    assert set(rows.nonzero()[:, 0].tolist()) == expected
    assert rows[sorted(expected)].all()


def test_magnitude_takes_the_largest_weights(data: CalibrationData) -> None:
    count = len(SUBJECTS)
    bits = {
        matrix.name: torch.zeros(matrix.shape, dtype=torch.bool)
        for matrix in maskable_matrices(data.model)
    }
    bits["blocks.1.mlp_in"].view(-1)[:count] = True
    chosen = options(methods=[Method.MAGNITUDE], size_multipliers=[])
    ((_, _, made),) = baseline_masks(Mask(bits, "built"), data, chosen)
    assert made.bits["blocks.1.mlp_in"].nonzero().tolist() == [[i, i] for i in range(count)]


def test_no_method_leaves_a_trace_in_the_model(data: CalibrationData) -> None:
    assert not any(parameter.requires_grad for parameter in data.model.parameters())
    assert all(parameter.grad is None for parameter in data.model.parameters())


def test_the_method_is_named_taylor_in_files() -> None:
    assert str(Method.TAYLOR) == "taylor"


def test_gradient_scores_by_hand() -> None:
    weight, gradient = torch.tensor([2.0, -1.0]), torch.tensor([-0.5, -3.0])
    assert snip(weight, gradient).tolist() == [1.0, 3.0]
    assert taylor(weight, gradient).tolist() == [1.0, -3.0]


def test_the_highest_scores_are_taken_matrix_by_matrix() -> None:
    scores = {"a": torch.tensor([[1.0, 5.0], [3.0, 2.0]]), "b": torch.tensor([9.0, 8.0, 7.0])}
    mask = select(scores, {"a": 2, "b": 1}, "model", {"method": "hand"})
    assert mask.bits["a"].tolist() == [[False, True], [True, False]]
    assert mask.bits["b"].tolist() == [True, False, False]
    assert (mask.model, mask.meta) == ("model", {"method": "hand"})


def test_equal_scores_are_taken_in_order() -> None:
    mask = select({"a": torch.zeros(5)}, {"a": 2}, "model", {})
    assert mask.bits["a"].tolist() == [True, True, False, False, False]


def test_a_matrix_without_a_count_gets_nothing() -> None:
    assert select({"a": torch.ones(3)}, {}, "model", {}).size == 0


@pytest.mark.parametrize(
    ("scores", "count", "message"),
    [
        (torch.ones(3), 4, "has 3 weights, not 4"),
        (torch.tensor([1.0, float("nan")]), 1, "not a number"),
    ],
)
def test_impossible_selections_are_refused(scores: torch.Tensor, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select({"a": scores}, {"a": count}, "model", {})
    with pytest.raises(ValueError, match="matrix b has no scores"):
        select({"a": torch.ones(3)}, {"b": 1}, "model", {})


def test_what_the_control_facts_need_comes_last() -> None:
    target = {"a": torch.tensor([5.0, 4.0, 3.0, 2.0])}
    control = {"a": torch.tensor([9.0, 0.0, 8.0, 0.0])}
    scores = set_difference(target, control, 0.5)
    order = [select(scores, {"a": count}, "m", {}).bits["a"].tolist() for count in (1, 2, 3)]
    assert order[0] == [False, True, False, False]
    assert order[1] == [False, True, False, True]
    assert order[2] == [True, True, False, True]


def test_what_the_control_facts_do_not_need_is_not_protected() -> None:
    scores = set_difference({"a": torch.tensor([5.0, 4.0])}, {"a": torch.zeros(2)}, 0.9)
    assert select(scores, {"a": 1}, "m", {}).bits["a"].tolist() == [True, False]


def test_nothing_protected_leaves_the_order_of_importance() -> None:
    target = {"a": torch.randn(7, 3, generator=torch.Generator().manual_seed(0))}
    scores = set_difference(target, {"a": target["a"].abs()}, 0.0)
    assert scores["a"].flatten().argsort().equal(target["a"].flatten().argsort())


def test_sizes_are_scaled_and_stay_within_the_matrix() -> None:
    assert scale_counts({"a": 10, "b": 7}, 2.5, {"a": 100, "b": 12}) == {"a": 25, "b": 12}
    assert scale_counts({"a": 10}, 0.25, {"a": 100}) == {"a": 2}


def test_masks_of_random_scores_lie_in_one_another() -> None:
    mask = graded_mask(tiny("gpt2"))
    scores = random_scores(mask, torch.Generator().manual_seed(0))
    small = select(scores, mask.counts(), "m", {})
    large = select(scores, {name: 2 * count for name, count in mask.counts().items()}, "m", {})
    assert all(bool((small.bits[name] <= large.bits[name]).all()) for name in mask.bits)
