"""What several tests of the search read: the compiled terms, made once for each process of the suite."""

import pytest


@pytest.fixture(scope="session")
def terminology_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("terminology")


@pytest.fixture(scope="session")
def terminology(terminology_folder):
    pytest.importorskip("edsnlp", reason="the terms of CIM-10 and ATC are in edsnlp (extra: search)")
    from fedhealth.search.concepts import Terminology

    return Terminology.load(terminology_folder)
