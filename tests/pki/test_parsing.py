"""Certificates and requests that strangers send: whatever the bytes, an answer or one error of ours, never a crash."""

import contextlib

import pytest
from ceremony import NOW, found
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given
from hypothesis import strategies as st

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.certificates import make_key, make_request, parse_certificate, parse_chain, requested_key
from fedhealth.pki.identity import TlsIdentity, check_identity
from fedhealth.pki.leaf import check_leaf
from fedhealth.pki.profiles import Role

REQUEST = x509.load_pem_x509_csr(make_request(make_key("P-256"), "heart", "hungary"))
REQUEST_DER = REQUEST.public_bytes(serialization.Encoding.DER)
CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    authority = found(tmp_path_factory.mktemp("ca"))
    key = make_key("P-256")
    return key, authority.issue(key.public_key(), Role.SITE, "hungary", NOW), authority.root_pem


def changed(der, changes):
    data = bytearray(der)
    for place, value in changes:
        data[place % len(data)] = value
    return bytes(data)


def as_pem(der, kind):
    import base64

    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {kind}-----\n{body}-----END {kind}-----\n".encode()


@given(st.binary(max_size=400))
def test_any_bytes_are_certificates_a_request_or_one_error(data):
    for parse in (lambda: parse_certificate(data), lambda: parse_chain(data, 2), lambda: requested_key(data, "P-256")):
        with contextlib.suppress(IdentityInvalid):
            parse()


@given(CHANGES)
@example([(8, 1)])  # of another version
def test_a_request_with_any_bytes_changed_is_a_key_or_one_error(changes):
    der = changed(REQUEST_DER, changes)
    with contextlib.suppress(IdentityInvalid):
        requested_key(as_pem(der, "CERTIFICATE REQUEST"), "P-256")
        assert der == REQUEST_DER or requested_key(as_pem(der, "CERTIFICATE REQUEST"), "P-256")


@given(changes=CHANGES)
def test_a_leaf_with_any_bytes_changed_is_whose_it_says_or_one_error(chain, changes):
    leaf, _ = parse_chain(chain[1], 2)
    der = changed(leaf.public_bytes(serialization.Encoding.DER), changes)
    with contextlib.suppress(IdentityInvalid):
        certificate = parse_certificate(as_pem(der, "CERTIFICATE"))
        assert check_leaf(certificate, "heart", Role.SITE) == "hungary" or changes


@given(changes=CHANGES)
def test_a_chain_with_any_byte_changed_is_no_identity(chain, changes):
    key, pem, root = chain
    certificates = [each.public_bytes(serialization.Encoding.DER) for each in parse_chain(pem, 2)]
    for number in range(2):
        der = changed(certificates[number], changes)
        if der == certificates[number]:
            continue
        pems = [as_pem(der if place == number else each, "CERTIFICATE") for place, each in enumerate(certificates)]
        with pytest.raises(IdentityInvalid):
            check_identity(TlsIdentity(b"".join(pems), key_bytes(key), root), "heart", Role.SITE, NOW)


def key_bytes(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
