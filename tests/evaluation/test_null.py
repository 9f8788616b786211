"""If the mask itself is random, the p against random masks is uniform."""

import numpy as np
import torch
from scipy import stats

from knowsub.architectures import maskable_matrices
from knowsub.hypotheses import permutation_p
from knowsub.lm.batch import Batch
from knowsub.lm.blocks import cache_lower_states, upper_blocks
from knowsub.lm.score import score
from knowsub.masks.ablation import ablated
from knowsub.masks.mask import Mask, random_masks
from tests.architectures import VOCAB, tiny


def test_p_against_random_is_uniform_for_a_random_mask() -> None:
    model, generator = tiny("gpt2"), torch.Generator().manual_seed(0)
    tokens = torch.randint(1, VOCAB, (6, 5), generator=generator)
    reads = torch.zeros_like(tokens, dtype=torch.bool)
    reads[:, 3] = True
    batch, upper, places = (
        cache_lower_states(model, 2, Batch(tokens, reads)),
        upper_blocks(model, 2),
        maskable_matrices(model),
    )
    bits = {
        site.name: (torch.arange(site.size) < site.size // 9).view(site.shape) for site in places
    }
    original, drawn = score(upper, batch), []
    for mask in random_masks(Mask(bits, "tiny"), 500, generator):
        with ablated(model, places, mask):
            drawn.append(float((score(upper, batch).nll - original.nll).mean()))
    repetitions = np.array(drawn).reshape(50, 10)
    p = [permutation_p(float(row[0]), row[1:].tolist()).pvalue for row in repetitions]
    counts = np.bincount(np.round(np.array(p) * 10).astype(int), minlength=11)[1:]
    assert stats.chisquare(counts).pvalue > 0.01
