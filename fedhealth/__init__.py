"""FedHealth: hospitals train models together while patient data never leave a hospital."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedhealth.researcher import Study as Study

__version__ = "0.1.0"
__all__ = ["Study", "__version__"]


def __getattr__(name: str) -> object:
    """Load the researcher's side where it is asked for: nothing else here needs it."""
    if name == "Study":
        from fedhealth.researcher import Study

        return Study
    raise AttributeError(f"module 'fedhealth' has no attribute {name!r}")
