"""The gate as a process: one Unix socket for the node, one for its administrators, no network.

One connection at a time, one frame in flight; the caller's Unix user is checked by the kernel's word
(`SO_PEERCRED`), the frame's size before it is read. A large frame is looked at first: a body longer than any approved
study's step takes is dropped as it comes and never held. Administrators are heard whenever the gate would wait
otherwise, also for the rest of a frame, so no node can keep a pause from being heard. After an act for which it
prepares its data anew the gate is quiet until a public time (`fedhealth.site.running_site`): it reads and says nothing.
Where the kernel allows it the process first leaves the network (`fedhealth.site.isolation`). It ends when its standard
input closes, so that it never outlives whoever started it, and no node can keep it from ending by stopping in the
middle of a frame.
"""

import logging
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from fedhealth.canonical import digest_state
from fedhealth.errors import FedHealthError, LedgerBehind, LedgerDamaged, LedgerForked
from fedhealth.link.frames import MAX_HEADER_BYTES
from fedhealth.link.memory import CHUNK_BYTES, Buffer
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.anchor import AnchorMissing
from fedhealth.privacy.copies import EntrySeal
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import INPUT_DOMAIN, Digest
from fedhealth.signing import load_public_key
from fedhealth.site.administration import AdministratorPort
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock, Compute, read_inputs
from fedhealth.site.held_gate import HeldGate, LedgerHeads
from fedhealth.site.node_line import Gone, LifelineClosed, Minding, NodeLine
from fedhealth.site.state import SiteState, local_user
from fedhealth.unix_socket import listen_at, peer_user

_LOG = logging.getLogger(__name__)

SYSTEM_CLOCK = Clock(monotonic=time.monotonic, unix_ms=lambda: time.time_ns() // 10**6)


def open_gate(
    folder: Path, state: SiteState, compute: Compute, clock: Clock = SYSTEM_CLOCK, device: str = "cpu"
) -> tuple[Gate | HeldGate, Ledger]:
    """Open a site's ledger and data and return its gate, with every approved study prepared.

    A ledger that is an older copy, may be one, or is of another history gets a gate that shows its head to the
    coordinator, takes the missing entries back, and serves nothing.

    Args:
        folder: the site's folder.
        state: its state.
        compute: the step functions.
        clock: the time.
        device: name of what they compute on (`fedhealth.training.device`).

    Raises:
        FedHealthError: for the administrator; nothing listens yet.
    """
    site = load_site_file(folder).id
    try:
        ledger = state.open_ledger(site)
    except (AnchorMissing, LedgerBehind, LedgerForked) as error:
        _LOG.error("the ledger cannot be used: %(error)s", {"error": error})
        return _open_held_gate(state, site, clock)
    try:
        inputs = read_inputs(folder, state, ledger, local_user(), clock.unix_ms(), device)
        gate = Gate(inputs, ledger, compute, clock)
        if ledger.account.acts.paused:
            _LOG.warning("the site is paused and answers busy; to go on: fedhealth site resume")
        if inputs.table.ragged:
            _LOG.warning("some lines of the data are not like their header and are left out")
        prepare_studies(gate, state, ledger)
    except BaseException:
        ledger.close()
        raise
    return gate, ledger


def _open_held_gate(state: SiteState, site: str, clock: Clock) -> tuple[HeldGate, Ledger]:
    ledger = state.open_untied_ledger(site)
    try:
        heads = LedgerHeads(ledger, EntrySeal(state.copies_secret(), site))
        key = load_public_key(ledger.created.witness_key)
        return HeldGate(heads, ledger, state.hold, key, clock.monotonic, clock.unix_ms), ledger
    except BaseException:
        ledger.close()
        raise


def prepare_studies(gate: Gate, state: SiteState, ledger: Ledger) -> None:
    """Have a gate take in every study that is approved; of one that cannot be, the administrator is told."""
    account = ledger.account
    for study in (each for each in account.approved if each not in account.withdrawn):
        try:
            gate.prepare((state.studies / f"{study}.json").read_bytes())
        except (FedHealthError, OSError) as error:
            _LOG.error("study %(study)s cannot run here: %(error)s", {"study": study, "error": error})


Leaving = Callable[[Buffer, bytes, int, Digest | None], None]
"""Told of a request and its reply before the reply leaves; if it fails, the reply stays."""


def serve_gate(
    gate: Gate | HeldGate,
    path: Path,
    allowed_users: Iterable[int],
    lifeline: int | None,
    on_leaving: Leaving,
    administrators: AdministratorPort | None = None,
) -> None:
    """Serve one node after another until the lifeline closes.

    Args:
        gate: the gate.
        path: the socket to make.
        allowed_users: Unix user ids that may connect.
        lifeline: a file descriptor whose end of file ends the process; None to serve for ever.
        on_leaving: the egress log.
        administrators: where they are heard; None where nobody is.

    Raises:
        LinkUnavailable: the socket cannot be made.
        LedgerDamaged: what leaves cannot be written down.
    """
    allowed, minding = frozenset(allowed_users), Minding(lifeline, administrators)
    with listen_at(path, 0o660) as listener, suppress(LifelineClosed):
        while True:
            minding.wait([listener])
            connection, _ = listener.accept()
            with connection:
                if peer_user(connection) not in allowed:
                    _LOG.warning("a process of another user tried to speak to the gate and was refused")
                    continue
                _converse(gate, connection, minding, on_leaving)


def _converse(gate: Gate | HeldGate, connection: socket.socket, minding: Minding, on_leaving: Leaving) -> None:
    """Answer frames until the node hangs up."""
    line = NodeLine(connection, minding)
    with suppress(Gone):
        while True:
            minding.wait([connection])
            if (length := line.frame_bytes()) is None:
                continue
            frame, digest = _receive(gate, line, length)
            reply = gate.handle(frame, digest)
            minding.wait([], reply.leaves_at)
            on_leaving(frame, reply.start, len(reply.body), reply.body_sha256)
            try:
                line.send(reply)
            except LedgerDamaged as error:
                _LOG.error("the rest of a reply cannot be read: %(error)s", {"error": error})
                raise Gone from error
            del frame, reply  # their memory is free for the next frame


def _receive(gate: Gate | HeldGate, line: NodeLine, length: int) -> tuple[Buffer, Digest | None]:
    """Return the next frame and, of a large one, the digest of its body as a step's input."""
    if length <= CHUNK_BYTES:
        return bytes(line.read(memoryview(bytearray(length)))), None
    read = line.large_frame(length)
    head = read(memoryview(bytearray(4)))
    (header_bytes,) = struct.unpack("!I", head)
    start = bytes(head) + read(memoryview(bytearray(min(header_bytes, MAX_HEADER_BYTES))))
    body_bytes, digest = length - len(start), digest_state(INPUT_DOMAIN)
    if body_bytes > gate.longest_body(start):
        spare = memoryview(bytearray(CHUNK_BYTES))
        for offset in range(0, body_bytes, len(spare)):
            read(spare[: body_bytes - offset])
        # One byte stands for what was dropped. No step takes that, so the gate refuses it, for the reason that counts.
        return start + b"\0", None
    frame = line.pool.take(length)
    frame[: len(start)] = start
    for offset in range(len(start), length, CHUNK_BYTES):
        digest.update(read(frame[offset : offset + CHUNK_BYTES]))
    return frame, digest.hexdigest()
