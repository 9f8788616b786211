"""Options of the stage `baseline`: masks by other methods."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from knowsub.ranges import Count, Seed


class Method(StrEnum):
    """Ways to choose as many weights as the trained mask has."""

    RANDOM = "random"
    MAGNITUDE = "magnitude"
    SNIP = "snip"
    TAYLOR = "taylor"
    WANDA = "wanda"
    KNOWLEDGE_NEURONS = "knowledge_neurons"


@dataclass
class BaselineOptions:
    """Which methods, and the data that they see."""

    methods: list[Method]
    """Methods whose masks are written."""
    control_statements: Count
    """Control statements that methods see, drawn at random; all target statements are seen."""
    batch: Count
    """Statements per gradient; importance is the mean over gradients."""
    protected_share: Annotated[float, Field(ge=0, lt=1)]
    """Share of each matrix, most important to the controls, that is never chosen [fraction]."""
    integration_steps: Count
    """Points of the integral behind knowledge neurons."""
    size_multipliers: list[Annotated[float, Field(gt=0, le=100)]]
    """Further sizes, as multiples of the trained mask's, for equal damage; empty = none."""
    seed: Seed
    """Of the random mask and of the control statements drawn."""
