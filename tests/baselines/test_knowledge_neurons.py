import pytest
import torch

from knowsub.architectures import MLP, ModuleType, maskable_matrices
from knowsub.baselines.knowledge_neurons import neuron_attributions, neuron_counts, neuron_scores
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from tests.architectures import VOCAB, tiny


@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi3"])
def test_attributions_add_up_to_what_the_activations_change(kind: str) -> None:
    """Completeness of integrated gradients: P with all of a block's neurons minus P with none."""
    model = tiny(kind)
    tokens = torch.randint(1, VOCAB, (1, 5), generator=torch.Generator().manual_seed(3))
    target_mask = torch.zeros_like(tokens, dtype=torch.bool)
    target_mask[:, 3] = True
    batch, upper = cache_lower_states(model, 2, Batch(tokens, target_mask)), upper_blocks(model, 2)
    attributions = neuron_attributions(model, upper, maskable_matrices(model), batch, 60, 8)
    with torch.no_grad():
        before = model(input_ids=tokens).logits[0, 3].softmax(-1)[tokens[0, 4]]
    for matrix in maskable_matrices(model, module_types=[ModuleType.MLP_OUT]):
        module = model.get_submodule(matrix.parameter.removesuffix(".weight"))

        def silenced(_: object, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            quiet = inputs[0].clone()
            quiet[:, 3] = 0
            return (quiet,)

        handle = module.register_forward_pre_hook(silenced)
        with torch.no_grad():
            after = model(input_ids=tokens).logits[0, 3].softmax(-1)[tokens[0, 4]]
        handle.remove()
        total = float(attributions[matrix.block].sum())
        assert total == pytest.approx(float(before - after), abs=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi3"])
def test_a_weight_has_the_score_of_its_neuron(kind: str) -> None:
    model = tiny(kind)
    width = {
        matrix.shape[matrix.axes.index("in")]
        for matrix in maskable_matrices(model, module_types=[ModuleType.MLP_OUT])
    }.pop()
    scores = neuron_scores(
        maskable_matrices(model), {2: torch.arange(width).float(), 3: torch.zeros(width)}
    )
    for matrix in maskable_matrices(model, blocks=[2]):
        score = scores[matrix.name]
        assert score.shape == matrix.shape
        if matrix.module_type in MLP:
            axis = matrix.axes.index("in" if matrix.module_type == ModuleType.MLP_OUT else "out")
            assert score.select(axis, 5).unique().tolist() == [5]
        else:
            assert score.abs().sum() == 0


def test_the_attentions_share_goes_to_the_mlp_of_its_block() -> None:
    model = tiny("gpt2")
    counts = {matrix.name: 10 * (1 + matrix.block) for matrix in maskable_matrices(model)}
    moved = neuron_counts(maskable_matrices(model), counts)
    for block in (2, 3):
        matrices = maskable_matrices(model, blocks=[block])
        assert sum(moved[m.name] for m in matrices) == sum(counts[m.name] for m in matrices)
        assert all(moved[m.name] == 0 for m in matrices if m.module_type not in MLP)


def test_what_does_not_fit_into_the_mlp_is_left_out() -> None:
    matrices = maskable_matrices(tiny("gpt2"))
    moved = neuron_counts(matrices, {matrix.name: matrix.size for matrix in matrices})
    assert all(moved[m.name] == m.size for m in matrices if m.module_type in MLP)
