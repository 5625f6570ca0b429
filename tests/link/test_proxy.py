"""A hospital that lets nobody out but through an HTTP proxy: TLS goes through it unopened, and nothing beside it."""

import asyncio
import socket
import threading

import pytest
from connect_proxy import ConnectProxy

from fedhealth.errors import LinkUnavailable
from fedhealth.link.client import LinkState
from fedhealth.link.enrolment import AskRoot
from fedhealth.link.enrolment_port import ask_unverified
from fedhealth.link.proxy import ProxyRefused, connect, split_proxy
from fedhealth.link.services import service_of

AWAY = "coordinator.invalid:7443"  # has no address (RFC 6761), so whoever gets there went through the proxy
WORD = b"what a gate would answer"


async def answer(_body):
    return WORD


SERVICES = {"gate": service_of(answer)}


@pytest.mark.parametrize("no_proxy", ["", "*", "coordinator.invalid"])
def test_the_link_goes_through_the_proxy_that_the_site_names_whatever_the_environment_says(
    federation, monkeypatch, no_proxy
):
    monkeypatch.setenv("no_proxy", no_proxy)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")

    async def main():
        async with federation.server() as (server, address):
            with ConnectProxy({AWAY: address}) as proxy:
                async with federation.node("hungary", AWAY, SERVICES, proxy=proxy.url):
                    await server.wait_connected({"hungary"}, 10)
                    assert bytes(await server.ask("hungary", "gate", b"?", 10)) == WORD
        return proxy

    proxy = asyncio.run(main())
    assert set(proxy.asked) == {("CONNECT", AWAY)}
    assert WORD not in proxy.crossed and b"hungary" not in proxy.crossed  # client certificates are encrypted in TLS 1.3


def test_without_a_proxy_of_its_own_the_link_does_not_look_for_one(federation, monkeypatch):
    async def main():
        async with federation.server() as (server, address):
            with ConnectProxy({address: address}) as proxy:
                for name in ("grpc_proxy", "https_proxy", "http_proxy"):
                    monkeypatch.setenv(name, proxy.url)
                async with federation.node("hungary", address):
                    await server.wait_connected({"hungary"}, 10)
        return proxy

    assert asyncio.run(main()).asked == []


def test_a_proxy_that_leads_elsewhere_leads_nowhere(federation, foreign):
    """Whoever owns the proxy cannot stand in for the coordinator."""

    async def main():
        states = []
        async with foreign.server() as (server, address):
            with ConnectProxy({AWAY: address}) as proxy:
                async with federation.node("hungary", AWAY, SERVICES, states, proxy=proxy.url):
                    async with asyncio.timeout(10):
                        while states.count(LinkState.DISCONNECTED) < 2:
                            await asyncio.sleep(0.01)
                    assert server.connected() == frozenset()
        assert proxy.asked
        return states

    assert LinkState.CONNECTED not in asyncio.run(main())


def test_the_link_comes_up_by_itself_once_the_proxy_has_a_rule_for_it(federation):
    async def main():
        async with federation.server() as (server, address):
            with ConnectProxy({}) as proxy:
                async with federation.node("hungary", AWAY, proxy=proxy.url):
                    async with asyncio.timeout(10):
                        while not proxy.asked:
                            await asyncio.sleep(0.01)
                    assert server.connected() == frozenset()
                    proxy.ways[AWAY] = address
                    await server.wait_connected({"hungary"}, 30)

    asyncio.run(main())


def test_a_site_that_joins_is_told_what_the_proxy_answered():
    with ConnectProxy({}) as proxy, pytest.raises(LinkUnavailable, match="the proxy answers 403"):
        ask_unverified(AWAY, AskRoot(), proxy=proxy.url)


# What something that is no proxy may send: (bytes, what is said of it).
NO_PROXIES = {
    "nothing": (b"", "does not answer as one"),
    "half a head": (b"HTTP/1.1 200 OK\r\n", "does not answer as one"),
    "endless": (b"HTTP/1.1 200 OK\r\n" + 9000 * b"x", "does not answer as one"),
    "password wanted": (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answers 407"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP status"),
    "a status with a tail": (b"HTTP/1.1 2000 OK\r\n\r\n", "no HTTP status"),
}


@pytest.mark.parametrize("case", NO_PROXIES)
def test_what_is_no_proxy_is_one_error(case):
    sent, said = NO_PROXIES[case]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            caller, _ = listener.accept()
            with caller:
                caller.recv(1000)
                caller.sendall(sent)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ProxyRefused, match=said):
            connect(AWAY, f"http://127.0.0.1:{listener.getsockname()[1]}", 5)
        thread.join()


@pytest.mark.parametrize(
    "written",
    [
        "proxy:3128",
        "https://proxy:3128",
        "http://proxy",
        "http://u:p@proxy:3128",
        "http://proxy:0",
        "http://proxy:65536",
    ],
)
def test_another_form_is_no_proxy(written):
    with pytest.raises(ValueError, match="http://HOST:PORT, without a name or a password"):
        split_proxy(written)
