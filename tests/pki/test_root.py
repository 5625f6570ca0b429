"""The root: what the ceremony makes, and what it refuses."""

import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from ceremony import NOW
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.certificates import fingerprint_of, make_key, make_request
from fedhealth.pki.root import create_root, open_root


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def test_the_root_is_a_constrained_p384_authority_with_a_private_key_file(tmp_path):
    root = create_root(tmp_path / "root", "heart", b"a passphrase", NOW)
    assert isinstance(root.certificate.public_key().curve, ec.SECP384R1)
    basic = extension(root.certificate, x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 1)
    usage = extension(root.certificate, x509.KeyUsage)
    assert usage.critical and usage.value.key_cert_sign
    assert not usage.value.digital_signature and not usage.value.crl_sign
    names = extension(root.certificate, x509.NameConstraints)
    assert names.critical
    assert {name.value for name in names.value.permitted_subtrees} == {"heart", "heart.fedhealth.internal"}
    root.certificate.verify_directly_issued_by(root.certificate)
    assert stat.S_IMODE((tmp_path / "root" / "root.key").stat().st_mode) == 0o600
    assert b"ENCRYPTED" in (tmp_path / "root" / "root.key").read_bytes()


def test_the_fingerprint_is_what_openssl_prints(tmp_path):
    root = create_root(tmp_path / "root", "heart", None, NOW)
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(tmp_path / "root" / "root.pem")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip().partition("=")[2].replace(":", "").lower() == fingerprint_of(root.certificate)


def test_an_opened_root_is_the_created_one_and_needs_its_passphrase(tmp_path):
    root = create_root(tmp_path / "root", "heart", b"right", NOW)
    opened = open_root(tmp_path / "root", b"right")
    assert (opened.federation, opened.certificate) == ("heart", root.certificate)
    for wrong in (b"wrong", None):
        with pytest.raises(IdentityInvalid, match="another passphrase"):
            open_root(tmp_path / "root", wrong)


@pytest.mark.parametrize("file", ["root.pem", "root.key"])
def test_refuses_to_make_a_root_over_another(tmp_path, file):
    create_root(tmp_path / "root", "heart", None, NOW)
    (tmp_path / "root" / file).unlink()
    with pytest.raises(IdentityInvalid, match="holds a root already"):
        create_root(tmp_path / "root", "heart", None, NOW)


def test_refuses_a_root_that_is_missing_mixed_or_open_to_others(tmp_path):
    with pytest.raises(IdentityInvalid, match="cannot read"):
        open_root(tmp_path, None)
    create_root(tmp_path / "root", "heart", None, NOW)
    create_root(tmp_path / "other", "heart", None, NOW)
    (tmp_path / "root" / "root.key").write_bytes((tmp_path / "other" / "root.key").read_bytes())
    with pytest.raises(IdentityInvalid, match="key of another root"):
        open_root(tmp_path / "root", None)
    (tmp_path / "root" / "root.key").chmod(0o640)
    with pytest.raises(IdentityInvalid, match="open to other users; got mode 0640"):
        open_root(tmp_path / "root", None)


def test_the_issuing_authority_lives_a_year_below_the_root_and_above_leaves_only(tmp_path):
    root = create_root(tmp_path / "root", "heart", None, NOW)
    issuer = x509.load_pem_x509_certificate(
        root.certify_issuer(make_request(make_key("P-384"), "heart", "anything"), NOW)
    )
    issuer.verify_directly_issued_by(root.certificate)
    assert issuer.subject.rfc4514_string() == "CN=issuing authority,OU=heart,O=FedHealth"
    assert issuer.not_valid_before_utc == datetime(2026, 3, 1, 11, 55, tzinfo=UTC)
    assert issuer.not_valid_after_utc == datetime(2027, 3, 1, 12, 0, tzinfo=UTC)
    assert extension(issuer, x509.BasicConstraints).value == x509.BasicConstraints(ca=True, path_length=0)
    assert extension(issuer, x509.NameConstraints).value == extension(root.certificate, x509.NameConstraints).value
    late = NOW + timedelta(days=3650)
    short = x509.load_pem_x509_certificate(root.certify_issuer(make_request(make_key("P-384"), "heart", "x"), late))
    assert short.not_valid_after_utc == root.certificate.not_valid_after_utc
    with pytest.raises(IdentityInvalid, match="at its end"):
        root.certify_issuer(make_request(make_key("P-384"), "heart", "x"), NOW + timedelta(days=3653))


def altered(request):
    """The request with one bit of its key changed: it is not signed by that key any more."""
    from cryptography.hazmat.primitives import serialization

    der = bytearray(x509.load_pem_x509_csr(request).public_bytes(serialization.Encoding.DER))
    der[-5] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)


def rsa_request():
    key = rsa.generate_private_key(65537, 2048)
    return make_request(key, "heart", "x")


@pytest.mark.parametrize(
    "request_pem",
    [
        b"",
        b"garbage",
        make_request(make_key("P-256"), "heart", "x"),
        rsa_request(),
        altered(make_request(make_key("P-384"), "heart", "x")),
    ],
    ids=["empty", "garbage", "P-256", "RSA", "altered"],
)
def test_refuses_to_certify_what_does_not_prove_a_p384_key(tmp_path, request_pem):
    root = create_root(tmp_path / "root", "heart", None, NOW)
    with pytest.raises(IdentityInvalid, match="signing request is refused"):
        root.certify_issuer(request_pem, NOW)


@pytest.mark.parametrize("name", ["", "Heart", "-heart", "heart-", "a.b", "a/b", "a" * 64, "hé"])
def test_refuses_a_federation_name_that_no_certificate_can_carry(tmp_path, name):
    with pytest.raises(IdentityInvalid, match="no certificate can carry"):
        create_root(tmp_path / "root", name, None, NOW)


def test_private_keys_do_not_show_in_repr(tmp_path):
    assert "key=" not in repr(create_root(tmp_path / "root", "heart", None, NOW))
