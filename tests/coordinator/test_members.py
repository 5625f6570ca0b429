"""Who is in: the record that a certificate counts by, across processes and restarts."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from fedhealth.coordinator.members import HeldCertificate, Member, Members
from fedhealth.errors import ConfigInvalid, IdentityInvalid
from fedhealth.pki.authority import install_authority, request_authority
from fedhealth.pki.certificates import make_key, parse_chain
from fedhealth.pki.leaf import LeafRefused
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LEDGER, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ca")
    root = create_root(folder / "root", "heart", None, NOW)
    request = request_authority(folder, "heart").read_bytes()
    return install_authority(folder, root.certify_issuer(request, NOW), root.pem, NOW)


@pytest.fixture
def issue(authority):
    def make(role=Role.SITE, now=NOW):
        chain = authority.issue(make_key("P-256").public_key(), role, "hungary", now)
        return parse_chain(chain, 2)[0], HeldCertificate.of(chain, role)

    return make


@pytest.fixture
def members(tmp_path):
    return Members(tmp_path)


def flaw(call, *arguments):
    with pytest.raises(LeafRefused) as refused:
        call(*arguments)
    return refused.value.flaw


def test_a_certificate_counts_only_while_it_is_on_the_record_and_for_its_role(members, issue):
    leaf, held = issue()
    assert flaw(members.check, "hungary", leaf, Role.SITE) == "not-a-member"
    members.admit("hungary", LEDGER, (held,))
    members.check("hungary", leaf, Role.SITE)
    assert flaw(members.check, "hungary", leaf, Role.RENEWAL) == "not-on-record"
    assert flaw(members.check, "hungary", issue()[0], Role.SITE) == "not-on-record"


def test_a_revoked_site_is_out_at_once_for_others_that_have_the_record_open(members, issue, tmp_path):
    leaf, held = issue()
    members.admit("hungary", LEDGER, (held,))
    running = Members(tmp_path)
    running.check("hungary", leaf, Role.SITE)
    members.revoke("hungary", NOW)
    assert flaw(running.check, "hungary", leaf, Role.SITE) == "revoked"
    assert flaw(running.add, "hungary", issue()[1], NOW) == "revoked"
    members.revoke("hungary", NOW + timedelta(days=1))
    assert Members(tmp_path).find("hungary").revoked == NOW.timestamp()


def test_a_site_that_joins_again_is_in_with_its_new_certificates_only(members, issue):
    (old, first), (new, second) = issue(), issue()
    members.admit("hungary", LEDGER, (first,))
    members.revoke("hungary", NOW)
    members.admit("hungary", LEDGER, (second,))
    members.check("hungary", new, Role.SITE)
    assert flaw(members.check, "hungary", old, Role.SITE) == "not-on-record"


def test_a_site_cannot_come_back_with_another_ledger(members, issue):
    members.admit("hungary", LEDGER, (issue()[1],))
    members.revoke("hungary", NOW)
    with pytest.raises(IdentityInvalid, match="another ledger"):
        members.admit("hungary", OTHER, (issue()[1],))
    assert members.find("hungary").revoked is not None


def test_renewed_certificates_are_added_and_ended_ones_dropped(members, issue):
    leaf, held = issue()
    members.admit("hungary", LEDGER, (held,))
    later = NOW + timedelta(hours=8)
    members.add("hungary", issue(now=later)[1], later)
    members.check("hungary", leaf, Role.SITE)
    members.add("hungary", issue(now=later)[1], NOW + timedelta(hours=25))
    assert flaw(members.check, "hungary", leaf, Role.SITE) == "not-on-record"
    for _ in range(40):
        members.add("hungary", issue(now=later)[1], later)
    assert len(members.find("hungary").certificates) == 32


def test_a_renewal_at_the_moment_of_a_revocation_never_brings_a_site_back(tmp_path, issue):
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        Members(folder).admit("hungary", LEDGER, (issue()[1],))
        ready = threading.Barrier(2)

        def renew(folder=folder, ready=ready):
            ready.wait()
            try:
                for _ in range(5):
                    Members(folder).add("hungary", issue()[1], NOW)
            except LeafRefused:
                pass

        def revoke(folder=folder, ready=ready):
            ready.wait()
            Members(folder).revoke("hungary", NOW)

        threads = [threading.Thread(target=each) for each in (renew, revoke)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = Members(folder).find("hungary")
        assert (found.certificates, found.revoked) == ((), NOW.timestamp())


def test_a_damaged_record_or_a_name_that_is_none_refuses(members, issue, tmp_path):
    members.admit("hungary", LEDGER, (issue()[1],))
    (tmp_path / "hungary.json").write_text(Member.model_dump_json(members.find("hungary"))[:-1])
    with pytest.raises(ConfigInvalid, match="cannot be used"):
        members.check("hungary", issue()[0], Role.SITE)
    for name in ("", "../hungary", "a/b"):
        with pytest.raises(IdentityInvalid):
            members.find(name)
    with pytest.raises(ConfigInvalid, match="never joined"):
        members.revoke("va", NOW)
