"""The bundle that ships no code: its bytes, and that Flower itself takes it."""

import hashlib
import io
import zipfile

import pytest
from flwr.cli.install import install_from_fab
from flwr.common.config import get_fab_config

from fedhealth.errors import FederationFailed
from fedhealth.flower.fab import CLIENT_APP, FAB_SHA256, SERVER_APP, check_fab, fab_bytes


def test_the_bundle_is_the_one_whose_hash_both_ends_know():
    assert hashlib.sha256(fab_bytes()).hexdigest() == FAB_SHA256
    check_fab(fab_bytes())


def test_the_bundle_holds_a_description_and_its_list_and_no_code():
    assert zipfile.ZipFile(io.BytesIO(fab_bytes())).namelist() == ["pyproject.toml", ".info/CONTENT"]


def test_flower_reads_the_bundle_and_finds_both_apps(tmp_path):
    config = get_fab_config(fab_bytes())
    assert config["tool"]["flwr"]["app"]["components"] == {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}
    installed = install_from_fab(fab_bytes(), install_dir=tmp_path, skip_prompt=True)
    assert [path.name for path in installed.iterdir()] == ["pyproject.toml"]


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_bundle_with_one_byte_changed_is_refused_with_both_hashes(place):
    changed = bytearray(fab_bytes())
    changed[place] ^= 1
    with pytest.raises(FederationFailed) as refused:
        check_fab(bytes(changed))
    assert hashlib.sha256(changed).hexdigest() in str(refused.value)
    assert FAB_SHA256 in str(refused.value)


def test_a_bundle_with_a_module_added_is_refused():
    bundle = io.BytesIO(fab_bytes())
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("fedhealth/__init__.py", "raise SystemExit")
    with pytest.raises(FederationFailed, match="not the one of this release"):
        check_fab(bundle.getvalue())
