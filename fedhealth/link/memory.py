"""Memory for bodies: used again, because the first touch of fresh memory takes longer than all else done with them.

Measured: 65 ms per 100 MiB for the pages alone, where sealing takes 5 ms and TLS there and back 105 ms.
"""

import ctypes
import mmap
import sys

Buffer = bytes | memoryview

CHUNK_BYTES = 2**20

_KEPT_BYTES = 32 * 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_POOLED = 4


class MemoryPool:
    """Memory for large bodies, used again once nobody looks at it any more.

    A study asks for bodies of one size over and over.
    """

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []

    def take(self, size: int) -> memoryview:
        """Return `size` writable bytes of any content; they are free again when the last view on them is gone."""
        if size <= CHUNK_BYTES:
            return memoryview(bytearray(size))
        for free in list(self._maps):
            try:
                free.resize(len(free))  # a mapping with a view on it refuses
            except BufferError:
                continue
            if len(free) >= size:
                return memoryview(free)[:size]
            self._maps.remove(free)
        fresh = mmap.mmap(-1, size)
        if len(self._maps) < _POOLED:
            self._maps.append(fresh)
        return memoryview(fresh)[:size]


def keep_freed_memory() -> None:
    """Let this process keep up to 32 MiB that it freed, instead of giving back each chunk and touching it anew.

    Without glibc it stays as it is.
    """
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
            mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
