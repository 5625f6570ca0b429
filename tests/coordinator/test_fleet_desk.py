"""What crosses between a SuperNode's port at a site and the coordinator's desk: a node's calls, and nothing else."""

import asyncio
import contextlib
import socket
import ssl
from datetime import UTC, datetime

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto import fleet_pb2, message_pb2
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from scripted_superlink import ScriptedSuperLink

from fedhealth.coordinator import fleet_desk
from fedhealth.coordinator.fleet_desk import FleetDesk
from fedhealth.errors import FederationFailed, LinkUnavailable
from fedhealth.flower.fab import FAB_SHA256, fab_bytes
from fedhealth.flower.fleet_requests import (
    ACTIVATE,
    CALLS,
    CONFIRM,
    DEACTIVATE,
    FLEET,
    GET_FAB,
    JOIN,
    PUBLIC_KEY,
    PULL,
    PULL_OBJECT,
    VERSION,
    FleetAnswer,
    FleetRequest,
    JoinAnswer,
    JoinQuestion,
    is_signed,
    key_header,
    pack_fleet,
    unpack_fleet,
)
from fedhealth.flower.frame_messages import to_content
from fedhealth.flower.version import check_flower
from fedhealth.link.bodies import IncomingBody
from fedhealth.link.memory import MemoryPool
from fedhealth.pki.loopback import loopback_certificate
from fedhealth.site.fleet_port import FleetPort

NODE = 2**63 + 5  # ids have 64 bits
PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf", VERSION: check_flower()}


def make_key():
    key = ec.generate_private_key(ec.SECP384R1())
    return key, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


async def asked(services, name, question):
    """Ask a service as the link does."""
    body = IncomingBody(len(question), lambda _: None, MemoryPool())
    body.feed(question)
    answer = await services[name].answer(body)
    return b"".join([bytes(chunk) async for chunk in answer.chunks])


class Ends:
    """A desk, its SuperLink, and the port of one site whose link can be cut."""

    def __init__(self, folder):
        key, certificate = loopback_certificate("test", datetime.now(UTC))
        pem = folder / "loopback.pem"
        pem.write_bytes(key + certificate)
        self.superlink = ScriptedSuperLink(pem)
        self.registered, self.active, self.replied, self.lost, self.cut = [], [], [], [], False
        self.is_own = lambda headers: PUBLIC_KEY in headers
        told = self.active.append, self.replied.append, self.lost.append
        self.desk = FleetDesk(self.superlink.address, certificate, self.register, *told)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(pem)
        self.trusted = ssl.create_default_context(cadata=certificate.decode())

    async def register(self, site, key):
        if key == b"taken":
            raise FederationFailed("the key is another site's")
        self.registered.append((site, key.decode()))
        return NODE

    def owns(self, headers):
        return self.is_own(headers)

    async def join(self, site, **changed):
        question = {"flower": check_flower(), "fab": FAB_SHA256, "public_key": "none"} | changed
        said = JoinQuestion.model_validate(question).model_dump_json().encode()
        return JoinAnswer.model_validate_json(await asked(self.desk.services(site), JOIN, said)).code

    async def ask(self, site, packed):
        if self.cut:
            raise LinkUnavailable("cut")
        return await asked(self.desk.services(site), FLEET, packed)

    async def call(self, site, path, headers, body=b""):
        request = pack_fleet(FleetRequest(path=path, headers=headers), body)
        return unpack_fleet(FleetAnswer, await self.ask(site, request))


@contextlib.asynccontextmanager
async def ends(tmp_path):
    made = Ends(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))
    port = FleetPort(
        listener,
        made.tls,
        lambda packed: made.ask("hungary", packed),
        made.owns,
        lambda: None,
    )
    await port.start()
    made.address = f"https://127.0.0.1:{listener.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=made.address, verify=made.trusted, trust_env=False) as made.client:
        yield made
    await port.stop()
    await made.desk.close()
    await asyncio.to_thread(made.superlink.close)


def on_ends(tmp_path, work):
    async def run():
        async with ends(tmp_path) as made:
            await work(made)

    asyncio.run(run())


def test_a_site_joins_with_its_own_key_and_its_supernode_is_answered_through_both_ends(tmp_path):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        assert (await made.call("hungary", ACTIVATE, headers))[0].status == 403  # before it joined
        assert await made.join("hungary", public_key=public) == "registered"
        assert made.registered == [("hungary", public)]
        given = await made.client.post(ACTIVATE, headers=headers | {"cookie": "a=b", "x-extra": "1"}, content=b"")
        assert fleet_pb2.ActivateNodeResponse.FromString(given.content).node_id == 5
        assert made.active == ["hungary"]
        arrived = {name.lower() for name in made.superlink.headers[-1]}
        assert PUBLIC_KEY in arrived and not arrived & {"cookie", "x-extra"}

    on_ends(tmp_path, work)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"flower": "1.42.0"}, "other-flower"),
        ({"fab": "0" * 64}, "other-fab"),
        ({"public_key": "ssh-ed25519 AAAA"}, "key-refused"),
        ({"public_key": "taken"}, "key-refused"),
    ],
)
def test_another_flower_another_bundle_or_no_p384_key_is_refused_by_a_code(tmp_path, changed, code):
    async def work(made):
        _, public = make_key()
        assert await made.join("hungary", **({"public_key": public} | changed)) == code
        assert made.registered == []

    on_ends(tmp_path, work)


@pytest.mark.parametrize("version", ["1.42.0", "1.40.9", "", None])
def test_a_supernode_of_another_version_is_not_let_in_and_another_sites_goes_on(tmp_path, version):
    async def work(made):
        keys = {site: make_key()[1] for site in ("hungary", "cleveland")}
        for site, public in keys.items():
            assert await made.join(site, public_key=public) == "registered"
        headers = {site: PROTOBUF | {PUBLIC_KEY: key_header(public)} for site, public in keys.items()}
        other = {name: value for name, value in headers["hungary"].items() if name != VERSION}
        other |= {} if version is None else {VERSION: version}
        assert (await made.call("hungary", ACTIVATE, other))[0].status == 403
        assert made.superlink.asked == []
        assert (await made.call("cleveland", ACTIVATE, headers["cleveland"]))[0].status == 200
        assert made.active == ["cleveland"]

    on_ends(tmp_path, work)


def test_a_key_that_another_site_registered_is_refused_and_that_site_goes_on(tmp_path):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        assert await made.join("hungary", public_key=public) == "registered"
        assert await made.join("cleveland", public_key=public) == "key-refused"
        assert (await made.call("cleveland", ACTIVATE, headers))[0].status == 403
        assert (await made.call("hungary", ACTIVATE, headers))[0].status == 200
        assert made.active == ["hungary"]

    on_ends(tmp_path, work)


def test_a_site_that_shows_another_sites_key_is_not_answered_as_that_site(tmp_path):
    async def work(made):
        keys = {site: make_key()[1] for site in ("hungary", "cleveland")}
        for site, public in keys.items():
            assert await made.join(site, public_key=public) == "registered"
        for path in (ACTIVATE, PULL, "/v1/fleet/get-run"):
            headers = PROTOBUF | {PUBLIC_KEY: key_header(keys["hungary"])}
            assert (await made.call("cleveland", path, headers))[0].status == 403
            assert (await made.call("cleveland", path, PROTOBUF))[0].status == 403
        assert (made.superlink.asked, made.active, made.replied) == ([], [], [])

    on_ends(tmp_path, work)


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task", "/docs", "/v1/health"),
        *("/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/../control/start-run"),
    ],
)
def test_what_is_no_nodes_business_reaches_the_superlink_from_neither_end(tmp_path, path):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        assert await made.join("hungary", public_key=public) == "registered"
        assert (await made.client.post(made.address + path, headers=headers)).status_code == 404
        assert (await made.call("hungary", path, headers))[0].status == 403  # a node that skips its own port
        assert made.superlink.asked == []

    on_ends(tmp_path, work)


def test_a_question_for_messages_waits_until_there_is_one(tmp_path, monkeypatch):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        await made.join("hungary", public_key=public)
        waiting = asyncio.create_task(made.call("hungary", PULL, headers))
        await asyncio.sleep(0.05)
        assert not waiting.done() and made.superlink.asked == []
        made.desk.mail("hungary", "message", 2**10)
        assert (await waiting)[0].status == 200
        assert made.superlink.asked == [PULL]
        monkeypatch.setattr(fleet_desk, "HOLD_SECONDS", 0.05)
        assert (await made.call("hungary", PULL, headers))[0].status == 200  # "none", after the wait

    on_ends(tmp_path, work)


def test_two_messages_are_two_and_those_that_ended_unread_are_none(tmp_path, monkeypatch):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        await made.join("hungary", public_key=public)
        for _ in range(2):
            made.desk.mail("hungary", made.superlink.send(to_content(b"frame")), 2**10)
        for forgotten in ("handed out to nobody", "of a run that is over"):
            made.desk.mail("hungary", forgotten, 2**10)
        monkeypatch.setattr(fleet_desk, "HOLD_SECONDS", 600.0)
        answers = [await made.call("hungary", PULL, headers) for _ in range(3)]
        assert [bool(content) for _, content in answers] == [True, True, False]
        assert set(made.lost[2:]) == {"handed out to nobody", "of a run that is over"}
        waiting = asyncio.create_task(made.call("hungary", PULL, headers))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        made.desk.mail("hungary", "message", 2**10)
        assert (await waiting)[0].status == 200

    on_ends(tmp_path, work)


def test_a_message_that_was_handed_to_nobody_or_dropped_without_a_word_is_told_of_as_lost(tmp_path, monkeypatch):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        await made.join("hungary", public_key=public)
        monkeypatch.setattr(fleet_desk, "HOLD_SECONDS", 0.05)
        dropped = made.superlink.send(to_content(b"frame"))
        made.desk.mail("hungary", dropped, 2**10)
        await made.call("hungary", PULL, headers)
        assert made.lost == [], "the SuperNode has it under way"
        await made.call("hungary", PULL, headers)
        assert made.lost == [dropped], "it asks for another"
        made.desk.mail("hungary", "the SuperLink ended over handing it out", 2**10)
        await made.call("hungary", PULL, headers)
        assert made.lost == [dropped, "the SuperLink ended over handing it out"]
        early = made.superlink.send(to_content(b"another"))
        await made.call("hungary", PULL, headers)
        await made.call("hungary", PULL, headers)
        assert made.lost[2:] == [early]
        made.desk.mail("hungary", early, 2**10)  # only now it is known whose it is
        assert made.lost[2:] == [early, early]
        assert made.replied == []

    on_ends(tmp_path, work)


def test_a_run_that_ends_in_the_midst_of_a_message_leaves_no_task_and_no_reply_behind(tmp_path):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        await made.join("hungary", public_key=public)
        message = made.superlink.send(to_content(b"frame"))
        made.desk.mail("hungary", message, 2**10)
        await made.call("hungary", PULL, headers)
        made.superlink.refused = dict.fromkeys(("pull-object", "confirm-message-received", "get-run"), 403)
        bodies = {
            PULL_OBJECT: message_pb2.PullObjectRequest(object_id=message).SerializeToString(),
            CONFIRM: message_pb2.ConfirmMessageReceivedRequest(message_object_id=message).SerializeToString(),
            "/v1/fleet/get-run": b"",
        }
        said = [await made.call("hungary", path, headers, body) for path, body in bodies.items()]
        assert [(answer.status, content) for answer, content in said] == [(410, b""), (200, b""), (403, b"")]
        assert made.superlink.asked == [PULL, *bodies]

    on_ends(tmp_path, work)


def test_a_killed_supernode_takes_no_message_from_the_one_that_follows(tmp_path):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        await made.join("hungary", public_key=public)
        of_the_killed = asyncio.create_task(made.call("hungary", PULL, headers))
        await asyncio.sleep(0.05)
        await made.call("hungary", ACTIVATE, headers)
        assert made.superlink.asked == [DEACTIVATE, ACTIVATE], "the former makes room: a SuperLink lets but one begin"
        assert made.superlink.deactivated == [NODE]
        made.desk.mail("hungary", "message", 2**10)
        assert (await of_the_killed)[0].status == 503
        assert PULL not in made.superlink.asked
        assert (await made.call("hungary", PULL, headers))[0].status == 200

    on_ends(tmp_path, work)


def test_a_bundle_with_one_byte_changed_is_refused_before_flower_has_it(tmp_path, caplog):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        await made.join("hungary", public_key=public)
        assert (await made.client.post(GET_FAB, headers=headers)).status_code == 200
        changed = bytearray(fab_bytes())
        changed[60] ^= 1
        made.superlink.fab = bytes(changed)
        for _ in range(3):
            given = await made.client.post(GET_FAB, headers=headers)
            assert (given.status_code, given.content) == (403, b"")
        status, whole = 206, made.superlink.answer  # a coordinator that calls it something else
        made.superlink.answer = lambda call, body: (status, whole(call, body)[1])
        given = await made.client.post(GET_FAB, headers=headers)
        assert (given.status_code, given.content) == (403, b"")

    on_ends(tmp_path, work)
    said = [record.getMessage() for record in caplog.records if "Bundle" in record.getMessage()]
    assert len(said) == 1 and FAB_SHA256 in said[0]  # once, with what was wanted


def test_while_the_link_or_the_superlink_is_away_flower_is_told_to_try_again(tmp_path):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        await made.join("hungary", public_key=public)
        made.cut = True
        assert (await made.client.post(ACTIVATE, headers=headers)).status_code == 503
        made.cut = False
        assert (await made.client.post(ACTIVATE, headers=headers)).status_code == 200
        made.desk._client.base_url = "https://127.0.0.1:1"
        assert (await made.client.post(ACTIVATE, headers=headers)).status_code == 503

    on_ends(tmp_path, work)


def test_a_body_that_is_too_large_is_refused_and_kept_nowhere(tmp_path):
    async def work(made):
        _, public = make_key()
        headers = PROTOBUF | {PUBLIC_KEY: key_header(public)}
        await made.join("hungary", public_key=public)
        given = await made.client.post(ACTIVATE, headers=headers, content=bytes(9 * 2**20))
        assert given.status_code == 413
        given = await made.client.post(ACTIVATE, headers=headers | {"flwr-timestamp": "0" * 3000})
        assert given.status_code == 413
        assert made.superlink.asked == []

    on_ends(tmp_path, work)


def signed(key):
    """Return the headers that a stock SuperNode with this key shows."""
    request = httpx.Request("POST", "https://127.0.0.1/", content=b"")
    context = ProtobufRequestContext("method", fleet_pb2.PullMessagesRequest(), request)
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: httpx.Response(200))
    return {name: value for name, value in request.headers.items() if name.startswith("flwr-")}


def test_flower_signs_with_the_header_that_the_desk_compares():
    key, public = make_key()
    assert signed(key)[PUBLIC_KEY] == key_header(public)


def test_nothing_crosses_of_another_user_of_the_sites_machine(tmp_path):
    async def work(made):
        (key, public), (other, _) = make_key(), make_key()
        await made.join("hungary", public_key=public)
        made.is_own, made.cut = lambda headers: is_signed(headers, public), True
        genuine, strange = signed(key), signed(other)
        mixed = strange | {PUBLIC_KEY: genuine[PUBLIC_KEY]}  # the public half is no secret
        later = genuine | {"flwr-timestamp": datetime.now(UTC).isoformat()}
        broken = genuine | {"flwr-signature": "*"}
        said = [
            (await made.client.post(ACTIVATE, headers=PROTOBUF | headers)).status_code
            for headers in ({}, strange, mixed, later, broken, genuine)
        ]
        assert said == [403] * 5 + [503], "the SuperNode's own alone is carried, to a link that is cut here"

    on_ends(tmp_path, work)


def test_who_is_not_the_supernode_is_refused_before_a_body_is_read(tmp_path):
    async def work(made):
        made.is_own = lambda headers: False
        host, port = made.address.removeprefix("https://").split(":")
        for path, status in ((ACTIVATE, b"403"), ("/elsewhere", b"404")):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=made.trusted)
            # A body of 8 MB is announced, and no byte of it sent: an answer does not wait for it.
            writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n".encode())
            said = await asyncio.wait_for(reader.read(), 20)  # to the end: the port hangs up
            assert said.split()[1] == status
            writer.close()
        assert made.superlink.asked == []

    on_ends(tmp_path, work)


def test_a_site_that_joins_again_and_again_is_told_not_now_and_the_others_are_let_in(tmp_path):
    async def work(made):
        _, public = make_key()
        said = [await made.join("hungary", public_key=public) for _ in range(12)]
        assert said[0] == "registered" and said[-1] == "not-now"
        assert len(made.registered) == said.count("registered") <= 6
        _, other = make_key()
        assert await made.join("cleveland", public_key=other) == "registered"

    on_ends(tmp_path, work)


def test_the_calls_are_flowers_own():
    from flwr.superlink.routers.fleet.router import router

    assert {route.path for route in router.routes} >= CALLS
