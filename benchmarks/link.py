"""The link under load: throughput, small requests, memory before authentication, and frames that must not pass.

Coordinator, node and gate are processes of their own. The gate is the real one's socket and ledger, with the calls the
real one makes for a release that is stored already: it checks and digests the input, finds the release, reads the
payload from the ledger and signs. In turns with it, a model of the same size crosses a bare grpcio stream with the same
TLS, chunk size and options, cut into messages at one end; at the other nobody checks it and nobody keeps it.

The processes share the cores: on two, what decides is processor time, which is printed for both.

Run: .venv/bin/python benchmarks/link.py [--mebibytes 100] [--times 7]
"""

import argparse
import asyncio
import contextlib
import logging
import multiprocessing
import os
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from made_up_site import SITE, approval, charge, create, receipt, study_named
from unauthenticated import bytes_sent_by_strangers

from fedhealth.learning.plan import holds_weights
from fedhealth.link.client import run_link
from fedhealth.link.frames import (
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    Answer,
    AskHead,
    Head,
    ReleaseReply,
    StoredPayload,
    head_statement,
    pack,
    pack_start,
    release_statement,
    unpack_reply,
    unpack_request,
)
from fedhealth.link.memory import CHUNK_BYTES, Buffer
from fedhealth.link.server import LinkServer
from fedhealth.link.services import Service
from fedhealth.link.session import SESSION_BYTES, FrameKind, FrameRejected, SessionEnd, hello_body
from fedhealth.link.tls import METHOD, SERVICE, aio, grpc, open_channel, server_credentials, server_options
from fedhealth.pki.authority import install_authority, request_authority
from fedhealth.pki.certificates import key_pem, make_key
from fedhealth.pki.identity import TlsIdentity
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest, ReleaseIdentity, input_digest
from fedhealth.site.gate import Outgoing
from fedhealth.site.gate_process import serve_gate
from fedhealth.site.node import GateChannel

FEDERATION = "bench"
STUDY = study_named("link")
MIB = 2**20


class StoredGate:
    """Answers what a gate answers from its ledger, as `fedhealth.site.gate` does, for a study of one release."""

    def __init__(self, ledger: Ledger, input_bytes: int) -> None:
        self._ledger, self._input_bytes = ledger, input_bytes

    def longest_body(self, _start: Buffer) -> int:
        """Return the input's size."""
        return self._input_bytes

    def handle(self, frame: Buffer, digest: Digest | None = None) -> Outgoing:
        """Answer a question for the stored release, or for the head."""
        request, body = unpack_request(frame)
        if not isinstance(request, Answer):
            shown = Head(note=self._ledger.head(), proof=(), challenge="0" * 64, entries=1, signature="0" * 128)
            signature = self._ledger.sign("head", head_statement(shown, b""))
            return Outgoing(pack(shown.model_copy(update={"signature": signature})), time.monotonic())
        if not holds_weights(body, self._input_bytes // 8):
            raise ValueError("not the input that was sent")
        name = name_of(digest or input_digest(body))
        row = self._ledger.row(name)
        assert row is not None and row.payload_bytes is not None
        payload = StoredPayload(row.payload_bytes, partial(self._ledger.payload_parts, name))
        stored = self._ledger.account.stored[name].payload_sha256
        signature = self._ledger.sign("release-reply", release_statement(name, stored))
        start = pack_start(ReleaseReply(release=name, signature=signature), len(payload))
        return Outgoing(start, time.monotonic(), payload, stored)


def name_of(digest: Digest) -> Digest:
    """Return the name of the release that an input asks for."""
    return ReleaseIdentity(site=SITE, study=STUDY, step="train", round=1, input_digest=digest).digest


def run_gate(folder: Path, size: int, told: "multiprocessing.Queue[float]") -> None:
    """Store a payload, say how long that took, and serve."""
    model = (folder / "model").read_bytes()
    ledger = create(folder / "ledger.sqlite")
    ledger.append(approval(STUDY, 1))
    name = name_of(input_digest(model))
    ledger.reserve(charge(STUDY, 0).model_copy(update={"release": name}))
    ledger.witness(receipt(ledger), name)
    payload = os.urandom(size)
    start = time.perf_counter()
    ledger.store(name, payload)
    told.put(time.perf_counter() - start)
    del model, payload
    serve_gate(StoredGate(ledger, size), folder / "gate.sock", {os.geteuid()}, None, lambda *_: None)  # type: ignore[arg-type]


def run_node(folder: Path, identity: TlsIdentity, address: str) -> None:
    """Run the site's end of the link."""
    gate = GateChannel(folder / "gate.sock")
    services = {"gate": Service(gate.answer, longest_question=MAX_FRAME_BYTES)}
    asyncio.run(run_link(identity, address, FEDERATION, services, lambda _: None))


def messages_of(model: bytes) -> Iterator[bytes]:
    """Yield a model cut into messages."""
    for offset in range(0, len(model), CHUNK_BYTES):
        yield model[offset : offset + CHUNK_BYTES]


def run_bare_peer(identity: TlsIdentity, address: str, chunks: int) -> None:
    """Take `chunks` chunks and send as many, over and over."""

    async def main() -> None:
        async with open_channel(identity, address, FEDERATION) as channel:
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
            model = os.urandom(chunks * CHUNK_BYTES)
            while True:
                for _ in range(chunks):
                    if await call.read() is aio.EOF:
                        return
                for chunk in messages_of(model):
                    await call.write(chunk)

    with contextlib.suppress(aio.AioRpcError):
        asyncio.run(main())


def run_bare_server(identity: TlsIdentity, chunks: int, orders: Connection) -> None:
    """Say the port, and at each order the seconds of `chunks` chunks there and as many back: nothing else is done."""

    async def serve(_requests: object, context: aio.ServicerContext) -> None:
        model, loop = os.urandom(chunks * CHUNK_BYTES), asyncio.get_running_loop()
        while True:
            await loop.run_in_executor(None, orders.recv)
            start = time.perf_counter()
            for chunk in messages_of(model):
                await context.write(chunk)
            for _ in range(chunks):
                await context.read()
            orders.send(time.perf_counter() - start)

    async def main() -> None:
        server = aio.server(options=server_options())
        handler = grpc.stream_stream_rpc_method_handler(serve)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        orders.send(server.add_secure_port("127.0.0.1:0", server_credentials(lambda: identity)))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(main())


def make_identities(folder: Path) -> tuple[TlsIdentity, TlsIdentity]:
    """Return the coordinator's and the site's."""
    now = datetime.now(UTC)
    root = create_root(folder / "root", FEDERATION, None, now)
    (folder / "issuer").mkdir()
    request = request_authority(folder / "issuer", FEDERATION)
    authority = install_authority(folder / "issuer", root.certify_issuer(request.read_bytes(), now), root.pem, now)

    def issue(role: Role, holder: str) -> TlsIdentity:
        key = make_key("P-256")
        return TlsIdentity(authority.issue(key.public_key(), role, holder, now), key_pem(key), authority.root_pem)

    return issue(Role.COORDINATOR, "coordinator"), issue(Role.SITE, SITE)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int, field: str) -> float:
    """Return a field of a process's status that is a size, in MiB."""
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def say(what: str, figure: str, target: str = "", ok: bool | None = None) -> None:
    """Print one line of the result."""
    verdict = "" if ok is None else "ok" if ok else "missed"
    print(f"{what:<46} {figure:>22}   {f'target: {target}' if target else '':<34} {verdict}", flush=True)


async def throughput(link: LinkServer, bare: Connection, model: bytes, pids: list[int], times: int) -> None:
    """Print how fast a model goes each way, beside a bare stream in turns.

    Args:
        link: the coordinator's end.
        bare: the bare server.
        model: the input.
        pids: of node and gate, then of the bare server and its peer.
        times: how often.
    """
    question = pack(Answer(study=STUDY, step="train", round=1), model)
    longest = len(model) + MAX_HEADER_BYTES + 4
    own, others = [os.getpid(), *pids[:2]], pids[2:]
    ours, theirs, cpu_ours, cpu_bare = [], [], 0.0, 0.0
    for turn in range(times + 1):
        before = sum(map(cpu_seconds, others))
        bare.send("go")
        seconds = await asyncio.to_thread(bare.recv)
        if turn:  # the first warms up both
            theirs.append(seconds)
            cpu_bare += sum(map(cpu_seconds, others)) - before
        before = sum(map(cpu_seconds, own))
        start = time.perf_counter()
        answer = await link.ask(SITE, "gate", question, 120, longest)
        seconds = time.perf_counter() - start
        header, payload = unpack_reply(answer)
        assert isinstance(header, ReleaseReply) and len(payload) == len(model)
        del answer, payload
        if turn:
            ours.append(seconds)
            cpu_ours += sum(map(cpu_seconds, own)) - before
    both = 2 * len(model) / MIB
    ratio = statistics.median(other / own for other, own in zip(theirs, ours, strict=True))
    say("bare grpcio stream, mutual TLS", f"{both / statistics.median(theirs):.0f} MiB/s")
    say("link, node and gate", f"{both / statistics.median(ours):.0f} MiB/s")
    say("share of the bare stream (median of pairs)", f"{ratio:.0%}", "at least 60 %", ratio >= 0.6)
    gib = times * both / 1024
    say("processor time of the bare stream", f"{cpu_bare / gib:.2f} s/GiB")
    say("processor time of link, node and gate", f"{cpu_ours / gib:.2f} s/GiB")


async def small_requests(link: LinkServer, count: int) -> None:
    """Print how long a question for the head takes, coordinator to gate and back."""
    question, seconds = pack(AskHead(since=0)), []
    for _ in range(count):
        start = time.perf_counter()
        await link.ask(SITE, "gate", question, 10)
        seconds.append((time.perf_counter() - start) * 1e3)
    seconds = sorted(seconds[count // 10 :])
    p50, p99 = seconds[len(seconds) // 2], seconds[int(0.99 * len(seconds))]
    say("small request, median", f"{p50:.2f} ms", "at most 5 ms", p50 <= 5)
    say("small request, 99 of 100", f"{p99:.2f} ms", "at most 25 ms", p99 <= 25)


def bad_frames(count: int) -> None:
    """Print how many of `count` frames that must not pass do."""
    accepted, kinds = 0, ("replayed", "altered", "reordered", "of another session")
    for number in range(count):
        ends = [SessionEnd(Role.COORDINATOR, secrets.token_bytes(SESSION_BYTES)) for _ in range(2)]
        sites = [SessionEnd(Role.SITE) for _ in range(2)]
        for end, site in zip(ends, sites, strict=True):
            site.open(end.seal(FrameKind.HELLO, 0, "", hello_body()))
        first, second = (ends[0].seal(FrameKind.ASK, n, "gate", os.urandom(100)) for n in (2, 4))
        kind = kinds[number % len(kinds)]
        if kind == "replayed":
            sites[0].open(first)
            bad = first
        elif kind == "altered":
            place = secrets.randbelow(8 * len(first))
            flipped = bytearray(first)
            flipped[place // 8] ^= 1 << place % 8
            bad = bytes(flipped)
        elif kind == "reordered":
            bad = second
        else:
            bad = ends[1].seal(FrameKind.ASK, 2, "gate", os.urandom(100))
        try:
            sites[0].open(bad)
            accepted += 1
        except FrameRejected:
            pass
    say(f"accepted of {count} frames {', '.join(kinds)}", f"{accepted}", "0", accepted == 0)


def run_coordinator(identity: TlsIdentity, told: "multiprocessing.Queue[int]") -> None:
    """Run a coordinator that nobody of its federation speaks to."""

    async def main() -> None:
        link = LinkServer(identity, FEDERATION, lambda *_: None)
        told.put(await link.start("127.0.0.1:0"))
        await asyncio.Event().wait()

    asyncio.run(main())


def strangers(identity: TlsIdentity, mebibytes: int) -> None:
    """Print how much memory a coordinator takes while strangers send it `mebibytes`."""
    told: multiprocessing.Queue[int] = multiprocessing.Queue()
    process = multiprocessing.Process(target=run_coordinator, args=(identity, told), daemon=True)
    process.start()
    port, pid = told.get(timeout=60), process.pid or 0
    time.sleep(0.5)
    before, peak, stop = memory_mib(pid, "VmRSS"), [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], memory_mib(pid, "VmRSS"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    sent = bytes_sent_by_strangers(port, mebibytes * MIB)
    stop.set()
    watcher.join()
    process.kill()
    grown = max(peak[0], before) - before
    for how, count in sent.items():
        say(f"  sent {how}", f"{count / MIB:.0f} MiB")
    say("memory of the coordinator meanwhile", f"+{grown:.1f} MiB", "at most +32 MiB", grown <= 32)


async def main() -> None:
    """Print every figure with its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=100)
    parser.add_argument("--times", type=int, default=7)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    size, started = options.mebibytes * MIB, []

    def start(run: Callable[..., None], *arguments: object) -> int:
        process = multiprocessing.Process(target=run, args=arguments, daemon=True)
        process.start()
        started.append(process)
        return process.pid or 0

    with tempfile.TemporaryDirectory(prefix="fh-") as name:
        folder = Path(name)
        coordinator, site = make_identities(folder)
        model = bytes(size)  # zeros are finite weights
        (folder / "model").write_bytes(model)
        stored: multiprocessing.Queue[float] = multiprocessing.Queue()
        link = LinkServer(coordinator, FEDERATION, lambda *_: None)
        bare, bare_end = multiprocessing.Pipe()
        try:
            gate = start(run_gate, folder, size, stored)
            seconds = stored.get(timeout=120)
            server = start(run_bare_server, coordinator, options.mebibytes, bare_end)
            port, bare_port = await link.start("127.0.0.1:0"), await asyncio.to_thread(bare.recv)
            node = start(run_node, folder, site, f"127.0.0.1:{port}")
            peer = start(run_bare_peer, site, f"127.0.0.1:{bare_port}", options.mebibytes)
            await link.wait_connected({SITE}, 60)
            await throughput(link, bare, model, [node, gate, server, peer], options.times)
            say("storing the payload durably, at the gate", f"{seconds:.2f} s")
            await small_requests(link, 2000)
        finally:
            for process in reversed(started):
                process.kill()
                process.join()
            await link.stop()
        strangers(coordinator, 400)
    bad_frames(10_000)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    asyncio.run(main())
