"""The administrators' socket: both ends of how a person tells a running gate what to do.

It lies in the gate's own folder, mode 0600, so the node's user can neither open nor replace it, and whoever connects
is asked for nothing but the kernel's word (`SO_PEERCRED`): that user is who did it. One connection, one instruction,
one reply, each canonical JSON behind its length in four bytes.

Invariants: the gate's end never waits. It reads what is there when the gate has time between frames, and who does not
come with a whole instruction in time is hung up on; a peer that stalls holds up other administrators and no frame.

Leaves to others: what an instruction does (`fedhealth.site.instructions`), when there is time
(`fedhealth.site.gate_process`).
"""

import logging
import socket
import struct
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.declined import Declined
from fedhealth.errors import (
    ApprovalMissing,
    BudgetExhausted,
    ConfigInvalid,
    DataUnusable,
    FedHealthError,
    IdentityInvalid,
    LedgerBehind,
    LedgerDamaged,
    LedgerForked,
    LinkUnavailable,
    PolicyForbids,
)
from fedhealth.site.instructions import INSTRUCTION, Instruction
from fedhealth.site.state import user_name
from fedhealth.study.signature import MAX_SIGNED_STUDY_BYTES
from fedhealth.unix_socket import listen_at, peer_user, receive_exactly

_LOG = logging.getLogger(__name__)
_MODE = 0o600
_LONGEST_INSTRUCTION, _LONGEST_REPLY = 4 * MAX_SIGNED_STUDY_BYTES // 3 + 1024, 2**16
"""The longest instruction holds a signed study, in base64."""
_PART_BYTES = 2**16
_INSTRUCTION_SECONDS = 2.0
"""How long an administrator's command may take to send its few bytes."""
_ANSWER_SECONDS = 120.0
"""How long the command waits: a gate that computes a round does that first."""

_ERRORS = (
    ApprovalMissing,
    BudgetExhausted,
    ConfigInvalid,
    DataUnusable,
    IdentityInvalid,
    LedgerBehind,
    LedgerDamaged,
    LedgerForked,
    PolicyForbids,
)
"""What a gate may say that a person must do."""


class Done(BaseModel):
    """It is done, and durable."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["done"] = "done"


class AdministratorPort:
    """The gate's end.

    Args:
        path: where it listens.
        users: Unix user ids that may connect.
        carry_out: does an instruction in the name of a local user, or raises what the administrator must read.
        quiet_until: says before which monotonic second the gate must read and say nothing, because of an instruction.

    Raises:
        LinkUnavailable: the socket cannot be made.
    """

    def __init__(
        self,
        path: Path,
        users: Collection[int],
        carry_out: Callable[[Instruction, str], None],
        quiet_until: Callable[[], float],
    ) -> None:
        self._users, self._carry_out, self._quiet_until = frozenset(users), carry_out, quiet_until
        self._listener = listen_at(path, _MODE, waiting=8)
        self._listener.setblocking(False)
        self._connection: socket.socket | None = None
        self._received, self._until = bytearray(), 0.0

    def close(self) -> None:
        """Hang up and listen no more."""
        self._hang_up()
        self._listener.close()

    @property
    def watched(self) -> socket.socket:
        """What becomes readable when there is something to do."""
        return self._connection or self._listener

    @property
    def quiet_until(self) -> float:
        """The monotonic second before which the gate must read and say nothing."""
        return self._quiet_until()

    @property
    def deadline(self) -> float | None:
        """The monotonic second at which there is something to do in any case; None if there is not."""
        return None if self._connection is None else self._until

    def attend(self) -> None:
        """Do what can be done now, without waiting; never raises for anything that a peer does."""
        try:
            if self._connection is None:
                self._accept()
            if self._connection is not None:
                self._read(self._connection)
        except BlockingIOError:
            if self._connection is not None and time.monotonic() >= self._until:
                self._hang_up()
        except OSError:
            self._hang_up()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if peer_user(connection) not in self._users:
            _LOG.warning("a process of another user tried to speak to the gate as its administrator and was refused")
            connection.close()
            return
        connection.setblocking(False)
        self._connection, self._until = connection, time.monotonic() + _INSTRUCTION_SECONDS
        self._received.clear()

    def _read(self, connection: socket.socket) -> None:
        while True:
            if len(self._received) >= 4:
                (length,) = struct.unpack("!I", self._received[:4])
                if length > _LONGEST_INSTRUCTION or len(self._received) > 4 + length:
                    return self._hang_up()
                if len(self._received) == 4 + length:
                    reply = canonical_bytes(self._answer(bytes(self._received[4:]), user_name(peer_user(connection))))
                    connection.send(struct.pack("!I", len(reply)) + reply)  # fits what the kernel holds for a peer
                    return self._hang_up()
            part = connection.recv(min(_PART_BYTES, _LONGEST_INSTRUCTION + 5 - len(self._received)))
            if not part:
                return self._hang_up()
            self._received += part

    def _answer(self, data: bytes, by: str) -> Done | Declined:
        try:
            self._carry_out(_instruction_in(data), by)
        except FedHealthError as error:
            return Declined.of(error)
        except Exception as error:
            _LOG.error("an instruction failed: %(defect)s", {"defect": type(error).__name__})
            return Declined.of(LedgerDamaged("the gate could not do this", next_step="Read the gate's log."))
        return Done()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _instruction_in(data: bytes) -> Instruction:
    try:
        instruction = INSTRUCTION.validate_json(data)
        if canonical_bytes(instruction) == data:
            return instruction
    except ValidationError:
        pass
    raise ConfigInvalid(
        "the gate does not know this instruction", next_step="Use the program of the version that the gate runs."
    )


def tell_gate(path: Path, instruction: Instruction) -> bool:
    """Have the running gate carry out an instruction, as the Unix user of this process.

    Args:
        path: of the administrators' socket.
        instruction: what to do.

    Returns:
        False if no gate is running; nothing was done then.

    Raises:
        ConfigInvalid: this user may not; or as `carry_out`.
        FedHealthError: what the gate says that a person must do; nothing was done then.
        LinkUnavailable: the gate does not answer.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(path))
        except PermissionError as error:
            raise _not_this_user() from error
        except BlockingIOError as error:
            raise _no_answer("too many others who wait") from error
        except OSError:  # nobody listens; if somebody does all the same, the ledger's lock says so
            return False
        data = canonical_bytes(instruction)
        try:
            with suppress(BrokenPipeError):  # hung up on; what it said, if anything, can be read
                connection.sendall(struct.pack("!I", len(data)) + data)
            reply = _reply_from(connection)
        except TimeoutError as error:
            raise _no_answer(f"nothing in {_ANSWER_SECONDS:g} seconds") from error
        except (OSError, ValueError) as error:
            raise _not_this_user() from error
    if isinstance(reply, Declined):
        raise reply.carried(_ERRORS, LedgerDamaged)
    return True


def _reply_from(connection: socket.socket) -> Done | Declined:
    (length,) = struct.unpack("!I", receive_exactly(connection, 4))
    if length > _LONGEST_REPLY:
        raise ValueError("a reply that is too long")
    data = bytes(receive_exactly(connection, length))
    return Done() if data == canonical_bytes(Done()) else Declined.model_validate_json(data)


def _not_this_user() -> ConfigInvalid:
    return ConfigInvalid(
        "this user may not give this site instructions",
        next_step="Run this as the gate's user: runuser -u fedhealth-gate -- fedhealth site ...",
    )


def _no_answer(got: str) -> LinkUnavailable:
    return LinkUnavailable(
        "the gate does not answer",
        got=got,
        next_step="It may still do it when it has finished what it computes. Look with: fedhealth site status --help",
    )
