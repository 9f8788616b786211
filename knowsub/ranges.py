"""Types of options, each with its range, and the checks that several options share.

A test holds every range against the comment of its key in `params.yaml`.
"""

import re
from collections.abc import Hashable
from typing import Annotated

from pydantic import AfterValidator, Field

Count = Annotated[int, Field(ge=1)]
"""A number of things, at least one."""
Limit = Annotated[int, Field(ge=0)]
"""A largest number; 0 often means no limit."""
Tokens = Annotated[int, Field(ge=2)]
"""Length of a text block [tokens]: the first token has no prediction."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""Seed of a random number generator; numpy takes none above 2^32 - 1."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""A share, both ends included."""
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
"""A share or probability, both ends excluded."""
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
"""A share above zero."""
SplitShare = Annotated[float, Field(ge=0.01, le=0.8)]
"""Share of the data that one split gets."""
Weight = Annotated[float, Field(ge=0)]
"""Coefficient of a loss; 0 leaves it out."""
Ratio = Annotated[float, Field(ge=1)]
"""A perplexity ratio, or a perplexity."""
LearningRate = Annotated[float, Field(gt=0, le=10)]
"""Learning rate of an Adam optimizer."""
Text = Annotated[str, Field(pattern=r"\S")]
"""Text that is not empty."""


def _distinct(values: list[Hashable]) -> list[Hashable]:
    if len(set(values)) < len(values):
        raise ValueError("names one twice")
    return values


Distinct = AfterValidator(_distinct)
"""Metadata of a list: no value occurs twice."""


BLOCKS = r"\d{1,6}[:-]\d{1,6}"
"""Pattern of a range of blocks: `first-end`, 0-based, end open."""


def block_range(text: str, total: int, key: str) -> range:
    """Return the 0-based indices of the blocks that an option names.

    Args:
        text: `none`, `lower_half`, `upper_half` or `first-end`.
        total: Number of blocks of the model.
        key: The option, for the message.

    Returns:
        The indices.

    Raises:
        ValueError: If they reach beyond the model.
    """
    half = total // 2
    halves = {"none": (0, 0), "lower_half": (0, half), "upper_half": (half, total)}
    first, end = halves.get(text) or (int(number) for number in re.split("[:-]", text))
    if end > total:
        raise ValueError(f"{key}: {text} reaches beyond the model's {total}")
    return range(first, end)


def require(holds: bool, key: str, value: object, allowed: str) -> None:
    """Refuse a value that does not fit the other values of its section.

    Args:
        holds: Whether it fits.
        key: The key, in its section.
        value: Its value.
        allowed: What would fit, for the message.

    Raises:
        ValueError: If it does not fit.
    """
    if not holds:
        raise ValueError(f"{key}: value {value!r} is not allowed; use {allowed}")
