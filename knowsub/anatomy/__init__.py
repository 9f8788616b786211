"""Where the blocks, the attention and MLP matrices and the heads of each architecture live."""

from knowsub.anatomy.families import ATTENTION, FAMILIES, MLP, Family, Matrix, Part
from knowsub.anatomy.sites import Site, block_count, family, sites, upper_half

__all__ = [
    "ATTENTION",
    "FAMILIES",
    "MLP",
    "Family",
    "Matrix",
    "Part",
    "Site",
    "block_count",
    "family",
    "sites",
    "upper_half",
]
