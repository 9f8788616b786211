"""Find, verify and remove the subnetworks that hold a language model's knowledge of chosen facts.

`knowsub.api` says what is here; nothing is imported before it is used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from knowsub.api import ablated, density, find_subnetwork, load, plot, remove, train_options
    from knowsub.masks.mask import Mask

__all__ = [
    "Mask", "__version__", "ablated", "density", "find_subnetwork", "load", "plot",
    "remove", "train_options",
]  # fmt: skip
_PLACES = {"Mask": "knowsub.masks.mask"} | dict.fromkeys(
    ("ablated", "density", "find_subnetwork", "load", "plot", "remove", "train_options"),
    "knowsub.api",
)


def __getattr__(name: str) -> Any:
    """Import what is asked for (AttributeError if it is not here)."""
    if name == "__version__":
        return version("knowsub")
    if name not in _PLACES:
        raise AttributeError(f"module 'knowsub' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """Return what is here, without importing it."""
    return sorted(__all__)
