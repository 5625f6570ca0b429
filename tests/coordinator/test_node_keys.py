"""Whose node key is whose, and what is no node key."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedhealth.coordinator.node_keys import NodeKeys, node_key
from fedhealth.errors import FederationFailed

SSH = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH


def public_key(curve=None):
    return ec.generate_private_key(curve or ec.SECP384R1()).public_key().public_bytes(*SSH)


def test_a_key_is_one_sites_and_may_be_shown_again(tmp_path):
    keys, key = NodeKeys(tmp_path / "nodes"), node_key("hungary", public_key())
    keys.check("hungary", key)
    keys.keep("hungary", key)
    keys.check("hungary", key)
    with pytest.raises(FederationFailed, match=r"site 'oslo' is refused: its key is that of site 'hungary'"):
        keys.check("oslo", key)
    assert NodeKeys(tmp_path / "nodes").all() == {"hungary": key}, "it outlives the process"


def test_a_site_may_have_another_key_and_the_former_is_nobodys(tmp_path):
    keys, first, second = NodeKeys(tmp_path / "nodes"), node_key("a", public_key()), node_key("a", public_key())
    keys.keep("a", first)
    keys.keep("a", second)
    assert keys.all() == {"a": second}


def test_a_key_reads_as_the_superlink_has_it():
    private = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = private.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert node_key("a", private.public_bytes(*SSH)) == pem


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"ecdsa-sha2-nistp384 AAAA", id="cut off"),
        pytest.param(public_key(ec.SECP256R1()), id="another curve"),
        pytest.param(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*SSH), id="another kind"),
    ],
)
def test_what_is_no_p384_key_is_refused(wrong):
    with pytest.raises(FederationFailed, match="wanted a P-384 key in OpenSSH's format"):
        node_key("hungary", wrong)
