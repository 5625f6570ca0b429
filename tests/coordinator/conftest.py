import tempfile
from pathlib import Path

import pytest
from served_coordinator import STUDY, ServedCoordinator


@pytest.fixture
def served():
    """A coordinator that serves two sites, which have approved nothing yet."""
    with tempfile.TemporaryDirectory(prefix="fh-") as folder:  # short: a socket's path has 107 bytes
        made = ServedCoordinator(Path(folder), STUDY)
        made.start()
        yield made
        made.close()
