import stat
from datetime import timedelta

import pytest
from ceremony import NOW, found
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.certificates import key_pem, key_usage, make_key, parse_certificate
from fedhealth.pki.identity import load_identity, store_identity
from fedhealth.pki.leaf import Flaw, LeafRefused, check_leaf
from fedhealth.pki.profiles import Role

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
GOOD = "spiffe://heart/site/hungary"


@pytest.fixture
def folder(tmp_path):
    authority = found(tmp_path)
    key = make_key("P-256")
    store_identity(tmp_path, Role.SITE, key, authority.issue(key.public_key(), Role.SITE, "hungary", NOW))
    (tmp_path / "root.pem").write_bytes(authority.root_pem)
    return tmp_path


def certificate(
    uris=(GOOD,), usages=(CLIENT,), key=None, ca=False, dns=(), life=timedelta(days=1), bit="digital_signature", more=()
):
    """A certificate that only its profile can tell from a good one."""
    key = key or make_key("P-256")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + life)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if bit:
        builder = builder.add_extension(key_usage(bit), critical=True)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=True)
    if uris is not None:
        names = [*(x509.UniformResourceIdentifier(uri) for uri in uris), *(x509.DNSName(each) for each in dns)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())


COORDINATOR = {
    "uris": ["spiffe://heart/coordinator"],
    "usages": [SERVER],
    "dns": ["coordinator.heart.fedhealth.internal"],
}
RENEWAL = {"uris": ["spiffe://heart/renewal/hungary"]}


def test_accepts_the_right_profile_and_returns_whose_it_is():
    assert check_leaf(certificate(), "heart", Role.SITE) == "hungary"
    assert check_leaf(certificate(**COORDINATOR), "heart", Role.COORDINATOR) == "coordinator"
    assert check_leaf(certificate(**RENEWAL, life=timedelta(days=90)), "heart", Role.RENEWAL) == "hungary"


@pytest.mark.parametrize(
    ("case", "role", "flaw"),
    [
        ({"uris": [GOOD, GOOD]}, Role.SITE, "two-uri-names"),
        ({"uris": [GOOD, "https://elsewhere/"]}, Role.SITE, "two-uri-names"),
        ({"uris": [], "dns": ["x"]}, Role.SITE, "no-uri-name"),
        ({"uris": None}, Role.SITE, "no-uri-name"),
        ({"dns": ["hungary"]}, Role.SITE, "other-names"),
        ({"uris": ["spiffe://lung/site/hungary"]}, Role.SITE, "wrong-name"),
        ({"uris": ["spiffe://heart.evil/site/hungary"]}, Role.SITE, "wrong-name"),
        ({"uris": ["spiffe://heart/site/"]}, Role.SITE, "wrong-name"),
        ({"uris": ["spiffe://heart/site/hungary/"]}, Role.SITE, "wrong-name"),
        ({"uris": ["spiffe://heart/site/HUNGARY"]}, Role.SITE, "wrong-name"),
        ({"uris": ["spiffe://heart/site/hungary\n"]}, Role.SITE, "wrong-name"),
        ({"uris": ["spiffe://heart/site/%68ungary"]}, Role.SITE, "wrong-name"),
        ({"uris": ["spiffe://heart/coordinator"]}, Role.SITE, "wrong-name"),
        (RENEWAL, Role.SITE, "renewal-only"),
        ({}, Role.RENEWAL, "wrong-name"),
        ({"usages": [SERVER]}, Role.SITE, "extended-usage"),
        ({"usages": [CLIENT, SERVER]}, Role.SITE, "extended-usage"),
        ({"usages": [CLIENT, ANY]}, Role.SITE, "extended-usage"),
        ({"usages": [ANY]}, Role.SITE, "extended-usage"),
        ({"usages": []}, Role.SITE, "no-extended-usage"),
        ({"bit": "key_cert_sign"}, Role.SITE, "key-usage"),
        ({"bit": None}, Role.SITE, "key-usage"),
        ({"ca": True}, Role.SITE, "is-an-authority"),
        ({"life": timedelta(days=2)}, Role.SITE, "lives-too-long"),
        ({"more": [x509.OCSPNoCheck()]}, Role.SITE, "unknown-extension"),
        ({"key": ec.generate_private_key(ec.SECP384R1())}, Role.SITE, "weak-key"),
        ({"key": ed25519.Ed25519PrivateKey.generate()}, Role.SITE, "weak-key"),
        ({"key": rsa.generate_private_key(65537, 2048)}, Role.SITE, "weak-key"),
        ({**COORDINATOR, "dns": []}, Role.COORDINATOR, "other-names"),
        ({**COORDINATOR, "dns": [*COORDINATOR["dns"], "localhost"]}, Role.COORDINATOR, "other-names"),
        ({**COORDINATOR, "uris": ["spiffe://lung/coordinator"]}, Role.COORDINATOR, "wrong-name"),
        ({**COORDINATOR, "usages": [CLIENT]}, Role.COORDINATOR, "extended-usage"),
    ],
)
def test_refuses_any_other_profile_with_the_word_for_it(case, role, flaw):
    with pytest.raises(LeafRefused, match="profile") as refused:
        check_leaf(certificate(**case), "heart", role)
    assert refused.value.flaw is Flaw(flaw)


def test_loads_what_the_authority_issued(folder):
    identity = load_identity(folder, "heart", Role.SITE, NOW)
    assert identity.key_pem + identity.chain_pem == (folder / "tls.pem").read_bytes()
    assert stat.S_IMODE((folder / "tls.pem").stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(identity)


def test_an_expired_certificate_says_whose_and_since_when(folder):
    with pytest.raises(IdentityInvalid, match="certificate of site 'hungary' expired at 2026-03-02 12:00:00 UTC; got"):
        load_identity(folder, "heart", Role.SITE, NOW + timedelta(days=1))


def test_a_clock_five_minutes_slow_is_fine_and_six_minutes_is_not(folder):
    load_identity(folder, "heart", Role.SITE, NOW - timedelta(minutes=5))
    with pytest.raises(IdentityInvalid, match="valid only from"):
        load_identity(folder, "heart", Role.SITE, NOW - timedelta(minutes=6))


def test_refuses_another_federation_or_role(folder):
    with pytest.raises(IdentityInvalid, match="wrong-name"):
        load_identity(folder, "lung", Role.SITE, NOW)
    with pytest.raises(IdentityInvalid, match="extended-usage"):
        load_identity(folder, "heart", Role.COORDINATOR, NOW)


def test_refuses_the_root_of_another_authority(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (folder / "root.pem").write_bytes(found(tmp_path / "other").root_pem)
    with pytest.raises(IdentityInvalid, match="not issued under the root"):
        load_identity(folder, "heart", Role.SITE, NOW)


def test_refuses_the_key_of_another_certificate(folder):
    whole = (folder / "tls.pem").read_bytes()
    certificates = whole[whole.index(b"-----BEGIN CERTIFICATE") :]
    (folder / "tls.pem").write_bytes(key_pem(make_key("P-256")) + certificates)
    with pytest.raises(IdentityInvalid, match="do not belong together"):
        load_identity(folder, "heart", Role.SITE, NOW)


@pytest.mark.parametrize("file", ["tls.pem", "root.pem"])
def test_refuses_a_missing_or_unreadable_file(folder, file):
    (folder / file).write_bytes(b"not PEM")
    with pytest.raises(IdentityInvalid, match="cannot be read"):
        load_identity(folder, "heart", Role.SITE, NOW)
    (folder / file).unlink()
    with pytest.raises(IdentityInvalid, match=f"cannot read .*{file}"):
        load_identity(folder, "heart", Role.SITE, NOW)


def test_refuses_a_key_file_that_others_can_read(folder):
    (folder / "tls.pem").chmod(0o644)
    with pytest.raises(IdentityInvalid, match="open to other users"):
        load_identity(folder, "heart", Role.SITE, NOW)


def test_refuses_two_certificates_in_one_file(folder):
    pem = (folder / "root.pem").read_bytes()
    with pytest.raises(IdentityInvalid, match="got 2 that can be read"):
        parse_certificate(pem + pem)


def test_a_stored_identity_replaces_the_one_before_and_leaves_nothing_beside_it(folder):
    before, names = (folder / "tls.pem").read_bytes(), sorted(path.name for path in folder.iterdir())
    (folder / "tls.pem.new").write_bytes(b"a crash left this")
    key = make_key("P-256")
    store_identity(folder, Role.SITE, key, before[before.index(b"-----BEGIN CERTIFICATE") :])
    assert (folder / "tls.pem").read_bytes().startswith(key_pem(key))
    assert sorted(path.name for path in folder.iterdir()) == names


def test_of_a_root_file_only_the_one_root_is_trusted(folder, tmp_path_factory):
    """gRPC would take the second for a root as well."""
    foreign = found(tmp_path_factory.mktemp("foreign")).root_pem.replace(b" CERTIFICATE-", b" TRUSTED CERTIFICATE-")
    root = (folder / "root.pem").read_bytes()
    (folder / "root.pem").write_bytes(b"Our root:\n" + root + foreign)
    assert load_identity(folder, "heart", Role.SITE, NOW).root_pem == root
