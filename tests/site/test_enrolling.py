"""A site joins over real sockets: what both ends keep, what is refused, and what a kill leaves."""

import contextlib
import dataclasses
import logging
import os
import socket
import ssl
import stat
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from connect_proxy import ConnectProxy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.coordinator import enrolling as coordinators_enrolling
from fedhealth.coordinator import invitations as invitations_module
from fedhealth.coordinator.enrolling import invite_site
from fedhealth.coordinator.home import CoordinatorHome, init_coordinator, install_chain, revoke_site
from fedhealth.coordinator.invitations import Invitations
from fedhealth.demo.federation import open_desk
from fedhealth.errors import ConfigInvalid, FedHealthError, IdentityInvalid, LinkUnavailable
from fedhealth.link import enrolment_port
from fedhealth.link.enrolment import LedgerCertificate
from fedhealth.pki.certificates import certificate_pem
from fedhealth.pki.identity import load_identity
from fedhealth.pki.invitation import InvitationInvalid, format_invitation, parse_invitation
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root
from fedhealth.privacy.verify import read_ledger
from fedhealth.signing import public_key_hex
from fedhealth.site import enrolling
from fedhealth.site.enrolling import NewSite, enrol_site
from fedhealth.site.node_file import load_node_file
from fedhealth.site.state import SiteState

SITES = Path(__file__).resolve().parents[2] / "sites"
HUNGARY, CLEVELAND = SITES / "hungary", SITES / "cleveland"
RESEARCHER = public_key_hex(Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())


def founded(folder):
    home, now = CoordinatorHome(folder / "home"), datetime.now(UTC)
    root = create_root(folder / "root", "heart", None, now)
    _, request = init_coordinator(home, "heart", "c.example:7443", "c.example:7444")
    install_chain(home, root.certify_issuer(request.read_bytes(), now), root.pem, now)
    return home


class Datacentre:
    def __init__(self, home, address):
        self.home, self.address = home, address

    def invite(self, site="hungary", now=None, lifetime=timedelta(hours=1)):
        text = invite_site(self.home, site, now or datetime.now(UTC), lifetime)
        return dataclasses.replace(parse_invitation(text), address=self.address)


@pytest.fixture(scope="module")
def datacentre(tmp_path_factory):
    home = founded(tmp_path_factory.mktemp("datacentre"))
    with open_desk(home) as address:
        yield Datacentre(home, address)


@pytest.fixture
def fresh(datacentre):
    """The datacentre before anybody joined."""
    for folder in (datacentre.home.sites, datacentre.home.invitations):
        for path in folder.iterdir():
            path.unlink()
    return datacentre


def join(invitation, state, folder=HUNGARY, now=None, proxy=None):
    now = now or datetime.now(UTC)
    return enrol_site(folder, SiteState(state), invitation, NewSite({"alice": RESEARCHER}), now, proxy)


def test_a_site_that_joined_has_what_a_node_needs_and_the_coordinator_has_its_ledger_pinned(fresh, tmp_path):
    key = join(fresh.invite(), tmp_path / "state")
    state, now = SiteState(tmp_path / "state"), datetime.now(UTC)
    assert load_node_file(state.node).coordinator == "c.example:7443"
    for role in (Role.SITE, Role.RENEWAL):
        leaf = load_identity(state.node, "heart", role, now).leaf
        fresh.home.members().check("hungary", leaf, role)
    assert fresh.home.pinned_sites()["hungary"].ledger_key == key == public_key_hex(state.ledger_key().public_key())
    witness = public_key_hex(fresh.home.witness_key().public_key())
    assert read_ledger(state.gate).account.created.witness_key == witness
    word = LedgerCertificate.model_validate_json((state.gate / "ledger.certificate.json").read_bytes())
    word.check(witness)
    assert (word.site, word.ledger_key) == ("hungary", key)
    assert read_ledger(state.gate).account.acts.researchers == {"alice": RESEARCHER}
    assert sorted(path.name for path in state.node.iterdir()) == ["node.toml", "renewal.pem", "root.pem", "tls.pem"]
    assert not (state.root / "joining").exists()


def test_private_keys_are_made_at_the_site_and_stay_there(fresh, tmp_path):
    join(fresh.invite(), tmp_path / "state")
    kept = b"".join(path.read_bytes() for path in fresh.home.root.rglob("*") if path.is_file())
    for name in ("tls.pem", "renewal.pem"):
        path = tmp_path / "state" / "node" / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        secret = path.read_bytes().split(b"-----")[2].strip()
        assert len(secret) > 100 and secret not in kept


def test_the_coordinator_keeps_no_token_and_opens_for_an_hour_at_most(fresh):
    invitation = fresh.invite()
    assert invitation.token.hex() not in (fresh.home.invitations / "hungary.json").read_text()
    now, open_ones = datetime.now(UTC), Invitations(fresh.home.invitations)
    assert open_ones.any_open(now) and not open_ones.any_open(now + timedelta(minutes=61))
    for wrong in (timedelta(minutes=61), timedelta(0)):
        with pytest.raises(ConfigInvalid, match="at most an hour"):
            fresh.invite(lifetime=wrong)


def other_token(invitation):
    return dataclasses.replace(invitation, token=bytes(16))


def other_root(invitation):
    return dataclasses.replace(invitation, root_sha256=bytes(32))


def other_site(invitation):
    return dataclasses.replace(invitation, site="cleveland")


def other_federation(invitation):
    return dataclasses.replace(invitation, federation="lung")


def other_port(invitation):
    return dataclasses.replace(invitation, address="127.0.0.1:9")


REFUSALS = {
    "mistyped token": (other_token, HUNGARY, InvitationInvalid, "does not take the invitation", "wrong-token"),
    "never invited": (other_site, CLEVELAND, InvitationInvalid, "does not take the invitation", "not-invited"),
    "another site's folder": (lambda one: one, CLEVELAND, InvitationInvalid, "is for site 'hungary'", None),
    "another root": (other_root, HUNGARY, IdentityInvalid, "not the federation of this invitation", None),
    "another federation": (other_federation, HUNGARY, IdentityInvalid, "not the coordinator of this fed", None),
    "nobody there": (other_port, HUNGARY, LinkUnavailable, "does not answer", None),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(fresh, tmp_path, caplog, case):
    change, folder, error, said, logged = REFUSALS[case]
    with caplog.at_level(logging.WARNING), pytest.raises(error, match=said) as caught:
        join(change(fresh.invite()), tmp_path / "state", folder)
    assert caught.value.next_step
    assert not (tmp_path / "state" / "node" / "tls.pem").exists()
    assert fresh.home.members().all() == {}
    assert logged is None or logged in caplog.text
    assert logged is None or logged not in str(caught.value), "the other side learns a code and nothing more"


def test_an_invitation_that_ended_is_refused_by_both_ends(fresh, tmp_path, caplog):
    old = fresh.invite(now=datetime.now(UTC) - timedelta(hours=2))
    with pytest.raises(InvitationInvalid, match="ended at"):
        join(old, tmp_path / "state")
    late = dataclasses.replace(old, ends=datetime.now(UTC) + timedelta(minutes=5))
    with caplog.at_level(logging.WARNING), pytest.raises(InvitationInvalid, match="does not take"):
        join(late, tmp_path / "state")
    assert "invitation-ended" in caplog.text


def test_an_invitation_is_good_once_and_only_the_newest_counts(fresh, tmp_path, caplog):
    first, second = fresh.invite(), fresh.invite()
    with pytest.raises(InvitationInvalid):
        join(first, tmp_path / "one")
    join(second, tmp_path / "one")
    with caplog.at_level(logging.WARNING), pytest.raises(InvitationInvalid, match="does not take"):
        join(second, tmp_path / "two")
    assert "invitation-used" in caplog.text


def test_a_clock_that_is_off_is_told_from_everything_else(fresh, tmp_path):
    invitation = fresh.invite()
    with pytest.raises(IdentityInvalid, match="clocks of this machine and of the coordinator do not agree"):
        join(invitation, tmp_path / "state", now=datetime.now(UTC) + timedelta(minutes=6))
    join(invitation, tmp_path / "state", now=datetime.now(UTC) + timedelta(minutes=4))


def test_a_site_joins_again_with_its_ledger_and_not_with_another(fresh, tmp_path, caplog):
    key = join(fresh.invite(), tmp_path / "state")
    before = load_identity(tmp_path / "state" / "node", "heart", Role.SITE, datetime.now(UTC)).leaf
    fresh.home.members().revoke("hungary", datetime.now(UTC))
    with pytest.raises(FedHealthError):
        fresh.home.members().check("hungary", before, Role.SITE)
    assert join(fresh.invite(), tmp_path / "state") == key
    with pytest.raises(FedHealthError, match="not-on-record"):
        fresh.home.members().check("hungary", before, Role.SITE)
    with caplog.at_level(logging.WARNING), pytest.raises(InvitationInvalid):
        join(fresh.invite(), tmp_path / "other")
    assert "other-ledger" in caplog.text


def test_a_ledger_of_another_federation_does_not_join(fresh, tmp_path):
    (tmp_path / "other").mkdir()
    elsewhere = founded(tmp_path / "other")
    with open_desk(elsewhere) as address:
        join(Datacentre(elsewhere, address).invite(), tmp_path / "state")
    with pytest.raises(IdentityInvalid, match="countersigned by another coordinator"):
        join(fresh.invite(), tmp_path / "state")


class PowerCut(BaseException):
    """Ends the process wherever it is."""


class Cutter:
    """Lets `left` writes and messages through, then cuts the power right after the next.

    Before the first, nothing has happened; before any other is after the one that precedes it.
    """

    def __init__(self, left):
        self.left, self.cut = left, False

    def around(self, function):
        def call(*arguments, **named):
            if self.cut:
                raise PowerCut
            if self.left == 0:
                self.cut = True
                function(*arguments, **named)
                raise PowerCut
            self.left -= 1
            return function(*arguments, **named)

        return call


STEPS = (
    "ask_unverified",
    "ask_coordinator",
    "init_site",
    "create_file",
    "replace_file",
    "store_identity",
    "sync_folder",
)


def test_killed_at_any_step_it_joins_when_it_is_run_again(fresh, tmp_path, monkeypatch):
    cuts = 0
    for number in range(100):
        invitation, cutter = fresh.invite(), Cutter(number)
        (fresh.home.sites / "hungary.json").unlink(missing_ok=True)  # each number is a site of its own
        state = tmp_path / str(number)
        with monkeypatch.context() as patched:
            for name in STEPS:
                patched.setattr(enrolling, name, cutter.around(getattr(enrolling, name)))
            try:
                key = join(invitation, state)
            except PowerCut:
                cuts += 1
                key = None
        if key is not None:
            break
        key = join(invitation, state)
        assert fresh.home.pinned_sites()["hungary"].ledger_key == key
        load_identity(state / "node", "heart", Role.SITE, datetime.now(UTC))
        assert sorted(path.name for path in (state / "node").iterdir()) == [
            "node.toml",
            "renewal.pem",
            "root.pem",
            "tls.pem",
        ]
    # three questions, the ledger, its place, two keys, the request, five files kept
    assert cuts == 13


def test_a_coordinator_killed_at_any_step_lets_the_same_site_in_later(fresh, tmp_path, monkeypatch):
    from fedhealth.coordinator import members as members_module

    cuts = 0
    for number in range(20):
        invitation, cutter, state = fresh.invite(), Cutter(number), tmp_path / str(number)
        (fresh.home.sites / "hungary.json").unlink(missing_ok=True)
        with monkeypatch.context() as patched:
            for module in (invitations_module, members_module):
                patched.setattr(module, "replace_file", cutter.around(module.replace_file))
            cutter_error(patched)
            try:
                join(invitation, state)
                break
            except LinkUnavailable:
                cuts += 1
        key = join(invitation, state)
        assert fresh.home.pinned_sites()["hungary"].ledger_key == key
    assert cuts == 3  # the token is bound, the site is on the record, the answer is kept


def cutter_error(patched):
    """Make a power cut in the desk's thread end the connection and not the test's loop."""
    patched.setattr(f"{__name__}.PowerCut", OSError)


def test_a_stranger_who_sends_without_end_or_nothing_is_cut_and_others_join(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(enrolment_port, "CONNECTION_SECONDS", 0.3)
    host, port = fresh.address.split(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sent = {"garbage": b"\xff" * 100_000, "half a message": b"\0\0\1\0{", "a huge length": b"\x7f\xff\xff\xff"}
    for data in sent.values():
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain) as tls,
        ):
            try:
                tls.sendall(data)
                answer = tls.recv(4096)
            except OSError:
                answer = b""
            assert answer == b"" or b"bad-request" in answer
    join(fresh.invite(), tmp_path / "state")


def test_strangers_who_connect_and_say_nothing_are_held_in_small_number_and_cut(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(enrolment_port, "CONNECTION_SECONDS", 1.0)
    host, port = fresh.address.split(":")
    with contextlib.ExitStack() as strangers:
        for _ in range(enrolment_port.MAX_CONNECTIONS):
            strangers.enter_context(socket.create_connection((host, int(port))))
        with socket.create_connection((host, int(port)), timeout=0.5) as one_more, contextlib.suppress(ConnectionError):
            assert one_more.recv(1) == b""  # hung up on at once, before TLS takes memory for it
        time.sleep(1.5)
        join(fresh.invite(), tmp_path / "state")


def test_a_site_that_is_revoked_while_it_joins_is_out(fresh, tmp_path, monkeypatch):
    join(fresh.invite(), tmp_path / "state")
    admit = coordinators_enrolling.admit_site
    revoking = threading.Thread(target=revoke_site, args=(fresh.home, "hungary", datetime.now(UTC)))

    def slowly(*arguments):
        revoking.start()
        revoking.join(0.3)
        return admit(*arguments)

    monkeypatch.setattr(coordinators_enrolling, "admit_site", slowly)
    join(fresh.invite(), tmp_path / "state")
    revoking.join(10)
    assert fresh.home.members().find("hungary").revoked is not None
    assert not (fresh.home.invitations / "hungary.json").exists()


def test_the_line_that_a_person_carries_is_the_invitation(datacentre):
    text = invite_site(datacentre.home, "hungary", datetime.now(UTC))
    assert text.startswith("fedhealth-1/heart/hungary/c.example:7444/") and len(text) < 130
    assert format_invitation(parse_invitation(text)) == text


def test_a_site_joins_through_a_proxy_and_its_node_goes_on_through_it(fresh, tmp_path):
    invitation = dataclasses.replace(fresh.invite(), address="c.invalid:7444")  # has no address but for the proxy
    with ConnectProxy({"c.invalid:7444": fresh.address}) as proxy:
        join(invitation, tmp_path / "state", proxy=proxy.url)
    assert proxy.asked == 3 * [("CONNECT", "c.invalid:7444")]
    assert invitation.token not in proxy.crossed and invitation.token.hex().encode() not in proxy.crossed
    file = load_node_file(SiteState(tmp_path / "state").node)
    assert (file.coordinator, file.proxy) == ("c.example:7443", proxy.url)
    assert proxy.url.endswith(f":{file.port_outwards}")  # the one port that the node may connect to


def test_a_proxy_that_wants_a_password_is_refused_and_the_password_not_repeated(fresh, tmp_path):
    with pytest.raises(ConfigInvalid, match="http://HOST:PORT") as refused:
        join(fresh.invite(), tmp_path / "state", proxy="http://me:secret@proxy:3128")
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "state").exists()


def test_a_root_that_somebody_put_behind_the_real_one_is_not_kept(fresh, tmp_path, monkeypatch):
    """gRPC takes a "TRUSTED CERTIFICATE" for a root, which neither a fingerprint nor Python's TLS looks at."""
    foreign = certificate_pem(create_root(tmp_path / "foreign", "heart", None, datetime.now(UTC)).certificate)
    hidden = foreign.replace(b" CERTIFICATE-", b" TRUSTED CERTIFICATE-").decode()

    def asked_through_somebody(address, question, proxy=None):
        real = enrolment_port.ask_unverified(address, question, proxy=proxy)
        return real.model_copy(update={"pem": real.pem + hidden})

    monkeypatch.setattr(enrolling, "ask_unverified", asked_through_somebody)
    join(fresh.invite(), tmp_path / "state")
    assert (tmp_path / "state" / "node" / "root.pem").read_bytes() == fresh.home.open_authority().root_pem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_away_nothing_outside_the_folder_whose_owner_swaps_a_folder_for_a_link(fresh, tmp_path, monkeypatch):
    """A node that was taken over owns its folder while root lets the site join again."""
    join(fresh.invite(), tmp_path / "state")
    node, outside = tmp_path / "state" / "node", tmp_path / "outside"
    for folder in (node / "offers", outside):
        folder.mkdir()
        (folder / "shadow").write_text("")
    os.chown(node, 65534, 65534)

    def swapped(real):
        def give(target, *owner, **how):
            at = None if "dir_fd" in how else os.fstat(target) if isinstance(target, int) else target.stat()
            if at and os.path.samestat(at, node.stat()):  # by now root has seen what is in the folder
                (node / "offers").rename(node / "moved")
                (node / "offers").symlink_to(outside)
            return real(target, *owner, **how)

        return give

    for name in ("chown", "fchown"):
        monkeypatch.setattr(os, name, swapped(getattr(os, name)))
    join(fresh.invite(), tmp_path / "state")
    assert (node / "offers").is_symlink()
    assert ((outside / "shadow").stat().st_uid, outside.stat().st_uid) == (0, 0)
    assert (node / "tls.pem").stat().st_uid == 65534
