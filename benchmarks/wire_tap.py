"""Relays between the processes of a federation that write down every byte of both directions, and know no protocol.

One stands before the coordinator's port, where all is TLS, and one before each gate's Unix socket, where what leaves a
hospital's patients behind passes in the clear. Nothing of the program is changed or told.
"""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

PIECE = 2**16


class Tap:
    """A relay; `to` and `back` hold what passed.

    Args:
        listener: listens already.
        connect: opens the other end.
    """

    def __init__(self, listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
        self.to, self.back = bytearray(), bytearray()
        self._listener, self._connect = listener, connect
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = self._connect()
            except OSError:
                return
            for source, sink, written in ((near, far, self.to), (far, near, self.back)):
                threading.Thread(target=_pump, args=(source, sink, written), daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket, written: bytearray) -> None:
    try:
        while piece := source.recv(PIECE):
            written += piece
            sink.sendall(piece)
    except OSError:
        pass
    for each in (source, sink):
        each.close()


def tap_port(port: int) -> tuple[Tap, int]:
    """Put a tap before a port of this machine, and return it with its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    tap = Tap(listener, lambda: socket.create_connection(("127.0.0.1", port)))
    return tap, listener.getsockname()[1]


def tap_socket(path: Path, wait_seconds: float = 60.0) -> Tap:
    """Take the place of a Unix socket as soon as it is there."""
    behind, deadline = path.with_name(f"{path.name}-2"), time.monotonic() + wait_seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"nobody listens at {path}")
        time.sleep(0.05)
    path.rename(behind)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def connect() -> socket.socket:
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(behind))
        return far

    return Tap(listener, connect)
