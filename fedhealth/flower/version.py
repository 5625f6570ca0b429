"""Which Flower this project was written for; another one is refused before anything starts.

Private pieces of Flower move without notice, from one minor version to the next. Each has a contract test in
`tests/flower/test_flower_contract.py`; a version counts here once those tests hold with it: `docs/upgrading-flower.md`.
"""

from importlib.metadata import PackageNotFoundError, version

from fedhealth.errors import ConfigInvalid

SUPPORTED = "1.41"
"""Major and minor version; the patch may be any."""


def check_flower() -> str:
    """Return the version of the Flower that is installed here; loads nothing of it.

    Raises:
        ConfigInvalid: there is none, or it is not a supported one.
    """
    try:
        found = version("flwr")
    except PackageNotFoundError:
        found = "none"
    if not is_supported(found):
        raise ConfigInvalid(
            "this FedHealth does not run with the Flower that is installed",
            got=f"flwr {found}",
            wanted=f"flwr {SUPPORTED}, any patch",
            next_step=f"Install it: pip install 'flwr=={SUPPORTED}.*'. To support another: docs/upgrading-flower.md",
        )
    return found


def is_supported(found: str) -> bool:
    """Say whether a version of Flower, here or at another end, is one that this project runs with."""
    return found.split(".")[:2] == SUPPORTED.split(".")
