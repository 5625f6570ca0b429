import pytest
import torch


@pytest.fixture(autouse=True)
def subnormals_are_kept():
    """A test that made this process compute as a gate does leaves subnormals flushed, for all that follow."""
    torch.set_flush_denormal(False)
