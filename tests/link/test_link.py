import asyncio
import hashlib
import logging
import os
import time
from datetime import UTC, datetime, timedelta

import pytest

from fedhealth.errors import IdentityInvalid, LinkUnavailable
from fedhealth.link import client as client_module
from fedhealth.link import session as session_module
from fedhealth.link.client import LinkState, run_link
from fedhealth.link.memory import CHUNK_BYTES
from fedhealth.link.server import LinkServer
from fedhealth.link.services import AskFailed, Failure, PeerAway, service_of
from fedhealth.link.session import ProtocolMismatch, hello_body

PATIENT = "patient 4711 has HIV"


async def echo(body):
    return body


async def digest(body):
    return hashlib.sha256(body).digest()


async def never(_body):
    await asyncio.Event().wait()
    return b""


async def fail(_body):
    raise RuntimeError(PATIENT)


async def flood(_body):
    return bytes(CHUNK_BYTES + 1)


LARGEST = 5 * CHUNK_BYTES + 7
SERVICES = {
    name: service_of(answer, LARGEST)
    for name, answer in {"echo": echo, "digest": digest, "never": never, "fail": fail, "flood": flood}.items()
}


def linked(federation, scenario, **node):
    """Run a scenario with one server and the site 'hungary' connected to it."""

    async def main():
        async with (
            federation.server() as (server, address),
            federation.node("hungary", address, SERVICES, **node) as task,
        ):
            await server.wait_connected({"hungary"}, 5)
            return await scenario(server, task)

    return asyncio.run(main())


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, LARGEST])
def test_a_body_goes_there_and_back_unchanged(federation, size):
    body = os.urandom(size)

    async def scenario(server, _task):
        assert await server.ask("hungary", "digest", body, 10) == hashlib.sha256(body).digest()
        assert await server.ask("hungary", "echo", body, 10, LARGEST) == body

    linked(federation, scenario)


def test_a_hundred_asks_in_flight_each_get_their_own_answer(federation):
    async def slow_first(body):
        await asyncio.sleep(0.1 / (1 + body[0]))  # later ones answer earlier
        return body * 2

    async def main():
        async with (
            federation.server() as (server, address),
            federation.node("hungary", address, {"double": service_of(slow_first)}),
        ):
            await server.wait_connected({"hungary"}, 5)
            bodies = [bytes([n]) for n in range(100)]
            return await asyncio.gather(*(server.ask("hungary", "double", b, 10) for b in bodies))

    assert asyncio.run(main()) == [bytes([n, n]) for n in range(100)]


def test_four_sites_are_asked_side_by_side(federation):
    async def main():
        changes = []
        async with federation.server(on_change=lambda *change: changes.append(change)) as (server, address):
            names = ["cleveland", "hungary", "switzerland", "va"]
            async with asyncio.TaskGroup() as group:
                nodes = [
                    group.create_task(run_link(federation.site(n), address, "heart", SERVICES, lambda _: None))
                    for n in names
                ]
                await server.wait_connected(names, 5)
                assert server.connected() == set(names)
                answers = await asyncio.gather(*(server.ask(n, "echo", n.encode(), 5) for n in names))
                for node in nodes:
                    node.cancel()
            return answers, changes

    answers, changes = asyncio.run(main())
    assert answers == [b"cleveland", b"hungary", b"switzerland", b"va"]
    assert {change for change in changes if change[1]} == {
        (n, True) for n in ["cleveland", "hungary", "switzerland", "va"]
    }


@pytest.mark.parametrize("service", ["fail", "flood", "unknown"])
def test_a_service_that_cannot_answer_fails_without_details_and_the_link_stays(federation, service, caplog):
    async def scenario(server, _task):
        with pytest.raises(AskFailed) as caught:
            await server.ask("hungary", service, b"", 5)
        assert PATIENT not in str(caught.value)
        assert await server.ask("hungary", "echo", b"still here", 5) == b"still here"

    with caplog.at_level(logging.DEBUG):
        linked(federation, scenario)
    assert PATIENT not in caplog.text, "no value in a log at any level"
    assert service != "fail" or "'fail' failed: RuntimeError" in caplog.text


def test_an_ask_without_answer_ends_at_its_deadline_and_leaves_nothing(federation):
    async def scenario(server, _task):
        with pytest.raises(PeerAway, match=r"no answer within 0\.1 s"):
            await server.ask("hungary", "never", b"", 0.1)
        assert await server.ask("hungary", "echo", b"x", 5) == b"x"
        assert server._streams["hungary"].exchange._questions == {}

    linked(federation, scenario)


def test_an_answer_after_its_deadline_is_ignored(federation):
    async def late(body):
        await asyncio.sleep(0.1)
        return body

    async def main():
        async with (
            federation.server() as (server, address),
            federation.node("hungary", address, {"late": service_of(late)}),
        ):
            await server.wait_connected({"hungary"}, 5)
            with pytest.raises(PeerAway):
                await server.ask("hungary", "late", b"first", 0.05)
            assert await server.ask("hungary", "late", b"second", 5) == b"second"

    asyncio.run(main())


def test_refuses_to_ask_a_site_that_is_not_connected_or_to_send_too_much(federation):
    async def scenario(server, _task):
        with pytest.raises(PeerAway, match="'va' cannot be asked; got no connection"):
            await server.ask("va", "echo", b"", 5)
        with pytest.raises(AskFailed) as caught:
            await server.ask("hungary", "echo", bytes(LARGEST + 1), 5)
        assert caught.value.failure is Failure.TOO_LARGE
        with pytest.raises(PeerAway, match="got nothing from va"):
            await server.wait_connected({"hungary", "va"}, 0.05)
        assert await server.ask("hungary", "echo", b"x", 5) == b"x"

    linked(federation, scenario)


def test_refuses_more_asks_in_flight_than_the_limit(federation, monkeypatch):
    monkeypatch.setattr("fedhealth.link.exchange.MAX_ASKS_IN_FLIGHT", 2)

    async def scenario(server, _task):
        waiting = [asyncio.create_task(server.ask("hungary", "never", b"", 0.2)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(LinkUnavailable, match="too many questions"):
            await server.ask("hungary", "echo", b"", 5)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await server.ask("hungary", "echo", b"x", 5) == b"x"

    linked(federation, scenario)


def test_asks_in_flight_fail_at_once_when_the_site_goes_away(federation, until):
    async def scenario(server, task):
        asks = [asyncio.create_task(server.ask("hungary", "never", b"", 60)) for _ in range(10)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        task.cancel()
        results = await asyncio.gather(*asks, return_exceptions=True)
        assert all(isinstance(result, PeerAway) for result in results)
        assert time.monotonic() - began < 1
        await until(lambda: not server.connected())

    linked(federation, scenario)


def test_asks_in_flight_fail_at_once_when_the_server_stops(federation):
    async def scenario(server, _task):
        ask = asyncio.create_task(server.ask("hungary", "never", b"", 60))
        await asyncio.sleep(0.1)
        await server.stop()
        with pytest.raises(PeerAway):
            await asyncio.wait_for(ask, 0.5)
        assert server.connected() == frozenset()

    linked(federation, scenario)


def test_a_service_is_cancelled_when_its_stream_ends(federation, until):
    began, ended = [], []

    async def watched(body):
        began.append(body)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(body)
        return body

    async def main():
        async with (
            federation.server() as (server, address),
            federation.node("hungary", address, {"watched": service_of(watched)}),
        ):
            await server.wait_connected({"hungary"}, 5)
            ask = asyncio.create_task(server.ask("hungary", "watched", b"x", 60))
            await until(lambda: began)
            await server.stop()
            await until(lambda: ended)
            await asyncio.gather(ask, return_exceptions=True)

    asyncio.run(main())


def test_a_site_comes_back_by_itself_after_the_server_was_restarted(federation, until):
    async def main():
        states = []
        async with federation.server() as (first, address):
            node = federation.node("hungary", address, SERVICES, states)
            task = await node.__aenter__()
            await first.wait_connected({"hungary"}, 5)
        await until(lambda: states[-1] != LinkState.CONNECTED)
        async with federation.server(address) as (second, _):
            await second.wait_connected({"hungary"}, 5)
            assert await second.ask("hungary", "echo", b"again", 5) == b"again"
            assert not task.done()
            await node.__aexit__(None, None, None)
        return states

    states = asyncio.run(main())
    assert states[:3] == ["connecting", "connected", "disconnected"]
    assert states[-1] == "connected"


def test_the_newer_of_two_streams_of_a_site_counts(federation, until):
    async def one(_body):
        return b"one"

    async def two(_body):
        return b"two"

    async def main():
        states, changes = [], []
        async with (
            federation.server(on_change=lambda *change: changes.append(change)) as (server, address),
            federation.node("hungary", address, {"which": service_of(one), "never": service_of(never)}, states),
        ):
            await server.wait_connected({"hungary"}, 5)
            pending = asyncio.create_task(server.ask("hungary", "never", b"", 60))
            await asyncio.sleep(0.05)
            async with federation.node("hungary", address, {"which": service_of(two)}):
                await until(lambda: "replaced" in states)
                with pytest.raises(PeerAway):
                    await asyncio.wait_for(pending, 1)
                assert await server.ask("hungary", "which", b"", 5) == b"two"
                assert changes == [("hungary", True)], "the site was connected all the time"

    asyncio.run(main())


def test_a_port_in_use_is_a_clear_error(federation):
    async def main():
        async with federation.server() as (_, address):
            with pytest.raises(LinkUnavailable, match=f"cannot listen at {address}; got a port in use"):
                await LinkServer(federation.coordinator, "heart", lambda *_: None).start(address)

    asyncio.run(main())


def test_an_older_site_is_told_to_upgrade_and_does_not_try_again(federation, monkeypatch, caplog):
    monkeypatch.setattr("fedhealth.link.server.hello_body", lambda: hello_body(3))
    monkeypatch.setattr(
        "fedhealth.link.server.check_hello", lambda body, reader: session_module.check_hello(body, reader, 3)
    )

    async def main():
        async with federation.server() as (server, address):
            with pytest.raises(ProtocolMismatch, match="upgrade the site first"):
                async with asyncio.timeout(5):
                    await run_link(federation.site("hungary"), address, "heart", {}, lambda _: None)
            assert server.connected() == frozenset()

    asyncio.run(main())
    assert "site 'hungary': the site speaks another version" in caplog.text, "the coordinator's side knows too"


def test_a_newer_site_waits_for_the_coordinator_whose_log_says_to_upgrade(federation, monkeypatch, caplog, until):
    monkeypatch.setattr(client_module, "hello_body", lambda: hello_body(3))
    monkeypatch.setattr(client_module, "check_hello", lambda body, reader: session_module.check_hello(body, reader, 3))

    async def main():
        states = []
        async with (
            federation.server() as (_, address),
            federation.node("hungary", address, {}, states) as task,
        ):
            await until(lambda: "coordinator-older" in states)
            assert not task.done()
        assert "connected" not in states

    asyncio.run(main())
    server_log = [r.getMessage() for r in caplog.records if r.name == "fedhealth.link.server"]
    assert any("Install the newer FedHealth on this coordinator" in line for line in server_log)


def test_an_expired_certificate_ends_the_link_instead_of_trying_for_ever(federation):
    async def main(identity, clock):
        await run_link(identity, "127.0.0.1:1", "heart", {}, lambda _: None, clock=clock)

    old = federation.site("hungary", federation.now - timedelta(days=2))
    with pytest.raises(IdentityInvalid, match="certificate of site 'hungary' expired at"):
        asyncio.run(main(old, lambda: datetime.now(UTC)))
    times = iter([federation.now, federation.now + timedelta(days=2)])  # it expires while trying
    with pytest.raises(IdentityInvalid, match="expired at"):
        asyncio.run(main(federation.site("hungary"), lambda: next(times)))


def test_cancelling_leaves_no_task_behind(federation):
    async def main():
        async with federation.server() as (server, address):
            before = asyncio.all_tasks()
            async with federation.node("hungary", address, SERVICES):
                await server.wait_connected({"hungary"}, 5)
                ask = asyncio.create_task(server.ask("hungary", "never", b"", 60))
                await asyncio.sleep(0.05)
            with pytest.raises(PeerAway):
                await ask
            await asyncio.sleep(0.05)
            return [repr(task) for task in asyncio.all_tasks() - before]

    assert [task for task in asyncio.run(main()) if "/fedhealth/" in task] == []
