from __future__ import annotations

import pytest
import torch

from knowsub.analysis.placement import head_counts, implied_matrices
from knowsub.analysis.structure import unit_counts
from knowsub.masks.mask import Mask
from knowsub.masks.options import Granularity
from tests.analysis.setting import random_mask, tiny_matrices
from tests.architectures import CONFIGS


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_what_shapes_imply_counts_as_the_model_does(kind):
    matrices = tiny_matrices(kind)
    mask = random_mask(matrices, 0.3, torch.Generator().manual_seed(0))
    implied = implied_matrices(mask)
    assert {matrix.name for matrix in implied} == {matrix.name for matrix in matrices}
    assert head_counts(mask, implied) == head_counts(mask, matrices)


def test_every_unit_counts_every_weight_once():
    matrices = tiny_matrices("gpt2")
    mask = random_mask(matrices, 0.3, torch.Generator().manual_seed(0))
    for matrix in matrices:
        members = int(mask.bits[matrix.name].sum())
        for unit in (Granularity.INPUT, Granularity.OUTPUT, Granularity.MATRIX, Granularity.WEIGHT):
            assert unit_counts(mask.bits[matrix.name], matrix, unit).sum() == members
    total = sum(found[2] for found in head_counts(mask, matrices).values())
    attention = [matrix.name for matrix in matrices if "head" in matrix.axes]
    assert total == sum(int(mask.bits[name].sum()) for name in attention)


def test_a_foreign_matrix_name_is_refused():
    mask = Mask({"transformer.h.0": torch.zeros(2, 2, dtype=torch.bool)}, "m")
    with pytest.raises(ValueError, match=r"matrix 'transformer\.h\.0' is not of the form"):
        implied_matrices(mask)
