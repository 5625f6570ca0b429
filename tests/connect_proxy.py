"""A small HTTP proxy that knows CONNECT and nothing else, and keeps what crosses it."""

import contextlib
import socket
import threading


class ConnectProxy:
    """A proxy on a free port of this machine.

    Args:
        ways: where it goes, `host:port` to connect to by the `host:port` that is asked for; 403 for all others, 502
            where nobody listens.
    """

    def __init__(self, ways):
        self.ways, self.asked, self.crossed = ways, [], bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets, self._threads = [], []

    def __enter__(self):
        self._begin(self._accept)
        return self

    def __exit__(self, *_):
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):  # it is closed, or the other end was quicker
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def _begin(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(near)
            self._begin(self._serve, near)

    def _serve(self, near):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (part := near.recv(1)):
                return
            head += part
        words = head.split(b" ")
        address = words[1].decode()
        self.asked.append((words[0].decode(), address))
        if address not in self.ways:
            self._refuse(near, b"403 Forbidden")
            return
        host, _, port = self.ways[address].rpartition(":")
        try:
            far = socket.create_connection((host, int(port)))
        except OSError:
            self._refuse(near, b"502 Bad Gateway")
            return
        self._sockets.append(far)
        near.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 hospital\r\n\r\n")
        self._begin(self._pump, far, near)
        self._pump(near, far)

    @staticmethod
    def _refuse(near, status):
        with contextlib.suppress(OSError):  # it hung up
            near.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")
            near.shutdown(socket.SHUT_RDWR)

    def _pump(self, source, target):
        try:
            while part := source.recv(1 << 16):
                self.crossed += part
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # an end hung up
