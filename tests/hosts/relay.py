"""The wide-area network: carries one port's connections to the datacentre, each byte one second late, and cuts them."""

import asyncio
import contextlib
import socket
import struct
import threading
from typing import NamedTuple

from network import DATACENTRE, HOSPITALS

DELAY_SECONDS = 1.0
"""Each way: a question and its answer take two seconds beside what they take."""

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, and what was not sent is lost


class Carried(NamedTuple):
    """One connection that was accepted."""

    hospital: str
    port: int


class Relay:
    """Accepts at a host and carries to the datacentre; runs in a thread of its own.

    Args:
        wide: the host.
    """

    def __init__(self, wide):
        self.carried = []
        self._wide = wide
        self._loop = asyncio.new_event_loop()
        self._open = {name: asyncio.Event() for name in HOSPITALS}
        for each in self._open.values():
            each.set()
        self._lines = {name: set() for name in HOSPITALS}
        self._listeners = {}
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._call(self._stop()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def listen(self, port):
        """Carry what connects to this port."""
        listener = self._wide.listen(port)
        listener.setblocking(False)
        self._listeners[listener] = self._call(self._accept(listener, port))

    def reset(self, hospital):
        """Cut every connection of a hospital at once, both ways, with RST; what was on the way is lost."""

        async def cut():
            for line in list(self._lines[hospital]):
                line.cancel()

        self._call(cut()).result()

    def hold(self, hospital):
        """Carry nothing more of a hospital, and tell nobody."""
        self._loop.call_soon_threadsafe(self._open[hospital].clear)

    def go_on(self, hospital):
        """Carry what was held, and go on."""
        self._loop.call_soon_threadsafe(self._open[hospital].set)

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _stop(self):
        for accepting in self._listeners.values():
            accepting.cancel()
        lines = [line for each in self._lines.values() for line in each]
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    async def _accept(self, listener, port):
        hospitals = {address: name for name, address in HOSPITALS.items()}
        while True:
            near, (address, _) = await self._loop.sock_accept(listener)
            hospital = hospitals[address]
            self.carried.append(Carried(hospital, port))
            line = self._loop.create_task(self._carry(near, hospital, port))
            self._lines[hospital].add(line)
            line.add_done_callback(self._lines[hospital].discard)

    async def _carry(self, near, hospital, port):
        far = self._wide.inside(socket.socket)
        for each in (near, far):
            each.setblocking(False)
        pumps = []
        try:
            await self._loop.sock_connect(far, (DATACENTRE, port))
            pumps = [self._loop.create_task(self._pump(*way, hospital)) for way in ((near, far), (far, near))]
            await asyncio.gather(*pumps)
        except BaseException as error:
            for each in (near, far):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            if not isinstance(error, OSError):  # an end that hung up was passed on to the other
                raise
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            near.close()
            far.close()

    async def _pump(self, source, target, hospital):
        """Carry one direction until its end, each part as long after it came."""
        waiting = asyncio.Queue()

        async def read():
            while data := await self._loop.sock_recv(source, 1 << 16):
                waiting.put_nowait((self._loop.time() + DELAY_SECONDS, data))
            waiting.put_nowait((self._loop.time() + DELAY_SECONDS, b""))

        reading = self._loop.create_task(read())
        reading.add_done_callback(lambda _: waiting.put_nowait((0.0, None)))
        try:
            while True:
                due, data = await waiting.get()
                if data is None:
                    return await reading  # it raises what ended it early
                await asyncio.sleep(due - self._loop.time())
                await self._open[hospital].wait()
                if data:
                    await self._loop.sock_sendall(target, data)
                else:
                    with contextlib.suppress(OSError):
                        target.shutdown(socket.SHUT_WR)
        finally:
            reading.cancel()
