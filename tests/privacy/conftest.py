import pytest
from hospital_ledger import Hospital


@pytest.fixture
def hospital(tmp_path):
    return Hospital(tmp_path)
