import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.authority import create_authority
from fedhealth.pki.identity import (
    Role,
    check_leaf,
    create_tls_key,
    load_identity,
    parse_certificate,
    site_uri,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
GOOD = "spiffe://heart/site/hungary"


@pytest.fixture
def folder(tmp_path):
    authority = create_authority(tmp_path / "ca", "heart", NOW)
    public = create_tls_key(tmp_path / "tls.key")
    leaf = authority.issue_leaf(public, site_uri("heart", "hungary"), Role.SITE, NOW)
    (tmp_path / "tls.pem").write_bytes(leaf)
    (tmp_path / "root.pem").write_bytes(authority.root_pem)
    return tmp_path


def certificate(uris=(GOOD,), usages=(CLIENT,), key=None, ca=False, san=True):
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=True)
    if san:
        names = [x509.DNSName("x"), *(x509.UniformResourceIdentifier(uri) for uri in uris)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signer = ec.generate_private_key(ec.SECP256R1())
    return builder.sign(signer, hashes.SHA256())


def test_accepts_the_right_profile_and_returns_whose_it_is():
    assert check_leaf(certificate(), "heart", Role.SITE) == "hungary"
    leaf = certificate(uris=["spiffe://heart/coordinator"], usages=[SERVER])
    assert check_leaf(leaf, "heart", Role.COORDINATOR) == "coordinator"


@pytest.mark.parametrize(
    ("case", "role"),
    [
        ({"uris": [GOOD, GOOD]}, Role.SITE),
        ({"uris": [GOOD, "https://elsewhere/"]}, Role.SITE),
        ({"uris": []}, Role.SITE),
        ({"san": False}, Role.SITE),
        ({"uris": ["spiffe://lung/site/hungary"]}, Role.SITE),
        ({"uris": ["spiffe://heart.evil/site/hungary"]}, Role.SITE),
        ({"uris": ["spiffe://heart/site/"]}, Role.SITE),
        ({"uris": ["spiffe://heart/site/hungary/"]}, Role.SITE),
        ({"uris": ["spiffe://heart/site/HUNGARY"]}, Role.SITE),
        ({"uris": ["spiffe://heart/site/hungary\n"]}, Role.SITE),
        ({"uris": ["spiffe://heart/site/%68ungary"]}, Role.SITE),
        ({"uris": ["spiffe://heart/coordinator"]}, Role.SITE),
        ({"usages": [SERVER]}, Role.SITE),
        ({"usages": [CLIENT, SERVER]}, Role.SITE),
        ({"usages": [CLIENT, ANY]}, Role.SITE),
        ({"usages": []}, Role.SITE),
        ({"ca": True}, Role.SITE),
        ({"key": ec.generate_private_key(ec.SECP384R1())}, Role.SITE),
        ({"key": ed25519.Ed25519PrivateKey.generate()}, Role.SITE),
        ({"usages": [SERVER]}, Role.COORDINATOR),
        ({"uris": ["spiffe://lung/coordinator"], "usages": [SERVER]}, Role.COORDINATOR),
        ({"uris": ["spiffe://heart/coordinator"], "usages": [CLIENT]}, Role.COORDINATOR),
    ],
)
def test_refuses_any_other_profile(case, role):
    with pytest.raises(IdentityInvalid, match="profile"):
        check_leaf(certificate(**case), "heart", role)


def test_loads_what_the_authority_issued(folder):
    identity = load_identity(folder, "heart", Role.SITE, NOW)
    assert identity.certificate_pem == (folder / "tls.pem").read_bytes()
    assert "PRIVATE" not in repr(identity)


def test_an_expired_certificate_says_whose_and_since_when(folder):
    with pytest.raises(IdentityInvalid, match="certificate of site 'hungary' expired at 2026-03-02 12:00:00 UTC; got"):
        load_identity(folder, "heart", Role.SITE, NOW + timedelta(days=1))


def test_a_clock_five_minutes_slow_is_fine_and_six_minutes_is_not(folder):
    load_identity(folder, "heart", Role.SITE, NOW - timedelta(minutes=5))
    with pytest.raises(IdentityInvalid, match="valid only from"):
        load_identity(folder, "heart", Role.SITE, NOW - timedelta(minutes=6))


def test_refuses_another_federation_or_role(folder):
    with pytest.raises(IdentityInvalid, match="URI name"):
        load_identity(folder, "lung", Role.SITE, NOW)
    with pytest.raises(IdentityInvalid, match="extended key usage"):
        load_identity(folder, "heart", Role.COORDINATOR, NOW)


def test_refuses_the_root_of_another_authority(folder):
    other = create_authority(folder / "other", "heart", NOW)
    (folder / "root.pem").write_bytes(other.root_pem)
    with pytest.raises(IdentityInvalid, match="not issued by the root"):
        load_identity(folder, "heart", Role.SITE, NOW)


def test_refuses_the_key_of_another_certificate(folder):
    (folder / "tls.key").unlink()
    create_tls_key(folder / "tls.key")
    with pytest.raises(IdentityInvalid, match="do not belong together"):
        load_identity(folder, "heart", Role.SITE, NOW)


@pytest.mark.parametrize("file", ["tls.pem", "tls.key", "root.pem"])
def test_refuses_a_missing_or_unreadable_file(folder, file):
    (folder / file).write_bytes(b"not PEM")
    with pytest.raises(IdentityInvalid, match="cannot be read"):
        load_identity(folder, "heart", Role.SITE, NOW)
    (folder / file).unlink()
    with pytest.raises(IdentityInvalid, match=f"cannot read .*{file}"):
        load_identity(folder, "heart", Role.SITE, NOW)


def test_refuses_two_certificates_in_one_file(folder):
    pem = (folder / "tls.pem").read_bytes()
    with pytest.raises(IdentityInvalid, match="got 2 certificates"):
        parse_certificate(pem + pem)


def test_a_tls_key_is_private_and_never_overwritten(tmp_path):
    create_tls_key(tmp_path / "tls.key")
    before = (tmp_path / "tls.key").read_bytes()
    assert stat.S_IMODE((tmp_path / "tls.key").stat().st_mode) == 0o600
    with pytest.raises(IdentityInvalid, match="will not overwrite"):
        create_tls_key(tmp_path / "tls.key")
    assert (tmp_path / "tls.key").read_bytes() == before


def test_a_key_is_not_written_through_a_dangling_link(tmp_path):
    (tmp_path / "tls.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IdentityInvalid, match="will not overwrite"):
        create_tls_key(tmp_path / "tls.key")
    assert not (tmp_path / "elsewhere").exists()
