"""Certificates are renewed in time with new keys, the link changes over, and a site that was away comes back alone."""

import asyncio
import contextlib
import logging
import sys
from datetime import UTC, datetime, timedelta

import live_border
import pytest
from live_border import running, until

from fedhealth.coordinator.border import Border
from fedhealth.coordinator.home import CoordinatorHome, admit_site, init_coordinator, install_chain
from fedhealth.errors import IdentityInvalid
from fedhealth.link.client import SiteLink
from fedhealth.link.renewal import (
    RENEWAL_METHOD,
    RENEWAL_SERVICE,
    RenewalRefused,
    RenewRequest,
    ask_renewal,
)
from fedhealth.link.services import PeerAway, service_of
from fedhealth.link.tls import aio, grpc, open_channel
from fedhealth.pki.certificates import key_pem, load_key, make_key, make_request, parse_chain
from fedhealth.pki.identity import ROOT_FILE, TlsIdentity, read_identity, store_identity
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root
from fedhealth.site import renewing as site_renewing
from fedhealth.site.node_file import NodeFile
from fedhealth.site.renewing import keep_linked

LEDGER = "ab" * 32


@pytest.fixture
def home(tmp_path):
    """A coordinator's home whose authority is half a year old."""
    made, past = CoordinatorHome(tmp_path / "home"), datetime.now(UTC) - timedelta(days=180)
    root = create_root(tmp_path / "root", "heart", None, past)
    _, request = init_coordinator(made, "heart", "c.example:7443", "c.example:7444")
    install_chain(made, root.certify_issuer(request.read_bytes(), past), root.pem, past)
    return made


@pytest.fixture
def node(home, tmp_path):
    """Make the node's folder of a site that joined some time ago."""

    def make(ago=timedelta(0)):
        folder = tmp_path / "node"
        folder.mkdir()
        keys = [make_key("P-256") for _ in range(2)]
        joined = datetime.now(UTC) - ago
        chains = admit_site(home, "hungary", *(key.public_key() for key in keys), LEDGER, joined)
        for role, key, chain in zip((Role.SITE, Role.RENEWAL), keys, chains, strict=True):
            store_identity(folder, role, key, chain)
        (folder / ROOT_FILE).write_bytes(home.open_authority().root_pem)
        return folder

    return make


@contextlib.asynccontextmanager
async def border(home):
    async with live_border.border(home) as (link, address):
        yield link, NodeFile(site="hungary", federation="heart", coordinator=address)


def linked(folder, file, states=None, services=None, is_idle=lambda: True, **options):
    states = [] if states is None else states
    return running(keep_linked(folder, file, services or {}, states.append, is_idle, **options))


def leaf_of(folder, role=Role.SITE):
    return read_identity(folder, role).leaf


async def echo(body):
    return body


def test_a_site_that_was_cut_off_for_five_days_comes_back_without_a_person(home, node):
    folder = node(timedelta(days=5))
    ended, kept = leaf_of(folder), leaf_of(folder, Role.RENEWAL)

    async def main():
        async with border(home) as (link, file), linked(folder, file):
            await link.wait_connected({"hungary"}, 10)

    asyncio.run(main())
    fresh = leaf_of(folder)
    assert ended.not_valid_after_utc < datetime.now(UTC) < fresh.not_valid_after_utc
    assert fresh.public_key() != ended.public_key()
    assert leaf_of(folder, Role.RENEWAL) == kept, "which is not due yet"
    home.members().check("hungary", fresh, Role.SITE)


def test_the_renewal_certificate_is_renewed_after_a_third_of_its_life(home, node):
    folder = node(timedelta(days=31))
    before = leaf_of(folder, Role.RENEWAL)

    async def main():
        async with border(home) as (link, file), linked(folder, file):
            await link.wait_connected({"hungary"}, 10)

    asyncio.run(main())
    after = leaf_of(folder, Role.RENEWAL)
    assert after.public_key() != before.public_key()
    assert after.not_valid_after_utc > before.not_valid_after_utc + timedelta(days=30)


def test_a_site_whose_two_certificates_ended_names_who_must_act(home, node):
    folder = node(timedelta(days=91))

    async def main():
        async with border(home) as (_, file), linked(folder, file) as task:
            with pytest.raises(IdentityInvalid, match=r"expired.*new invitation"):
                await asyncio.wait_for(task, 5)

    asyncio.run(main())


def test_a_coordinator_that_is_away_is_asked_again(home, node, monkeypatch):
    monkeypatch.setattr("fedhealth.site.renewing.RETRY_SECONDS", 0.05)
    folder = node(timedelta(days=5))

    async def main():
        async with border(home) as (link, file):
            await link.stop()
            async with linked(folder, file) as task:
                await asyncio.sleep(0.3)
                assert not task.done()
                again = Border(home)
                await again.start(file.coordinator)
                await again.link.wait_connected({"hungary"}, 10)
                await again.stop()

    asyncio.run(main())


def test_the_link_changes_over_again_and_again_and_every_question_is_answered(home, node):
    folder, states = node(), []
    later = timedelta(hours=9)  # by the site's clock every certificate is due as soon as it is made

    async def ask(link, body):
        for _ in range(50):
            try:
                return bytes(await link.ask("hungary", "echo", body, 5))
            except PeerAway:
                await asyncio.sleep(0.01)
        raise AssertionError("lost")

    async def main():
        services = {"echo": service_of(echo)}
        options = {"clock": lambda: datetime.now(UTC) + later, "look_seconds": 0.05}
        async with border(home) as (link, file), linked(folder, file, states, services, **options):
            await link.wait_connected({"hungary"}, 10)
            keys, number = set(), 0
            while len(keys) < 6:
                assert await ask(link, b"%d" % number) == b"%d" % number
                keys.add(leaf_of(folder).serial_number)
                number += 1
                await asyncio.sleep(0.005)
            assert link.connected() == {"hungary"}
            return number

    assert asyncio.run(main()) > 6
    assert set(states) <= {"connecting", "connected"}, "a change-over is no disturbance"


def test_an_old_link_that_ends_without_saying_why_does_not_come_back_beside_the_new_one(node, monkeypatch):
    folder, told, links = node(), [], []

    async def run_link(identity, address, federation, services, on_state, **_):
        number, up = len(links), asyncio.Event()
        links.append(up)
        on_state("connecting")
        on_state("connected")
        up.set()
        if number == 0:
            while len(links) < 2:
                await asyncio.sleep(0.005)
            await links[1].wait()
            on_state("disconnected")  # cut off before the coordinator's "replaced" had arrived
            await asyncio.sleep(0.05)
            told.append("came back")
        await asyncio.Event().wait()

    async def main():
        identity = read_identity(folder, Role.SITE)
        file = NodeFile(site="hungary", federation="heart", coordinator="127.0.0.1:1")
        link = site_renewing._Link(file, {}, told.append, lambda: datetime.now(UTC), SiteLink())
        assert await link.change_over(identity, lambda: True)
        await asyncio.sleep(0.02)
        assert await link.change_over(identity, lambda: True)
        await asyncio.sleep(0.1)
        await link.stop()

    monkeypatch.setattr(site_renewing, "run_link", run_link)
    asyncio.run(main())
    assert told == ["connecting", "connected", "connecting", "connected"]


def test_the_link_changes_over_only_while_nothing_is_answered(home, node):
    folder, busy = node(), asyncio.Event()
    first = leaf_of(folder)

    async def main():
        answering = [True]

        async def slow(body):
            await busy.wait()
            answering[0] = False
            return body

        services = {"slow": service_of(slow)}
        options = {"clock": lambda: datetime.now(UTC) + timedelta(hours=9), "look_seconds": 0.05}
        async with (
            border(home) as (link, file),
            linked(folder, file, services=services, is_idle=lambda: not answering[0], **options),
        ):
            await link.wait_connected({"hungary"}, 10)
            question = asyncio.create_task(link.ask("hungary", "slow", b"x", 10))
            await until(lambda: leaf_of(folder) != first)
            await asyncio.sleep(0.2)
            busy.set()
            assert bytes(await question) == b"x"

    asyncio.run(main())


def renewing(home, shown, role=Role.SITE, request=None, body=None):
    """Ask for a renewal over a real socket, whatever certificate is shown."""

    async def main():
        async with border(home) as (_, file):
            if body is None:
                wish = request or make_request(make_key("P-256"), "heart", "hungary")
                return await ask_renewal(shown, file.coordinator, "heart", role, wish)
            async with open_channel(shown, file.coordinator, "heart") as channel:
                return await channel.unary_unary(f"/{RENEWAL_SERVICE}/{RENEWAL_METHOD}")(body, timeout=5)

    return asyncio.run(main())


@pytest.mark.parametrize("shown", [Role.SITE, Role.RENEWAL])
@pytest.mark.parametrize("wanted", [Role.SITE, Role.RENEWAL])
def test_either_certificate_renews_either(home, node, shown, wanted):
    leaf, _ = parse_chain(renewing(home, read_identity(node(), shown), wanted), 2)
    home.members().check("hungary", leaf, wanted)
    life = leaf.not_valid_after_utc - datetime.now(UTC)
    assert (life > timedelta(days=89)) == (wanted is Role.RENEWAL)


def test_a_revoked_site_gets_no_renewal(home, node, caplog):
    folder = node()
    home.members().revoke("hungary", datetime.now(UTC))
    for role in (Role.SITE, Role.RENEWAL):
        with caplog.at_level(logging.WARNING), pytest.raises(RenewalRefused, match="new invitation"):
            renewing(home, read_identity(folder, role))
    assert [record.args["code"] for record in caplog.records if "refused" in record.msg] == ["revoked", "revoked"]


def test_the_old_key_is_not_certified_again(home, node, caplog):
    shown = read_identity(node(), Role.SITE)
    with caplog.at_level(logging.WARNING), pytest.raises(RenewalRefused):
        renewing(home, shown, request=make_request(load_key(shown.key_pem), "heart", "hungary"))
    assert caplog.records[-1].args["code"] == "same-key"


def test_a_certificate_that_is_not_on_the_record_gets_no_renewal(home, node, caplog):
    node()
    key, authority = make_key("P-256"), home.open_authority()  # as whoever stole the issuing key would
    chain = authority.issue(key.public_key(), Role.SITE, "hungary", datetime.now(UTC))
    with caplog.at_level(logging.WARNING), pytest.raises(RenewalRefused):
        renewing(home, TlsIdentity(chain, key_pem(key), authority.root_pem))
    assert caplog.records[-1].args["code"] == "not-on-record"


@pytest.mark.parametrize(
    "request_pem",
    [b"", b"garbage", make_request(make_key("P-384"), "heart", "hungary")],
    ids=["empty", "garbage", "P-384"],
)
def test_a_request_that_is_none_gets_no_certificate(home, node, request_pem):
    shown = read_identity(node(), Role.SITE)
    before = home.members().find("hungary")
    with pytest.raises(RenewalRefused):
        renewing(home, shown, request=request_pem or b" ")
    assert home.members().find("hungary") == before


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff" * 20_000, b'{"role":"coordinator","request":"x"}'])
def test_a_message_that_is_none_gets_one_code(home, node, body):
    with pytest.raises(aio.AioRpcError) as refused:
        renewing(home, read_identity(node(), Role.SITE), body=body)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == ""


def test_the_coordinator_renews_its_own_certificate_after_a_third_of_its_life(home):
    now = datetime.now(UTC)
    made = home.identity(now)
    assert home.identity(now + timedelta(hours=7, minutes=59)) == made
    renewed = home.identity(now + timedelta(hours=8))
    assert renewed.leaf.public_key() != made.leaf.public_key()
    assert renewed.leaf.not_valid_after_utc > made.leaf.not_valid_after_utc


def test_the_coordinator_shows_its_new_certificate_and_keeps_the_streams(home, node):
    folder = node()

    async def main():
        async with border(home) as (link, file), linked(folder, file):
            await link.wait_connected({"hungary"}, 10)
            old = home.identity(datetime.now(UTC))
            assert await shown_by(file.coordinator, folder) == old.leaf.public_key()
            (home.tls / "tls.pem").unlink()
            fresh = home.identity(datetime.now(UTC))
            link.show(fresh)
            assert link.connected() == {"hungary"}
            assert await shown_by(file.coordinator, folder) == fresh.leaf.public_key() != old.leaf.public_key()

    asyncio.run(main())


def test_a_coordinator_that_cannot_write_says_so_in_its_own_log_only(home, node, monkeypatch, caplog):
    shown = read_identity(node(), Role.SITE)

    def full(*_):
        raise OSError(28, "No space left on device", "/secret/path")

    monkeypatch.setattr("fedhealth.coordinator.border.renew_site", full)
    body = RenewRequest(role=Role.SITE, request="x").model_dump_json().encode()
    with caplog.at_level(logging.ERROR), pytest.raises(aio.AioRpcError) as failed:
        renewing(home, shown, body=body)
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNAVAILABLE, "")
    assert "a renewal failed" in caplog.text


def test_a_confined_node_in_a_process_of_its_own_renews_what_ended(home, node, tmp_path):
    folder, state = node(timedelta(days=5)), tmp_path / "state"
    state.mkdir()
    folder.rename(state / "node")
    ended = leaf_of(state / "node")

    async def main():
        async with border(home) as (link, file):
            text = f'site = "hungary"\nfederation = "heart"\ncoordinator = "{file.coordinator}"\n'
            (state / "node" / "node.toml").write_text(text)
            command = [sys.executable, "-m", "fedhealth.cli.main", "site", "node", "--state", str(state), "--lifeline"]
            process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
            try:
                await link.wait_connected({"hungary"}, 30)
            finally:
                process.stdin.close()
                await process.wait()

    asyncio.run(main())
    assert leaf_of(state / "node").not_valid_after_utc > datetime.now(UTC) > ended.not_valid_after_utc


async def shown_by(address, folder):
    """Return the public key that a server shows in a handshake of its own."""
    import socket
    import ssl

    from cryptography import x509

    def handshake():
        context = ssl.create_default_context(cafile=folder / ROOT_FILE)
        context.check_hostname = False
        context.load_cert_chain(folder / "tls.pem")
        context.set_alpn_protocols(["h2"])
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=5) as plain, context.wrap_socket(plain) as tls:
            return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)).public_key()

    return await asyncio.to_thread(handshake)
