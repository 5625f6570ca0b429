"""A stock SuperNode and our worker: what they ask and show is what this project was written for; frames pass, whole.

The SuperNode is Flower's own program; the SuperLink is scripted, so that it can hand out what a stock one never would.
"""

import contextlib
import io
import os
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from scripted_superlink import ScriptedSuperLink

from fedhealth.flower.fab import fab_bytes
from fedhealth.flower.fleet_requests import ACTIVATE, CALLS, GET_FAB, HEADERS, PUBLIC_KEY, PULL, key_header
from fedhealth.flower.frame_messages import frame_of, to_content
from fedhealth.flower.stock_process import stock_command, stock_environment
from fedhealth.flower.task_worker import TaskWorker
from fedhealth.pki.loopback import loopback_certificate
from fedhealth.site.superlink_app import FRAME_SOCKET

pytestmark = pytest.mark.processes
# What HTTP itself needs, and the length of a body; a site's port makes these anew.
OF_HTTP = {"host", "connection", "content-length", "accept-encoding", "user-agent"}
WORKER = """
import sys
from pathlib import Path
from fedhealth.flower.task_worker import TaskWorker, keep_working
from fedhealth.site.superlink_app import app
keep_working(TaskWorker(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), app))
"""


class Gate(socketserver.ThreadingUnixStreamServer):
    """Answers every frame at the socket with its bytes the other way round."""

    def __init__(self, path):
        self.frames = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                while len(head := self.rfile.read(4)) == 4:
                    frame = self.rfile.read(*struct.unpack("!I", head))
                    outer.frames.append(frame)
                    self.wfile.write(head + frame[::-1])

        super().__init__(str(path), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class StockSite:
    """A SuperNode and a worker for it, at a scripted SuperLink."""

    def __init__(self, folder, fab=None):
        key, certificate = loopback_certificate("test", datetime.now(UTC))
        (folder / "link.pem").write_bytes(key + certificate)
        (folder / "root.pem").write_bytes(certificate)
        node_key = ec.generate_private_key(ec.SECP384R1())
        self.public = node_key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        (folder / "node.key").write_bytes(node_key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        self.secret, self.folder = folder / "secret", folder
        self.secret.write_bytes(os.urandom(32))
        self.superlink = ScriptedSuperLink(folder / "link.pem", fab)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.gate = Gate(folder / "gate.sock")
        self.processes = []

    def start(self):
        environment = stock_environment(self.folder / "flower", **{FRAME_SOCKET: str(self.folder / "gate.sock")})
        supernode = stock_command(
            *("flower-supernode", "--superlink", self.superlink.address, "--isolation", "process"),
            *("--root-certificates", str(self.folder / "root.pem"), "--port", str(self.port)),
            *("--auth-supernode-private-key", str(self.folder / "node.key")),
            *("--superexec-auth-secret-file", str(self.secret)),
        )
        worker = [sys.executable, "-c", WORKER, str(self.port), str(self.secret)]
        with (self.folder / "log").open("wb") as log:
            self.processes = [
                subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
                for command in (supernode, worker)
            ]

    @property
    def log(self):
        return (self.folder / "log").read_text()

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()
        self.superlink.close()
        self.gate.shutdown()
        self.gate.server_close()


@contextlib.contextmanager
def stock_site(fab=None):
    with tempfile.TemporaryDirectory(prefix="fh-") as name:
        made = StockSite(Path(name), fab)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def site():
    """A site that has answered one frame."""
    with stock_site() as made:
        made.first = made.superlink.send(to_content(b"first frame"))  # waits for the node: it sleeps after "none"
        made.start()
        made.answer = made.superlink.reply(made.first)
        yield made


def test_a_frame_comes_to_the_gate_and_its_answer_back_through_a_stock_supernode(site):
    assert site.gate.frames[0] == b"first frame"
    assert frame_of(site.answer.content, 100) == b"emarf tsrif"


def test_a_stock_supernode_makes_the_calls_and_shows_the_headers_that_a_sites_port_lets_through(site):
    assert {ACTIVATE, PULL, GET_FAB} <= set(site.superlink.asked) <= CALLS
    for shown in site.superlink.headers:
        assert {name.lower() for name in shown} <= HEADERS | OF_HTTP
        assert {name.lower(): value for name, value in shown.items()}[PUBLIC_KEY] == key_header(site.public)


def test_a_supernode_asks_for_messages_again_only_after_seconds_if_it_is_told_that_there_is_none(site):
    # Why the coordinator's desk holds the question: 3 s at each of a round's messages. Seen from outside: with nothing
    # to take, a node asks at most twice in four seconds.
    before = site.superlink.asked.count(PULL)
    time.sleep(4.0)
    assert site.superlink.asked.count(PULL) - before <= 2


LARGE = os.urandom(3 * 2**20)  # Flower cuts what it sends; frames must come out whole


@pytest.mark.parametrize("frame", [b"\0", b"second frame", LARGE], ids=["a byte", "small", "3 MiB"])
def test_frames_of_any_size_come_out_as_they_went_in(site, frame):
    reply = site.superlink.reply(site.superlink.send(to_content(frame)))
    assert site.gate.frames[-1] == frame
    assert frame_of(reply.content, len(LARGE)) == frame[::-1]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_message_is_what_its_frame_says_and_not_what_its_type_says(site, kind):
    reply = site.superlink.reply(site.superlink.send(to_content(kind.encode()), kind))
    assert frame_of(reply.content, 100) == kind.encode()[::-1]


def test_a_message_that_holds_more_than_a_frame_is_refused_and_the_gate_hears_nothing(site):
    heard = len(site.gate.frames)
    more = to_content(b"a frame")
    more["config"] = ConfigRecord({"noise": "none"})
    for each in (more, RecordDict({"frame": ArrayRecord()}), RecordDict()):
        reply = site.superlink.reply(site.superlink.send(each))
        assert reply.has_error()
        assert (reply.error.reason, len(site.gate.frames)) == ("bad-request", heard)


def test_a_worker_without_the_secret_gets_no_task(site):
    stranger = TaskWorker(site.port, b"x" * 32, lambda *_: None)
    try:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            stranger.work()
        assert refused.value.response.status_code in {401, 403}
    finally:
        stranger.close()


def another_bundle():
    """A bundle that is whole, with one letter changed."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(fab_bytes())) as source, zipfile.ZipFile(made, "w") as target:
        for entry in source.infolist():
            target.writestr(entry, source.read(entry).replace(b"Carries", b"Caries"))
    return made.getvalue()


def one_byte_changed():
    bundle = bytearray(fab_bytes())
    bundle[bundle.index(b"Carries")] ^= 1
    return bytes(bundle)


# At a site the port refuses every other bundle before a SuperNode has it. Here nothing stands between, so that what is
# seen is Flower's look and the worker's own.
def test_another_bundle_is_refused_by_the_worker_and_never_installed():
    with stock_site(another_bundle()) as made:
        asked = made.superlink.send(to_content(b"a frame"))
        made.start()
        reply = made.superlink.reply(asked)
        assert reply.has_error()
        assert (reply.error.reason, made.gate.frames) == ("bad-request", [])
        assert "a Flower App Bundle is refused: it is not the one of this release" in made.log
        kept = [path.read_bytes() for path in (made.folder / "flower").rglob("*") if path.is_file()]
        assert not [each for each in kept if b"Caries" in each], "nothing of a bundle is installed"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda superlink: setattr(superlink, "fab", one_byte_changed()), "Bad CRC-32", id="a byte"),
        pytest.param(lambda superlink: superlink.override.update(noise="none"), "Key 'noise'", id="a setting"),
    ],
)
def test_a_supernode_that_gives_up_over_a_run_ends_so_that_it_can_be_started_again(change, said):
    with stock_site() as made:
        change(made.superlink)
        made.superlink.send(to_content(b"a frame"))
        made.start()
        made.processes[0].wait(30)
        assert said in made.log
        assert made.gate.frames == []
