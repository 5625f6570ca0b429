"""Attempts over sockets: others than the own one, and forged, stolen and endless frames for the gate."""

import contextlib
import fcntl
import mmap
import os
import socket
import struct
import time

from probe_target import ADMIN, OTHER_PORT, PROC, SIGNED_STUDY, STATE


def pause_and_resume():
    """Tell the gate both, as its administrators do."""
    from fedhealth.errors import ConfigInvalid
    from fedhealth.site.administration import tell_gate
    from fedhealth.site.instructions import Pause, Resume

    try:
        return all(tell_gate(ADMIN, verb(site="ward-a")) for verb in (Pause, Resume))
    except ConfigInvalid as error:
        raise PermissionError(str(error)) from error


def pin_a_key():
    """Have the gate trust a researcher of the node's own."""
    from fedhealth.errors import ConfigInvalid
    from fedhealth.site.administration import tell_gate
    from fedhealth.site.instructions import Trust

    try:
        return tell_gate(ADMIN, Trust(site="ward-a", name="mallory", key="ab" * 32))
    except ConfigInvalid as error:
        raise PermissionError(str(error)) from error


def connect_to(path):
    def probe():
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
        return True

    return probe


def connect_abroad():
    with socket.create_connection(("127.0.0.1", OTHER_PORT), timeout=5):
        return True


def connect_abstract():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0escape-{OTHER_PORT}")
    return True


def listen_somewhere():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
    return True


def ask(frame):
    """Return the gate's reply to a frame; None if there is none."""
    from fedhealth.link.frames import unpack_reply

    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.settimeout(20)
        client.connect(str(STATE / "gate.sock"))
        client.sendall(struct.pack("!I", len(frame)) + frame)
        reply = client.makefile("rb")
        (length,) = struct.unpack("!I", reply.read(4).ljust(4, b"\0"))
        return unpack_reply(reply.read(length)) if length else None
    return None


def kind_of(reply):
    return reply[0].kind if reply else None


def answers():
    """Return whether the gate answers within 15 seconds."""
    from fedhealth.link.frames import AskHead, pack

    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if kind_of(ask(pack(AskHead(since=0)))) == "head":
            return True
        time.sleep(0.2)
    return False


def own_key():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(b"the node's own key".ljust(32))


def ledger_public_key():
    """Return the key by which the coordinator checks this gate, as it learns it when the site joins."""
    from fedhealth.signing import load_public_key

    return load_public_key((STATE / "node" / "ledger.pub").read_text())


def stolen_key():
    """Return the key that the node signs with: the gate's, if it can have it."""
    from fedhealth.errors import FedHealthError
    from fedhealth.signing import load_signing_key

    try:
        return load_signing_key(STATE / "gate" / "ledger.key")
    except FedHealthError:
        return own_key()


def is_signed(domain, data, signature):
    """Check as the coordinator does."""
    from fedhealth.errors import IdentityInvalid
    from fedhealth.signing import verify

    try:
        verify(ledger_public_key(), domain, data, signature)
    except IdentityInvalid:
        return False
    return True


def forge_a_release():
    from fedhealth.link.frames import release_statement
    from fedhealth.signing import sign

    statement = release_statement("a" * 64, "b" * 64)
    return is_signed("release-reply", statement, sign(stolen_key(), "release-reply", statement))


def forge_an_acceptance():
    from fedhealth.link.frames import Accepted, PutStudy, pack
    from fedhealth.signing import sign

    reply = ask(pack(PutStudy(), SIGNED_STUDY))
    if kind_of(reply) != "accepted":
        raise OSError("the study is not accepted")
    changed = Accepted(**{**reply[0].model_dump(), "declared_patients": 10**6})
    own = sign(stolen_key(), "accepted", changed.statement())
    return any(is_signed("accepted", changed.statement(), each) for each in (bytes.fromhex(changed.signature), own))


def use_one_signature_for_another():
    """Take the signature of an acceptance for one of a release."""
    from fedhealth.link.frames import PutStudy, pack

    reply = ask(pack(PutStudy(), SIGNED_STUDY))
    return is_signed("release-reply", reply[0].statement(), bytes.fromhex(reply[0].signature))


def question(number):
    from fedhealth.link.frames import Answer, pack
    from fedhealth.study.signature import open_signed_study

    return pack(Answer(study=open_signed_study(SIGNED_STUDY).study.digest, step="train", round=number), bytes(24))


def witness_it_itself():
    """Countersign a charge with a key of its own, so that a release comes without the coordinator."""
    from fedhealth.link.frames import Witnessed, pack
    from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
    from fedhealth.study.signature import open_signed_study

    reply = ask(question(1))
    if kind_of(reply) != "need-witness":
        raise OSError("nothing to witness")
    head = open_checkpoint(reply[0].note, "ward-a", ledger_public_key())
    receipt = Receipt(site="ward-a", size=head.size, root=head.root)
    study = open_signed_study(SIGNED_STUDY).study.digest
    return kind_of(ask(pack(Witnessed(study=study, receipt=sign_receipt(receipt, own_key()))))) == "release"


def have_a_release_unwitnessed():
    return any(kind_of(ask(question(2))) == "release" for _ in range(3))


def have_its_own_study_run():
    from fedhealth.link.frames import Answer, PutStudy, pack
    from fedhealth.study.protocol import Study
    from fedhealth.study.signature import open_signed_study, sign_study

    study = open_signed_study(SIGNED_STUDY).study
    own = Study.model_validate({**study.model_dump(mode="json"), "name": "own"})
    put = ask(pack(PutStudy(), sign_study(own, own_key())))
    asked = ask(pack(Answer(study=own.digest, step="train", round=1), bytes(24)))
    return kind_of(put) == "accepted" or kind_of(asked) in ("need-witness", "release")


def use_up_its_memory():
    def resident():
        return int((PROC / "status").read_text().split("VmRSS:")[1].split()[0])

    before = resident()
    for announced in (0xFFFFFFFF, 1 << 30):
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(5)
            client.connect(str(STATE / "gate.sock"))
            client.sendall(struct.pack("!I", announced))
            for _ in range(64):
                client.sendall(bytes(1 << 20))
    return resident() - before > 32 * 1024


def stop_it_with(bytes_sent):
    """Send something and hang up; it succeeds if the gate does not answer after that."""

    def probe():
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(5)
            client.connect(str(STATE / "gate.sock"))
            client.sendall(bytes_sent)
            time.sleep(0.1)
        return not answers()

    return probe


@contextlib.contextmanager
def shared_memory():
    """Yield a connection and the descriptor of the memory that the gate shares with it."""
    from fedhealth.site.shared_ring import RING_WANTED

    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(STATE / "gate.sock"))
        client.sendall(RING_WANTED)
        _, (descriptor,), _, _ = socket.recv_fds(client, 4, 1)
        try:
            yield client, descriptor
        finally:
            os.close(descriptor)


def resize_shared_memory(size):
    """Take away what the gate is about to read, or make it hold more."""

    def probe():
        with shared_memory() as (_, descriptor):
            os.ftruncate(descriptor, size)
        return True

    return probe


def seal_shared_memory():
    """Keep the gate from writing its answers."""
    with shared_memory() as (_, descriptor):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return True


def find_in_shared_memory_what_did_not_leave():
    from fedhealth.link.memory import CHUNK_BYTES

    with shared_memory() as (client, descriptor), mmap.mmap(descriptor, 0) as memory:
        written = question(1).ljust(2 * CHUNK_BYTES, b"x")
        client.sendall(struct.pack("!I", len(written)))
        memory[: len(written)] = written
        client.sendall(bytes(2))
        if not client.recv(4):
            raise OSError("no answer")
        return memory[:] != written.ljust(len(memory), b"\0")


def change_a_question_while_the_gate_reads_it():
    """Announce one study's question and put another frame in its place, over and over; what passes is a release."""
    from fedhealth.link.memory import CHUNK_BYTES

    frames = [question(3).ljust(2 * CHUNK_BYTES, b"x"), b"\xff" * (2 * CHUNK_BYTES)]
    with shared_memory() as (client, descriptor), mmap.mmap(descriptor, 0) as memory:
        for _ in range(50):
            client.sendall(struct.pack("!I", len(frames[0])))
            memory[: len(frames[0])] = frames[0]
            client.sendall(bytes(1))
            memory[: len(frames[1])] = frames[1]
            client.sendall(bytes(1))
            reply = client.makefile("rb", buffering=0)
            (length,) = struct.unpack("!I", reply.read(4).ljust(4, b"\0"))
            if b"release" in (reply.read(length) or b""):
                return True
    return False


def use_up_its_descriptors():
    """Pass it 2000 of the own; it succeeds if the gate does not answer after that."""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.settimeout(5)
        client.connect(str(STATE / "gate.sock"))
        for _ in range(20):
            socket.send_fds(client, [struct.pack("!I", 0)], [client.fileno()] * 100)
    return not answers()


def stop_it_by_half_a_frame_in_shared_memory():
    from fedhealth.link.memory import CHUNK_BYTES

    with shared_memory() as (client, _):
        client.sendall(struct.pack("!I", 3 * CHUNK_BYTES) + bytes(1))
        time.sleep(0.1)
    return not answers()


def stop_it_with_connections():
    clients = []
    with contextlib.suppress(OSError):
        for _ in range(300):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            clients.append(client)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(STATE / "gate.sock"))
    for client in clients:
        client.close()
    return not answers()
