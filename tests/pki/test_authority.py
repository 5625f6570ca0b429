import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.authority import create_authority, open_authority
from fedhealth.pki.identity import Role, coordinator_uri, create_tls_key, site_uri

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path):
    return create_authority(tmp_path / "ca", "heart", NOW)


def public_key():
    return ec.generate_private_key(ec.SECP256R1()).public_key()


def test_root_is_a_constrained_p384_authority_with_a_private_key_file(authority, tmp_path):
    root = x509.load_pem_x509_certificate((tmp_path / "ca" / "root.pem").read_bytes())
    assert isinstance(root.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(root.public_key().curve, ec.SECP384R1)
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign and not usage.digital_signature and not usage.crl_sign
    root.verify_directly_issued_by(root)
    assert stat.S_IMODE((tmp_path / "ca" / "root.key").stat().st_mode) == 0o600


def test_opened_authority_is_the_created_one(authority, tmp_path):
    opened = open_authority(tmp_path / "ca")
    assert (opened.federation, opened.certificate) == ("heart", authority.certificate)


@pytest.mark.parametrize("file", ["root.pem", "root.key"])
def test_refuses_to_create_an_authority_over_another(authority, tmp_path, file):
    (tmp_path / "ca" / file).unlink()
    with pytest.raises(IdentityInvalid, match="holds an authority already"):
        create_authority(tmp_path / "ca", "heart", NOW)


def test_refuses_to_open_a_missing_authority(tmp_path):
    with pytest.raises(IdentityInvalid, match="cannot read"):
        open_authority(tmp_path)


def test_refuses_to_open_an_authority_with_the_key_of_another(authority, tmp_path):
    create_authority(tmp_path / "other", "heart", NOW)
    (tmp_path / "ca" / "root.key").write_bytes((tmp_path / "other" / "root.key").read_bytes())
    with pytest.raises(IdentityInvalid, match="key of another root"):
        open_authority(tmp_path / "ca")


def test_refuses_a_root_key_that_others_can_read(authority, tmp_path):
    (tmp_path / "ca" / "root.key").chmod(0o640)
    with pytest.raises(IdentityInvalid, match="open to other users; got mode 0640"):
        open_authority(tmp_path / "ca")


@pytest.mark.parametrize(
    ("uri", "role", "usage", "dns", "addresses"),
    [
        (site_uri("heart", "hungary"), Role.SITE, ExtendedKeyUsageOID.CLIENT_AUTH, [], []),
        (
            coordinator_uri("heart"),
            Role.COORDINATOR,
            ExtendedKeyUsageOID.SERVER_AUTH,
            ["coordinator.heart.fedhealth.internal", "localhost"],
            ["127.0.0.1"],
        ),
    ],
)
def test_leaf_has_the_profile_of_its_role(authority, uri, role, usage, dns, addresses):
    leaf = x509.load_pem_x509_certificate(authority.issue_leaf(public_key(), uri, role, NOW))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [uri]
    assert names.get_values_for_type(x509.DNSName) == dns
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == addresses
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.not_valid_before_utc == datetime(2026, 3, 1, 11, 55, tzinfo=UTC)
    assert leaf.not_valid_after_utc == datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
    leaf.verify_directly_issued_by(authority.certificate)


def test_a_signing_request_counts_for_its_key_only(authority, tmp_path):
    create_tls_key(tmp_path / "tls.key")
    key = serialization.load_pem_private_key((tmp_path / "tls.key").read_bytes(), None)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    leaf = x509.load_pem_x509_certificate(authority.issue_leaf(request, site_uri("heart", "va"), Role.SITE, NOW))
    assert leaf.public_key() == key.public_key()
    assert leaf.subject.rfc4514_string() == "CN=va,O=FedHealth"


@pytest.mark.parametrize(
    ("uri", "role", "lifetime", "message"),
    [
        ("spiffe://lung/site/hungary", Role.SITE, timedelta(hours=1), "URI name"),
        ("spiffe://heart/site/hungary", Role.COORDINATOR, timedelta(hours=1), "URI name"),
        ("spiffe://heart/coordinator", Role.SITE, timedelta(hours=1), "URI name"),
        ("spiffe://heart/site/", Role.SITE, timedelta(hours=1), "URI name"),
        ("spiffe://heart/site/a/b", Role.SITE, timedelta(hours=1), "URI name"),
        ("https://heart/site/hungary", Role.SITE, timedelta(hours=1), "URI name"),
        ("spiffe://heart/site/hungary", Role.SITE, timedelta(0), "for that time"),
        ("spiffe://heart/site/hungary", Role.SITE, timedelta(days=4000), "for that time"),
    ],
)
def test_refuses_to_issue_what_the_profile_does_not_allow(authority, uri, role, lifetime, message):
    with pytest.raises(IdentityInvalid, match=message):
        authority.issue_leaf(public_key(), uri, role, NOW, lifetime)


def test_refuses_to_certify_a_key_that_is_not_p256(authority):
    with pytest.raises(IdentityInvalid, match="P-256"):
        authority.issue_leaf(
            ec.generate_private_key(ec.SECP384R1()).public_key(), site_uri("heart", "va"), Role.SITE, NOW
        )


@pytest.mark.parametrize("name", ["", "Heart", "-heart", "heart-", "a.b", "a/b", "a" * 64, "hé"])
def test_refuses_a_federation_name_that_no_certificate_can_carry(tmp_path, name):
    with pytest.raises(IdentityInvalid, match="no certificate can carry"):
        create_authority(tmp_path / "ca", name, NOW)


def test_the_longest_name_works(tmp_path):
    authority = create_authority(tmp_path / "ca", "a" * 63, NOW)
    authority.issue_leaf(public_key(), site_uri("a" * 63, "b" * 63), Role.SITE, NOW)
    authority.issue_leaf(public_key(), coordinator_uri("a" * 63), Role.COORDINATOR, NOW)


def test_private_keys_do_not_show_in_repr(authority):
    assert "key=" not in repr(authority)
