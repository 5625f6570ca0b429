"""Ports of this machine's loopback, for a node and its SuperNode. Loads nothing heavy: a node opens its port first."""

import socket

from fedhealth.errors import LinkUnavailable

LOOPBACK = "127.0.0.1"


def listen_on_loopback(port: int) -> socket.socket:
    """Return a socket that listens at a port of the loopback.

    Args:
        port: 0 for any free one.

    Raises:
        LinkUnavailable: the port is in use.
    """
    try:
        return socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise LinkUnavailable(
            f"nothing can listen at {LOOPBACK}:{port}",
            got=error.strerror or "an error",
            wanted="a free port of this machine",
            next_step="Stop the program that uses it (ss -ltnp shows which), or leave the port to be chosen.",
        ) from error


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with listen_on_loopback(0) as listener:
        return int(listener.getsockname()[1])
