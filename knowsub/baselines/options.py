"""What a user chooses about masks by other methods: the section `baseline` of `params.yaml`."""

from dataclasses import dataclass
from enum import StrEnum


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
    """Which methods, and what they may look at."""

    methods: list[Method]
    """Methods whose masks are written."""
    control_statements: int
    """Control statements that methods see, drawn at random; all target statements are seen."""
    batch: int
    """Statements per gradient; importance is the mean over gradients."""
    protected_share: float
    """Share of each site's weights, most important to the controls, that is kept [fraction]."""
    integration_steps: int
    """Points of the integral behind knowledge neurons."""
    size_multipliers: list[float]
    """Further sizes, as multiples of the trained mask's, for equal damage; empty = none."""
    seed: int
    """Of the random mask and of the control statements drawn."""

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a value is out of its range; the message names the key.
        """
        for name in ("control_statements", "batch", "integration_steps"):
            self._require(name, getattr(self, name) >= 1, "an integer >= 1")
        self._require("protected_share", 0 <= self.protected_share < 1, "at least 0 and below 1")
        self._require(
            "size_multipliers",
            all(0 < one <= 100 for one in self.size_multipliers),
            "above 0, up to 100",
        )
        self._require("seed", self.seed >= 0, "an integer >= 0")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise ValueError(f"baseline.{name}: value {value!r} is not allowed; use {allowed}")
