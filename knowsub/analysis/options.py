"""Options of the stage `analyze`."""

from dataclasses import dataclass


@dataclass
class AnalyzeOptions:
    """Options of the stage `analyze`."""

    ablations: bool
    """Whether parts and combinations of the masks are removed and scored."""
    max_facts: int
    """Statements scored per knowledge graph at most, one per fact."""
    tradeoff_sizes: list[float]
    """Sizes of the trade-off curve: random shares of the trained mask [fraction]; [] = no curve."""
    baselines: bool
    """Whether the masks of the baseline methods are set beside the trained ones."""
    alpha: float
    """Family-wise error rate after Holm's correction [fraction]."""
    seed: int
    """Of the random parts of a mask."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense (ValueError naming key, value and what is allowed)."""
        _require("analyze.max_facts", self.max_facts, self.max_facts >= 1, "an integer >= 1")
        bad_shares = [share for share in self.tradeoff_sizes if not 0 < share <= 4]
        _require(
            "analyze.tradeoff_sizes", bad_shares, not bad_shares, "fractions above 0 and up to 4"
        )
        _require("analyze.alpha", self.alpha, 0 < self.alpha < 1, "a fraction between 0 and 1")
        _require("analyze.seed", self.seed, self.seed >= 0, "an integer >= 0")


def _require(key: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{key}: value {value!r} is not allowed; use {allowed}")
