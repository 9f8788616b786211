"""Granularities and estimators by name, free of torch so that the configuration can read them."""

from __future__ import annotations

from enum import StrEnum


class Granularity(StrEnum):
    """What one gate opens or closes."""

    WEIGHT = "weight"
    INPUT = "input"
    OUTPUT = "output"
    HEAD = "head"
    MATRIX = "matrix"


class Estimator(StrEnum):
    """How a gate is sampled and differentiated."""

    GUMBEL_SIGMOID = "gumbel_sigmoid"
    HARD_CONCRETE = "hard_concrete"
