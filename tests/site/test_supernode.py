"""A stock SuperNode and its worker at a site, as real processes: what crosses them, and what they cannot do."""

import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import psutil
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from gate_by_socket import HEAD, Running, linux_only
from supernode_site import SuperNodeSite

from fedhealth.errors import LinkUnavailable
from fedhealth.flower.fab import fab_bytes
from fedhealth.flower.frame_messages import frame_of, to_content
from fedhealth.link.frames import (
    MAX_FRAME_BYTES,
    Answer,
    Head,
    NeedWitness,
    PutStudy,
    Refused,
    ReleaseReply,
    pack,
    unpack_reply,
)
from fedhealth.privacy.verify import verify_ledger
from fedhealth.site.egress import read_egress
from fedhealth.site.frame_socket import exchange_frame
from fedhealth.site.node_records import recorded_supernode

pytestmark = [pytest.mark.processes, linux_only]
WEIGHTS = bytes(24)


@pytest.fixture(scope="module")
def folder():
    made = Path(tempfile.mkdtemp(prefix="fh-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def gate(folder, make_protocol, make_csv):
    made = Running(folder, make_protocol(), make_csv())
    yield made
    made.stop()


@pytest.fixture(scope="module")
def site(folder, gate):
    (folder / "logs").mkdir()
    made = SuperNodeSite(gate.state, folder / "logs")
    yield made
    made.stop()


def through(site, frame):
    """Ask the gate through SuperLink, SuperNode and worker."""
    reply = site.ask(to_content(frame))
    assert reply.has_content(), reply
    site.wait_for(lambda: site.whole[-1:] == [reply.metadata.reply_to_message_id])  # of which the coordinator is told
    return unpack_reply(frame_of(reply.content, MAX_FRAME_BYTES))


def directly(site, frame):
    """Ask the gate through the node alone, by the channel that the link uses too."""
    return unpack_reply(exchange_frame(site.folder.socket, frame))


def size_of(gate):
    return verify_ledger(gate.state.gate).head.size


def test_a_round_crosses_as_the_frames_of_the_link_and_is_charged_once_through_two_kills(site, gate):
    question = pack(Answer(study=gate.study.digest, step="train", round=1), WEIGHTS)
    shown, _ = through(site, question)
    assert isinstance(shown, NeedWitness)  # the gate has just started
    charged, _ = through(site, gate.sign(shown))
    assert isinstance(charged, NeedWitness)
    reserved = size_of(gate)
    for name in ("worker", "supernode"):
        taken = site.superlink.asked.count("/v1/fleet/confirm-message-received")
        began = site.superlink.activated
        site.send(to_content(gate.sign(charged)))
        site.wait_for(lambda taken=taken: site.superlink.asked.count("/v1/fleet/confirm-message-received") > taken)
        site.processes[name].kill()  # it may have reached the gate or not, and a reply is on its way or not
        site.wait_for(lambda began=began: site.superlink.activated > began)
        assert f"{name}: ended with SIGKILL" in site.told[-2]
    released, payload = through(site, question)
    while isinstance(released, NeedWitness):
        released, payload = through(site, gate.sign(released))
    assert isinstance(released, ReleaseReply) and len(payload) > 0
    again, same = directly(site, question)
    assert (again, bytes(same)) == (released, bytes(payload))
    assert verify_ledger(gate.state.gate).releases == 1
    assert size_of(gate) >= reserved
    assert site.active == ["ward-a"] * 3  # the coordinator asks again, each time


LIES = {
    "no frame": b"\0",
    "noise": bytes(range(256)) * 40,
    "a frame of another version": struct.pack("!I", 14) + b'{"kind":"spy"}',
    "a header that never ends": struct.pack("!I", 2**31) + b"{",
    "a study that nobody approved": pack(Answer(study="0" * 64, step="train", round=1), WEIGHTS),
    "a study that nobody signed": pack(PutStudy(), b"{}"),
    "a larger input": ("round 2", bytes(2**20)),
    "a much larger input": ("round 2", bytes(12 * 2**20)),  # which Flower cuts into three
    "not numbers": ("round 2", b"\xff" * 24),
    "a round that is not in the plan": ("round 99", WEIGHTS),
    "a receipt that nobody signed": None,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_shim_that_lies_is_told_what_a_coordinator_would_be_told_and_nothing_is_charged(site, gate, lie):
    said = LIES[lie]
    if said is None:
        shown, _ = directly(site, HEAD)
        receipt = gate.sign(shown)
        said = receipt[:-20] + bytes(20)
    elif isinstance(said, tuple):
        number = int(said[0].split()[1])
        said = pack(Answer(study=gate.study.digest, step="train", round=number), said[1])
    before = size_of(gate)
    told, body = directly(site, said)
    assert isinstance(told, Refused) and not bytes(body)
    assert through(site, said) == (told, body)
    assert size_of(gate) == before


def test_whatever_a_replaced_worker_says_leaves_by_the_gates_own_word_and_is_in_its_egress_log(site, gate):
    lines = len(read_egress(gate.state.gate).lines)
    head, _ = directly(site, HEAD)
    assert isinstance(head, Head) and head.signature
    with socket.socket(socket.AF_UNIX) as connection:  # more than a frame may have, and then none of it
        connection.connect(str(site.folder.socket))
        connection.sendall(struct.pack("!I", MAX_FRAME_BYTES + 1))
        assert connection.recv(1) == b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(site.folder.socket))
        connection.sendall(struct.pack("!I", 100) + b"cut short")
    assert isinstance(through(site, HEAD)[0], Head)  # and the next is heard
    assert len(read_egress(gate.state.gate).lines) == lines + 2


REFUSED = {
    "no content": RecordDict(),
    "two records": RecordDict({"frame": to_content(HEAD)["frame"], "config": ConfigRecord({"round": 1})}),
    "an empty record": RecordDict({"frame": ArrayRecord()}),
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_a_message_that_is_not_one_frame_is_answered_bad_request(site, content):
    assert site.ask(content).error.reason == "bad-request"


def test_the_type_of_a_message_changes_nothing_and_an_unknown_one_is_answered_bad_request(site):
    for kind in ("train", "evaluate"):
        assert isinstance(unpack_reply(frame_of(site.ask(to_content(HEAD), message_type=kind).content, 10**6))[0], Head)
    assert site.ask(to_content(HEAD), message_type="query.spy").error.reason == "bad-request"


def test_a_message_that_is_gone_while_it_is_fetched_holds_up_nothing(site):
    asked = site.superlink.asked.count("/v1/fleet/pull-object")
    site.superlink.refused["pull-object"] = 410  # as the coordinator's desk says it of a run that has ended
    lost = site.send(to_content(HEAD))
    site.wait_for(lambda: site.superlink.asked.count("/v1/fleet/pull-object") > asked)
    del site.superlink.refused["pull-object"]
    assert isinstance(through(site, HEAD)[0], Head)
    assert lost not in site.superlink.replies
    assert len(site.processes) == 2


def test_supernode_and_worker_listen_on_the_loopback_alone_and_have_no_torch(site):
    listening = {}
    site.wait_for(lambda: len(site.processes) == 2)
    for name, seen in site.processes.items():
        listening[name] = [each.laddr for each in seen.net_connections() if each.status == psutil.CONN_LISTEN]
        assert not [each.path for each in seen.memory_maps() if "libtorch" in each.path]
        assert seen.children() == []
    assert listening["worker"] == []
    assert [each.ip for each in listening["supernode"]] == ["127.0.0.1"]


def test_only_who_knows_the_secret_may_take_a_task(site):
    with httpx.Client(trust_env=False) as client:
        given = client.post(
            f"http://127.0.0.1:{recorded_supernode(site.state.node)}/v1/runtime/acquire-task",
            content=b"",
            headers={"content-type": "application/protobuf"},
        )
    assert given.status_code == 401


def test_a_port_in_use_is_one_clear_message(site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["--state", str(site.state.root), "--port", str(port), "--node-port", str(site.node_port)]
        ended = subprocess.run(
            [sys.executable, "-m", "fedhealth.cli.main", "site", "supernode", *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    assert ended.returncode == LinkUnavailable.exit_code
    assert ended.stderr.count("\n") == 1 and f"127.0.0.1:{port}" in ended.stderr and "in use" in ended.stderr


def test_a_bundle_with_one_byte_changed_reaches_no_supernode_and_the_site_goes_on(site):
    changed = bytearray(fab_bytes())
    changed[100] ^= 1
    site.superlink.fab = bytes(changed)
    began = site.superlink.activated
    site.processes["supernode"].kill()  # the next has no bundle yet
    site.wait_for(lambda: site.superlink.activated > began)
    asked = site.superlink.asked.count("/v1/fleet/get-fab")
    refused = site.send(to_content(HEAD))
    site.wait_for(lambda: site.superlink.asked.count("/v1/fleet/get-fab") > asked)
    site.superlink.fab = fab_bytes()
    assert isinstance(through(site, HEAD)[0], Head)
    assert refused not in site.superlink.replies
