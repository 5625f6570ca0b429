import shutil

import pytest
from audited_site import make_gate
from published_run import SITES, make_ledger, make_run

from fedhealth.compliance.federation import read_federation


@pytest.fixture(scope="session")
def gate(tmp_path_factory):
    """A gate's state folder; not to be changed."""
    return make_gate(tmp_path_factory.mktemp("north") / "gate")


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    for site in SITES:
        make_ledger(folder / site, site)
    return folder


@pytest.fixture(scope="module")
def ledgers(states):
    return read_federation([states])


@pytest.fixture(scope="module")
def published(tmp_path_factory, states):
    return make_run(tmp_path_factory.mktemp("published") / "run", {site: states / site for site in SITES})


@pytest.fixture
def run(published, tmp_path):
    return shutil.copytree(published, tmp_path / "run")
