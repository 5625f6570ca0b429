"""Memory that gate and node share, through which large frames pass between them; small ones stay on the socket.

The gate makes it, of fixed size, empty, for one connection, when the node asks for it. A frame lies in it chunk after
chunk, over and over from its beginning. Everything else goes by the socket: the frame's size before it; one byte after
each chunk that is ready; one byte back once half of the ring was taken, if the frame has more than what is left.

The gate believes nothing of it:

| what a node may do | so |
|---|---|
| write at any time | each byte is copied once, into memory of the gate's own, before it counts |
| lie about sizes and places | none stand in the ring: they follow from the size declared on the socket |
| shrink or grow the memory | sealed: `F_SEAL_SHRINK`, `F_SEAL_GROW`, and no seal can be added |
| pass memory of its own | the gate takes no descriptor |
| be slow, or stop | every byte on the socket has its time, as every part of a frame has |

What the node may see in it is what it wrote and what left for it: the gate writes replies into it that are on their
way out, and a connection's ring is nobody else's.

Source: memfd_create(2), "File sealing" in fcntl(2), `SCM_RIGHTS` in unix(7).
"""

import fcntl
import mmap
import os
import struct
from typing import Self

from fedhealth.errors import LinkUnavailable
from fedhealth.link.memory import CHUNK_BYTES

RING_WANTED = struct.pack("!I", 2**31)
"""In the place of a frame's size: the node asks for a ring, the gate answers with it. No frame is as long."""
NO_RING = bytes(4)
RING_CHUNKS = 8
_HALF = RING_CHUNKS // 2
_RING_BYTES = RING_CHUNKS * CHUNK_BYTES
_NOT_EXECUTABLE = 8  # MFD_NOEXEC_SEAL, Linux 6.3


class SharedRing:
    """One end's view of a ring.

    Args:
        descriptor: of its memory; it may be closed afterwards.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = memoryview(mmap.mmap(descriptor, _RING_BYTES))

    @classmethod
    def received(cls, descriptor: int) -> Self:
        """Return the ring that a gate gave, which may not end under its reader.

        Raises:
            LinkUnavailable: it is none.
        """
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        if os.fstat(descriptor).st_size != _RING_BYTES or not seals & fcntl.F_SEAL_SHRINK:
            raise LinkUnavailable("the gate gave memory that is not sealed, or of another size")
        return cls(descriptor)

    def rest_of_chunk(self, offset: int) -> memoryview:
        """Return where the bytes of a frame from `offset` to the end of their chunk lie."""
        start = offset % _RING_BYTES
        return self._memory[start : start + CHUNK_BYTES - start % CHUNK_BYTES]


def make_ring() -> int | None:
    """Return the descriptor of memory for a ring, filled with zeros; None where the system gives no such memory."""
    if not hasattr(os, "memfd_create"):
        return None
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    for each in (flags | _NOT_EXECUTABLE, flags):
        try:
            descriptor = os.memfd_create("fedhealth-ring", each)
        except OSError:
            continue
        os.ftruncate(descriptor, _RING_BYTES)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return descriptor
    return None


def needs_room(number: int) -> bool:
    """Whether a byte of the receiver must have come before the chunk of that number is written."""
    return number >= RING_CHUNKS and number % _HALF == 0


def gives_room(number: int, size: int) -> bool:
    """Whether the receiver says so once it took the chunk of that number, of a frame of `size` bytes."""
    return (number + 1) % _HALF == 0 and (number + 1 + _HALF) * CHUNK_BYTES < size
