"""Process-wide state that a test may change and no other test may inherit."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _subnormals_as_ieee_754_wants_them():
    """Undo torch's flushing of subnormals, which `make_deterministic` switches on for a gate's whole process."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
