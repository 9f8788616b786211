import pytest
import torch

from knowsub.anatomy import MLP, Part, sites
from knowsub.baselines.knowledge_neurons import (
    neuron_attributions,
    neuron_counts,
    neuron_scores,
)
from knowsub.lm.encode import Batch
from knowsub.lm.trunk import push, upper_blocks
from tests.architectures import VOCAB, tiny


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_attributions_add_up_to_what_the_activations_change(kind: str) -> None:
    """Completeness of integrated gradients: P with all of a block's neurons minus P with none."""
    model = tiny(kind)
    tokens = torch.randint(1, VOCAB, (1, 5), generator=torch.Generator().manual_seed(3))
    reads = torch.zeros_like(tokens, dtype=torch.bool)
    reads[:, 3] = True
    batch, upper = push(model, 2, Batch(tokens, reads)), upper_blocks(model, 2)
    found = neuron_attributions(model, upper, sites(model), batch, 60, 8)
    with torch.no_grad():
        before = model(input_ids=tokens).logits[0, 3].softmax(-1)[tokens[0, 4]]
    for site in sites(model, parts=[Part.MLP_OUT]):
        module = model.get_submodule(site.parameter.removesuffix(".weight"))

        def silence(_: object, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            quiet = inputs[0].clone()
            quiet[:, 3] = 0
            return (quiet,)

        handle = module.register_forward_pre_hook(silence)
        with torch.no_grad():
            after = model(input_ids=tokens).logits[0, 3].softmax(-1)[tokens[0, 4]]
        handle.remove()
        assert float(found[site.block].sum()) == pytest.approx(float(before - after), abs=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_weight_has_the_score_of_its_neuron(kind: str) -> None:
    model = tiny(kind)
    width = {site.shape[site.axes.index("in")] for site in sites(model, parts=[Part.MLP_OUT])}.pop()
    scores = neuron_scores(sites(model), {2: torch.arange(width).float(), 3: torch.zeros(width)})
    for site in sites(model, blocks=[2]):
        own = scores[site.name]
        assert own.shape == site.shape
        if site.part in MLP:
            axis = site.axes.index("in" if site.part == Part.MLP_OUT else "out")
            assert own.select(axis, 5).unique().tolist() == [5]
        else:
            assert own.abs().sum() == 0


def test_the_attentions_share_goes_to_the_mlp_of_its_block() -> None:
    model = tiny("gpt2")
    counts = {site.name: 10 * (1 + site.block) for site in sites(model)}
    found = neuron_counts(sites(model), counts)
    for block in (2, 3):
        own = sites(model, blocks=[block])
        assert sum(found[site.name] for site in own) == sum(counts[site.name] for site in own)
        assert all(found[site.name] == 0 for site in own if site.part not in MLP)


def test_what_does_not_fit_into_the_mlp_is_left_out() -> None:
    model = tiny("gpt2")
    counts = {site.name: site.size for site in sites(model)}
    found = neuron_counts(sites(model), counts)
    assert all(found[site.name] == site.size for site in sites(model) if site.part in MLP)
