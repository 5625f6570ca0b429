"""What holds for every test: how hypothesis draws, and process-wide state that no test may inherit from another."""

import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from fedhealth.secret_file import locked_folder

# No deadline, because machines are noisy and timed assertions do not belong in tests. In continuous integration the
# same examples are drawn each time, so that a change is judged by what it changed.
settings.register_profile("fedhealth", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("fedhealth")


def pytest_collection_modifyitems(items):
    """Begin with the files that start processes: the longest, which would be waited for at the end."""
    long = {item.path for item in items if item.get_closest_marker("processes")}
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Search what is imported for no garbage, now or later: Flower collects once for each array that it reads."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_sessionfinish():
    """Take it back, because DuckDB complains of what is left of it when the interpreter ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _torch_as_it_comes():
    """Undo what `make_deterministic` switches on for a gate's whole process: flushed subnormals, fixed kernels."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
        sys.modules["torch"].set_deterministic_debug_mode("default")


@pytest.fixture(autouse=True)
def _nothing_said():
    """Forget what a command said and that it was asked for JSON: in earnest, one command runs in a process."""
    yield
    if "fedhealth.cli.output" in sys.modules:
        sys.modules["fedhealth.cli.output"].begin([])


@pytest.fixture
def short_path():
    """A folder whose path leaves room for that of a Unix socket, which may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="fh-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def compiled_terms(tmp_path_factory):
    """The words of medicine, compiled once for all processes of the tests: they are the same for every index."""
    from fedhealth.search.concepts import Terminology

    folder = tmp_path_factory.getbasetemp().parent / "compiled-terms"
    folder.mkdir(exist_ok=True)
    with locked_folder(folder):
        Terminology.load(folder)
    made = tmp_path_factory.mktemp("terms")
    for path in folder.iterdir():
        if path.name != "lock":
            shutil.copy(path, made)
    return made
