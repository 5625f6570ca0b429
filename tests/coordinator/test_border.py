"""Revocation over real sockets: live streams end, nothing opens again, and a new invitation is the only way back."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from live_border import border, running, until

from fedhealth.coordinator.enrolling import invite_site
from fedhealth.coordinator.home import (
    CoordinatorHome,
    admit_site,
    init_coordinator,
    install_chain,
    revoke_site,
)
from fedhealth.errors import ConfigInvalid, LinkUnavailable
from fedhealth.link.client import run_link
from fedhealth.link.renewal import RENEWAL_METHOD, RENEWAL_SERVICE, RenewalRefused, ask_renewal
from fedhealth.link.services import PeerAway, service_of
from fedhealth.link.tls import METHOD, SERVICE, aio, grpc, open_channel
from fedhealth.pki.certificates import key_pem, make_key, make_request
from fedhealth.pki.identity import TlsIdentity
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root

NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path):
    made = CoordinatorHome(tmp_path / "home")
    root = create_root(tmp_path / "root", "heart", None, NOW)
    _, request = init_coordinator(made, "heart", "c.example:7443", "c.example:7444")
    install_chain(made, root.certify_issuer(request.read_bytes(), NOW), root.pem, NOW)
    return made


def joined(home, site, now=NOW):
    keys = [make_key("P-256") for _ in range(2)]
    chains = admit_site(home, site, *(key.public_key() for key in keys), "ab" * 32, now)
    root = home.open_authority().root_pem
    return [TlsIdentity(chain, key_pem(key), root) for key, chain in zip(keys, chains, strict=True)]


def connected(identity, address, states=None, services=None):
    states = [] if states is None else states
    return running(run_link(identity, address, "heart", services or {}, states.append))


def test_a_revoked_site_loses_its_live_stream_and_what_is_asked_on_it_and_others_keep_theirs(home):
    hungary, va = joined(home, "hungary")[0], joined(home, "va")[0]
    ended = []

    async def never(_body):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def main():
        states = []
        async with (
            border(home) as (link, address),
            connected(hungary, address, states, {"never": service_of(never)}),
            connected(va, address),
        ):
            await link.wait_connected({"hungary", "va"}, 10)
            asked = asyncio.create_task(link.ask("hungary", "never", b"", 60))
            await asyncio.sleep(0.05)
            revoke_site(home, "hungary", datetime.now(UTC))
            with pytest.raises(PeerAway):
                await asked
            await until(lambda: "refused" in states)
            assert link.connected() == {"va"}
            assert ended == [True]

    asyncio.run(main())


def test_a_revoked_site_opens_no_stream_and_renews_nothing_also_after_a_restart(home):
    leaf, renewal = joined(home, "hungary")
    revoke_site(home, "hungary", datetime.now(UTC))

    async def main():
        for _ in range(2):
            states = []
            async with border(home) as (link, address):
                async with connected(leaf, address, states):
                    await until(lambda states=states: "refused" in states)
                for shown in (leaf, renewal):
                    wish = make_request(make_key("P-256"), "heart", "hungary")
                    with pytest.raises(RenewalRefused):
                        await ask_renewal(shown, address, "heart", Role.SITE, wish)
                assert link.connected() == frozenset()

    asyncio.run(main())


def test_a_stream_ends_with_its_certificate(home):
    leaf = joined(home, "hungary", datetime.now(UTC) - timedelta(hours=24) + timedelta(seconds=4))[0]

    async def main():
        states = []
        async with border(home) as (link, address), connected(leaf, address, states):
            await link.wait_connected({"hungary"}, 3.5)
            await until(lambda: "refused" in states)
            assert link.connected() == frozenset()

    asyncio.run(main())


def test_a_connection_that_stayed_up_is_good_for_nothing_once_its_certificate_ended(home):
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)
    leaf = joined(home, "hungary", ends - timedelta(hours=24))[0]

    async def main():
        async with border(home) as (_, address), open_channel(leaf, address, "heart") as channel:
            renewal = channel.unary_unary(f"/{RENEWAL_SERVICE}/{RENEWAL_METHOD}")

            async def renew():
                with pytest.raises(aio.AioRpcError) as caught:
                    await renewal(b"no request at all", timeout=3)
                return caught.value.code()

            assert await renew() is grpc.StatusCode.INVALID_ARGUMENT, "its certificate was good when it connected"
            await asyncio.sleep((ends - datetime.now(UTC)).total_seconds() + 0.01)
            # A new connection would end in TLS, as UNAVAILABLE: it is the same one.
            assert await renew() is grpc.StatusCode.UNAUTHENTICATED
            stream = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
            with pytest.raises(aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(main())


def test_a_stream_that_a_new_invitation_replaced_ends_too(home):
    old = joined(home, "hungary")[0]

    async def main():
        states = []
        async with border(home) as (link, address), connected(old, address, states):
            await link.wait_connected({"hungary"}, 10)
            new = joined(home, "hungary")[0]
            await until(lambda: "refused" in states)
            async with connected(new, address):
                await link.wait_connected({"hungary"}, 10)

    asyncio.run(main())


def test_revoking_ends_an_open_invitation_too_and_names_a_site_that_never_joined(home):
    joined(home, "hungary")
    invite_site(home, "hungary", datetime.now(UTC))
    revoke_site(home, "hungary", datetime.now(UTC))
    assert list(home.invitations.glob("*.json")) == []
    with pytest.raises(ConfigInvalid, match="'atlantis' never joined; wanted one of hungary"):
        revoke_site(home, "atlantis", datetime.now(UTC))
    with pytest.raises(ConfigInvalid, match="no site has joined"):
        home.pinned_sites()


def test_the_enrolment_port_is_open_only_while_an_invitation_is(home, monkeypatch, unused_port):
    monkeypatch.setattr("fedhealth.coordinator.border._LOOK_SECONDS", 0.02)
    address = f"127.0.0.1:{unused_port}"

    async def is_open():
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", unused_port)
        except OSError:
            return False
        writer.close()
        return True

    async def main():
        async with border(home, enrolment=address):
            await asyncio.sleep(0.2)
            assert not await is_open()
            invite_site(home, "hungary", datetime.now(UTC))
            async with asyncio.timeout(10):
                while not await is_open():
                    await asyncio.sleep(0.02)
            invite_site(home, "hungary", datetime.now(UTC) - timedelta(hours=2))
            async with asyncio.timeout(10):
                while await is_open():
                    await asyncio.sleep(0.02)

    asyncio.run(main())


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_site_that_renews_without_end_is_put_off_and_others_renew(home):
    hungary, va = joined(home, "hungary")[0], joined(home, "va")[0]

    def wish(site):
        return make_request(make_key("P-256"), "heart", site)

    async def scenario():
        async with border(home) as (_, address):
            asked = [ask_renewal(hungary, address, "heart", Role.SITE, wish("hungary")) for _ in range(40)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            await ask_renewal(va, address, "heart", Role.SITE, wish("va"))
            return answers

    answers = asyncio.run(scenario())
    put_off = [str(answer) for answer in answers if isinstance(answer, LinkUnavailable)]
    assert 0 < len(put_off) < 40 and all("RESOURCE_EXHAUSTED" in answer for answer in put_off)
    assert not any(isinstance(answer, RenewalRefused) for answer in answers)  # it is told to try again, not to give up
