import pytest
from audited_site import make_gate


@pytest.fixture(scope="session")
def gate(tmp_path_factory):
    """A gate's state folder; not to be changed."""
    return make_gate(tmp_path_factory.mktemp("north") / "gate")
