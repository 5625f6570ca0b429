import pytest
from ceremony import found


@pytest.fixture
def authority(tmp_path):
    return found(tmp_path)
