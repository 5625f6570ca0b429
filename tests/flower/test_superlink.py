"""A stock SuperLink behind our guard: who may tell it what, which nodes it knows, which version made its database."""

import asyncio
import os
import secrets
import shutil
import socket
import sqlite3
import ssl
import subprocess
import time
from contextlib import closing
from datetime import UTC, datetime

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto import fleet_pb2
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedhealth.errors import ConfigInvalid, FederationFailed
from fedhealth.flower import superlink_guard
from fedhealth.flower.fab import FAB_SHA256, fab_bytes
from fedhealth.flower.fleet_requests import ACTIVATE, PULL
from fedhealth.flower.stock_process import CONTROL_SECRET, stock_command, stock_environment
from fedhealth.flower.superlink_control import SuperLinkControl, is_guarded
from fedhealth.flower.superlink_database import check_database
from fedhealth.flower.superlink_guard import MAX_REQUEST_BYTES, SECRET_HEADER, SuperLinkGuard
from fedhealth.pki.loopback import loopback_certificate

pytestmark = pytest.mark.processes
SECRET = "s" * 64
SHOWN = (SECRET_HEADER.encode(), SECRET.encode())
START = "/v1/control/start-run"

# The guard, request by request: (path, headers, what it answers itself; None where the SuperLink is asked).
REQUESTS = {
    "a node's call": ("/v1/fleet/pull-messages", [], None),
    "an app's call": ("/v1/runtime/acquire-task", [], None),
    "the owner's call": (START, [SHOWN], None),
    "a stranger's call": (START, [], 403),
    "another secret": (START, [(SHOWN[0], b"t" * 64)], 403),
    "a part of the secret": (START, [(SHOWN[0], SHOWN[1][:-1])], 403),
    "an empty secret": (START, [(SHOWN[0], b"")], 403),
    "the secret, and another": (START, [SHOWN, (SHOWN[0], b"t" * 64)], 403),
    "a path with two strokes": ("//v1/control/start-run", [], 403),
    "a path in capitals": ("/V1/CONTROL/START-RUN", [], 403),
    "a path that nobody knows": ("/v2/control/start-run", [], 403),
    "the root": ("/", [], 403),
    "the documentation": ("/docs", [], 403),
    "a prefix of a prefix": ("/v1/fleet", [], 403),
    "the longest body": ("/v1/fleet/push-object", [(b"content-length", b"%d" % MAX_REQUEST_BYTES)], None),
    "a body that is too long": ("/v1/fleet/push-object", [(b"content-length", b"%d" % (MAX_REQUEST_BYTES + 1))], 413),
    "a length of digits only": ("/v1/fleet/push-object", [(b"content-length", b"-1")], 411),
    "a length of many digits": ("/v1/fleet/push-object", [(b"content-length", b"1" * 20)], 411),
    "two lengths": ("/v1/fleet/push-object", [(b"content-length", b"1"), (b"content-length", b"2")], 411),
    "a body of unknown length": ("/v1/fleet/push-object", [(b"transfer-encoding", b"chunked")], 411),
    "who says who asked": ("/v1/runtime/acquire-task", [(b"x-forwarded-for", b"127.0.0.1:1")], 403),
    "the owner's, too long": (START, [SHOWN, (b"content-length", b"%d" % (MAX_REQUEST_BYTES + 1))], 413),
}


def guarded(scope):
    """Return whether the SuperLink was asked, and what the guard said itself."""
    asked, said = [], []

    async def superlink(*_):
        asked.append(True)

    async def send(message):
        said.append(message)

    async def receive():
        raise AssertionError("a body is read before it is looked at")

    asyncio.run(SuperLinkGuard(superlink, SECRET)(scope, receive, send))
    return bool(asked), said


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def connected(request):
    """Return what a server says of a connection from this process, over a socket of each family."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(request.param) as client:
        port = listener.getsockname()[1]
        client.connect(("127.0.0.1" if request.param == socket.AF_INET else "::ffff:127.0.0.1", port))
        with listener.accept()[0] as server:
            yield {"client": server.getpeername(), "server": server.getsockname()}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_guard_answers_what_may_not_pass_and_hands_on_everything_else(name, connected):
    path, headers, status = REQUESTS[name]
    asked, said = guarded({"type": "http", "path": path, "headers": headers, **connected})
    assert asked == (status is None)
    assert [each["status"] for each in said if "status" in each] == ([] if status is None else [status])


RUNTIME = {"type": "http", "path": "/v1/runtime/acquire-task", "headers": [SHOWN]}


def test_the_guard_answers_processes_of_its_own_user_alone(connected, monkeypatch):
    assert guarded(RUNTIME | connected)[0]
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert not guarded(RUNTIME | connected)[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"client": ("127.0.0.1", 1)},
        {"client": ("127.0.0.2", None)},
        {"client": ("::1", 1)},
        {"client": None},
        {"server": ("127.0.0.1", 1)},
        {"server": ("/socket", None)},
    ],
    ids=["port", "no-port", "family", "none", "another-server", "unix"],
)
def test_the_guard_refuses_whom_the_kernel_does_not_name(connected, changed):
    assert not guarded(RUNTIME | connected | changed)[0]


def test_the_guard_refuses_everybody_where_the_kernels_tables_cannot_be_read(connected, monkeypatch, tmp_path):
    monkeypatch.setattr(superlink_guard, "_TABLES", (tmp_path / "tcp", tmp_path / "tcp6"))
    assert not guarded(RUNTIME | connected)[0]


def test_the_guard_refuses_a_connection_whose_other_end_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        with listener.accept()[0] as server:
            ends = {"client": server.getpeername(), "server": server.getsockname()}
            assert guarded(RUNTIME | ends)[0]
            client.close()  # what it sent is still to be read; the kernel shows root as its user now
            assert not guarded(RUNTIME | ends)[0]


def test_the_guard_lets_the_server_begin_and_end_and_no_websocket_in():
    assert guarded({"type": "lifespan"}) == (True, [])
    asked, said = guarded({"type": "websocket", "path": "/v1/fleet/pull-messages", "headers": [SHOWN]})
    assert (asked, [each["type"] for each in said]) == (False, ["websocket.close"])


def test_a_guard_without_a_secret_worth_the_name_is_not_made():
    with pytest.raises(ValueError, match="guessed"):
        SuperLinkGuard(None, "s" * 31)


class StockSuperLink:
    """A SuperLink as a coordinator starts it."""

    def __init__(self, folder):
        key, self.certificate = loopback_certificate("test", datetime.now(UTC))
        pem, self.database = folder / "superlink", folder / "state.db"
        pem.write_bytes(self.certificate)
        (folder / "superlink.key").write_bytes(key)
        (folder / "secret").write_text(SECRET)
        (folder / "superexec").write_bytes(secrets.token_bytes(32))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        command = stock_command(
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--database", str(self.database)),
            *("--ssl-certfile", str(pem), "--ssl-keyfile", f"{pem}.key", "--ssl-ca-certfile", str(pem)),
            *("--enable-supernode-auth", "--isolation", "process"),
            *("--superexec-auth-secret-file", str(folder / "superexec"), "--disable-runtime-dependency-installation"),
        )
        environment = stock_environment(folder / "flower", **{CONTROL_SECRET: str(folder / "secret")})
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
        self.control = SuperLinkControl(self.address, self.certificate, SECRET)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.control.nodes()
                break
            except FederationFailed:
                assert self.process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        self.client = httpx.Client(
            base_url=f"https://{self.address}",
            verify=ssl.create_default_context(cadata=self.certificate.decode()),
            headers={"content-type": "application/protobuf", "accept": "application/protobuf"},
            trust_env=False,
        )

    def close(self):
        self.control.close()
        self.client.close()
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()

    def node_asks(self, key, path, message, **headers):
        """Ask as a SuperNode with this key does; Flower's own code signs."""
        request = self.client.build_request("POST", path, content=message.SerializeToString(), headers=headers)
        context = ProtobufRequestContext("", message, request)
        signer = NodeAuthHttpInterceptor(key, key.public_key())
        return signer.intercept(context, lambda signed: self.client.send(signed.request))


@pytest.fixture(scope="module")
def superlink(tmp_path_factory):
    made = StockSuperLink(tmp_path_factory.mktemp("superlink"))
    yield made
    made.close()


def make_key():
    return ec.generate_private_key(ec.SECP384R1())


def pem_of(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_superlink_obeys_its_owner_alone(superlink):
    assert is_guarded(superlink.address, superlink.certificate)
    stranger = SuperLinkControl(superlink.address, superlink.certificate, "t" * 64)
    try:
        with pytest.raises(FederationFailed, match="HTTPStatusError 403"):
            stranger.start_run(fab_bytes())
    finally:
        stranger.close()
    for path in (b"/v1/control/start-run", b"//v1/control/start-run", b"/v1/fleet/../control/start-run", b"/docs"):
        url = httpx.URL(f"https://{superlink.address}", raw_path=path)
        assert superlink.client.post(url, content=b"").status_code in {403, 404}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can ask as another user")
def test_a_superlink_answers_no_other_user_of_the_machine_whatever_that_says(superlink):
    context = ssl.create_default_context(cadata=superlink.certificate.decode())
    own = httpx.Client(base_url=f"https://{superlink.address}", verify=context, trust_env=False)
    os.seteuid(65534)
    try:
        with httpx.Client(base_url=f"https://{superlink.address}", verify=context, trust_env=False) as other:
            said = [other.get("/health").status_code]
            os.seteuid(0)
            with own:
                said.append(own.get("/health").status_code)
                stream = own._transport._pool.connections[0]._connection._network_stream
                port = stream.get_extra_info("client_addr")[1]
                said.append(other.get("/health", headers={"x-forwarded-for": f"127.0.0.1:{port}"}).status_code)
    finally:
        os.seteuid(0)
    assert said == [403, 200, 403]


def test_a_node_is_let_in_by_its_key_once_that_is_registered(superlink):
    key, other = make_key(), make_key()
    asked = fleet_pb2.ActivateNodeRequest(public_key=pem_of(key), heartbeat_interval=30.0)
    assert superlink.node_asks(key, ACTIVATE, asked).is_error
    node = superlink.control.register(pem_of(key), "hungary")
    assert superlink.control.nodes()[pem_of(key)] == node
    given = superlink.node_asks(key, ACTIVATE, asked)
    assert fleet_pb2.ActivateNodeResponse.FromString(given.content).node_id == node
    pull = fleet_pb2.PullMessagesRequest(node={"node_id": node})
    assert not superlink.node_asks(key, PULL, pull).is_error
    assert superlink.node_asks(other, PULL, pull).is_error, "another key that says it is this node"


def test_a_key_that_was_taken_out_can_never_be_registered_again(superlink):
    # Why a coordinator never takes the key of a site out that it revokes: the link keeps the site away.
    key = make_key()
    superlink.control.unregister(superlink.control.register(pem_of(key), "zurich"))
    assert pem_of(key) not in superlink.control.nodes()
    with pytest.raises(FederationFailed):
        superlink.control.register(pem_of(key), "zurich")


def test_a_superlink_lets_a_supernode_of_another_version_in_so_that_somebody_else_must_look(superlink):
    # Should this ever fail, the look of the coordinator's desk (`FleetDesk`) is a second one.
    key = make_key()
    superlink.control.register(pem_of(key), "old")
    said = {"flwr-package-name": "flwr", "flwr-component-name": "SuperNode", "flwr-package-version": "1.42.0"}
    asked = fleet_pb2.ActivateNodeRequest(public_key=pem_of(key), heartbeat_interval=30.0)
    assert superlink.node_asks(key, ACTIVATE, asked, **said).status_code == 200


def test_a_run_begins_with_the_bundle_that_ships_no_code_and_ends(superlink):
    run = superlink.control.start_run(fab_bytes())
    with closing(sqlite3.connect(f"file:{superlink.database}?mode=ro", uri=True)) as database:
        hashes = [row[0] for row in database.execute("SELECT fab_hash FROM run")]
    assert run > 0 and set(hashes) == {FAB_SHA256}
    superlink.control.stop_run(run)
    with pytest.raises(FederationFailed):
        superlink.control.stop_run(1)


def test_a_bundle_that_is_none_is_refused(superlink):
    with pytest.raises(FederationFailed):
        superlink.control.start_run(b"no bundle")


@pytest.fixture
def database(superlink, tmp_path):
    copy = tmp_path / "state.db"
    for path in superlink.database.parent.glob("state.db*"):
        shutil.copy(path, tmp_path / path.name)
    return copy


def test_the_database_that_this_flower_made_is_taken(database):
    check_database(database)
    check_database(database.with_name("none.db"))
    empty = database.with_name("empty.db")
    empty.touch()
    check_database(empty)


CHANGES = {
    "a later form": ("UPDATE alembic_version SET version_num = 'fffffffffffe'", "a database of form fffffffffffe"),
    "no form": ("DELETE FROM alembic_version", "a database of form nothing"),
    "no table of forms": ("DROP TABLE alembic_version", "no such table"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_database_of_another_version_is_refused_in_a_sentence(database, name):
    change, said = CHANGES[name]
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(change)
        connection.commit()
    with pytest.raises(ConfigInvalid, match=said) as refused:
        check_database(database)
    assert "Move it away" in str(refused.value)


def test_a_file_that_is_no_database_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigInvalid, match="not a database"):
        check_database(tmp_path / "state.db")
