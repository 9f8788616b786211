"""Options of the stage `analyze`."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from knowsub.ranges import Count, OpenFraction, Seed


@dataclass
class AnalyzeOptions:
    """Options of the stage `analyze`."""

    ablations: bool
    """Whether parts and combinations of the masks are removed and scored."""
    max_facts: Count
    """Facts scored per knowledge graph at most, one statement each [facts]."""
    tradeoff_sizes: list[Annotated[float, Field(gt=0, le=4)]]
    """Sizes of the trade-off curve: random shares of the trained mask [fraction]; [] = no curve."""
    baselines: bool
    """Whether the masks of the baseline methods are compared with the trained ones."""
    alpha: OpenFraction
    """Family-wise error rate after Holm's correction [fraction]."""
    seed: Seed
    """Of the random parts of a mask."""
