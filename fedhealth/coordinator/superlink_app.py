"""The ServerApp that a stock SuperLink runs with `engine = "superlink"`: it carries frames, and knows nothing else.

It has no state and no key. The coordinator's main process gives it frames over a Unix socket; each becomes one Flower
message to one node over the stock Grid, and the reply goes back. It can be killed at any moment: what was under way is
asked again by the coordinator, through the ServerApp that is started in its place, and the gate gives the same bytes.

Flower's own waiting (`Grid.send_and_receive`) looks for replies every 3 s. To look so does harm: who finds a reply
whose objects are still on their way waits for them, a second at first, and for minutes where the SuperNode was killed
over sending them; every other site waits with it. So the coordinator, which sees what a SuperNode asks, says when a
reply is whole, and only then it is fetched.
"""

import contextlib
import os
import socket

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from fedhealth.coordinator.carried_frames import (
    LENGTHS,
    SOCKET,
    Arrived,
    Carry,
    Lost,
    Sent,
    lengths_in,
    message_of,
    read_order,
)
from fedhealth.errors import FederationFailed
from fedhealth.flower.fab import FAB_SHA256
from fedhealth.flower.frame_messages import FRAME_MESSAGE, NotOneFrame, frame_of, to_content
from fedhealth.link.memory import Buffer

app = ServerApp()


@app.main()
def main(grid: Grid, _context: Context) -> None:
    """Carry frames until the coordinator hangs up."""
    if grid.run.fab_hash != FAB_SHA256:
        raise FederationFailed("another bundle than this release's named this app", got=grid.run.fab_hash)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(os.environ[SOCKET])
        FrameCarrier(grid, connection).run()


class FrameCarrier:
    """Carries frames between a socket and a Grid.

    Args:
        grid: Flower's.
        connection: to the coordinator.
    """

    def __init__(self, grid: Grid, connection: socket.socket) -> None:
        self._grid, self._connection = grid, connection
        self._under_way: dict[int, tuple[str, Carry]] = {}

    def run(self) -> None:
        """Carry until the connection ends."""
        while (start := self._exactly(LENGTHS.size)) is not None:
            header, frame = map(self._exactly, lengths_in(start))
            if header is None or frame is None:
                return  # the coordinator has hung up
            order = read_order(bytes(header))
            if isinstance(order, Carry):
                self._send(order, frame)
            elif order.number in self._under_way:
                self._look(*self._under_way.pop(order.number))

    def _send(self, carry: Carry, frame: Buffer) -> None:
        message = Message(to_content(bytes(frame)), int(carry.node), FRAME_MESSAGE, ttl=carry.seconds)
        (name,) = self._grid.push_messages([message]) or ("",)
        if not name:
            self._tell(Lost(number=carry.number))
            return
        self._under_way[carry.number] = name, carry
        self._tell(Sent(number=carry.number, message=name))

    def _look(self, name: str, carry: Carry) -> None:
        frame = b""
        for reply in self._grid.pull_messages([name]):
            with contextlib.suppress(NotOneFrame):
                frame = b"" if reply.has_error() else frame_of(reply.content, carry.longest)
        self._tell(Arrived(number=carry.number) if frame else Lost(number=carry.number), frame)

    def _tell(self, told: Sent | Arrived | Lost, frame: bytes = b"") -> None:
        self._connection.sendall(message_of(told, frame))

    def _exactly(self, count: int) -> Buffer | None:
        part, filled = memoryview(bytearray(count)), 0
        while filled < count:
            more = self._connection.recv_into(part[filled:])
            if more == 0:
                return None
            filled += more
        return part
