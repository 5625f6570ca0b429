"""The issuing authority: installed once from the root's answer, and what its leaves are."""

import stat
from datetime import UTC, datetime, timedelta

import pytest
from ceremony import NOW, found
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.authority import install_authority, open_authority, request_authority
from fedhealth.pki.certificates import make_key, make_request, parse_chain
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root, open_root

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def public_key():
    return make_key("P-256").public_key()


def test_an_opened_authority_is_the_installed_one_in_one_private_file(authority, tmp_path):
    opened = open_authority(tmp_path / "ca")
    assert (opened.federation, opened.certificate, opened.root) == ("heart", authority.certificate, authority.root)
    assert stat.S_IMODE((tmp_path / "ca" / "issuing.pem").stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "ca").iterdir()) == ["issuing.pem", "root.pem"]


def test_asking_again_before_the_ceremony_gives_the_same_request(tmp_path):
    first = request_authority(tmp_path, "heart").read_bytes()
    assert request_authority(tmp_path, "heart").read_bytes() == first
    (tmp_path / "issuing.csr").unlink()  # killed between key and request
    again = request_authority(tmp_path, "heart").read_bytes()
    assert x509.load_pem_x509_csr(again).public_key() == x509.load_pem_x509_csr(first).public_key()
    with pytest.raises(IdentityInvalid, match="waits for the root's certificate"):
        open_authority(tmp_path)


def test_next_years_authority_takes_over_and_this_years_leaves_still_descend_from_the_root(authority, tmp_path):
    late = NOW + timedelta(days=330)
    request = request_authority(tmp_path / "ca", "heart")
    assert open_authority(tmp_path / "ca").certificate == authority.certificate, "until the root has answered"
    root = open_root(tmp_path / "root", None)
    renewed = install_authority(tmp_path / "ca", root.certify_issuer(request.read_bytes(), late), root.pem, late)
    assert renewed.certificate != authority.certificate
    assert renewed.root == authority.root
    assert open_authority(tmp_path / "ca").certificate == renewed.certificate


def test_refuses_an_answer_for_another_key_of_another_root_or_out_of_time(authority, tmp_path):
    root, other = open_root(tmp_path / "root", None), create_root(tmp_path / "other", "heart", None, NOW)
    lung = create_root(tmp_path / "lung", "lung", None, NOW)
    request = request_authority(tmp_path / "ca", "heart").read_bytes()
    good = root.certify_issuer(request, NOW)
    cases = {
        "another key": (root.certify_issuer(make_request(make_key("P-384"), "heart", "x"), NOW), root.pem, NOW),
        "another root than": (other.certify_issuer(request, NOW), other.pem, NOW),
        "this root did not make": (other.certify_issuer(request, NOW), root.pem, NOW),
        "limited to one federation": (lung.certify_issuer(request, NOW), root.pem, NOW),
        "or ended": (good, root.pem, NOW + timedelta(days=366)),
    }
    for got, (issuer, root_pem, now) in cases.items():
        with pytest.raises(IdentityInvalid, match=got):
            install_authority(tmp_path / "ca", issuer, root_pem, now)
    assert open_authority(tmp_path / "ca").certificate == authority.certificate
    install_authority(tmp_path / "ca", good, root.pem, NOW)


@pytest.mark.parametrize(
    ("role", "holder", "uri", "usage", "dns", "lifetime"),
    [
        (Role.SITE, "hungary", "spiffe://heart/site/hungary", CLIENT, [], timedelta(hours=24)),
        (Role.RENEWAL, "hungary", "spiffe://heart/renewal/hungary", CLIENT, [], timedelta(days=90)),
        (
            Role.COORDINATOR,
            "coordinator",
            "spiffe://heart/coordinator",
            SERVER,
            ["coordinator.heart.fedhealth.internal"],
            timedelta(hours=24),
        ),
    ],
)
def test_a_leaf_has_the_profile_of_its_role(authority, role, holder, uri, usage, dns, lifetime):
    leaf, issuing = parse_chain(authority.issue(public_key(), role, holder, NOW), 2)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [uri]
    assert names.get_values_for_type(x509.DNSName) == dns
    assert len(list(names)) == 1 + len(dns)
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(leaf.public_key().curve, ec.SECP256R1)
    assert leaf.not_valid_before_utc == datetime(2026, 3, 1, 11, 55, tzinfo=UTC)
    assert leaf.not_valid_after_utc == NOW + lifetime
    leaf.verify_directly_issued_by(issuing)
    assert issuing == authority.certificate


def test_a_leaf_never_outlives_its_issuer_and_none_comes_from_one_that_ended(authority):
    end = authority.certificate.not_valid_after_utc
    leaf, _ = parse_chain(authority.issue(public_key(), Role.RENEWAL, "hungary", end - timedelta(days=1)), 2)
    assert leaf.not_valid_after_utc == end
    with pytest.raises(IdentityInvalid, match=r"at its end.*request-authority"):
        authority.issue(public_key(), Role.SITE, "hungary", end)


def test_the_ceremony_is_due_in_the_last_month(authority):
    end = authority.certificate.not_valid_after_utc
    assert not authority.ends_soon(end - timedelta(days=31))
    assert authority.ends_soon(end - timedelta(days=29))


def test_refuses_to_certify_another_kind_of_key_or_name(authority):
    with pytest.raises(IdentityInvalid, match="P-256"):
        authority.issue(make_key("P-384").public_key(), Role.SITE, "hungary", NOW)
    for name in ("", "a/b", "HUNGARY", "a" * 64):
        with pytest.raises(IdentityInvalid, match="no certificate can carry"):
            authority.issue(public_key(), Role.SITE, name, NOW)


def test_the_longest_names_work(tmp_path):
    authority = found(tmp_path, "a" * 63)
    authority.issue(public_key(), Role.SITE, "b" * 63, NOW)
    authority.issue(public_key(), Role.RENEWAL, "b" * 63, NOW)
    authority.issue(public_key(), Role.COORDINATOR, "coordinator", NOW)


def test_private_keys_do_not_show_in_repr(authority):
    assert "key=" not in repr(authority)
