"""A site's SuperNode and worker as real, confined processes, between a real gate and a SuperLink of the tests' own.

The node's side of them and the coordinator's desk run in this process, in a thread; between them, in place of the link,
a function.
"""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

from scripted_superlink import ScriptedSuperLink

from fedhealth.coordinator.fleet_desk import FleetDesk
from fedhealth.link.bodies import IncomingBody
from fedhealth.link.client import SiteLink
from fedhealth.link.memory import CHUNK_BYTES, MemoryPool
from fedhealth.pki.loopback import loopback_certificate
from fedhealth.site.loopback_port import free_port, listen_on_loopback
from fedhealth.site.node import GateChannel
from fedhealth.site.supernode_folder import supernode_folder
from fedhealth.site.supernode_host import SuperNodeHost

SITE = "ward-a"


class DirectLink(SiteLink):
    """Asks the desk without a link between."""

    def __init__(self, services):
        self.services = services

    async def ask(self, service, body, timeout_seconds, longest_answer=CHUNK_BYTES):
        def give(chunks):
            for _ in range(chunks):
                incoming.feed(rest.pop(0))

        incoming = IncomingBody(len(body), give, MemoryPool())
        rest = [body[at : at + CHUNK_BYTES] for at in range(0, max(1, len(body)), CHUNK_BYTES)]
        give(1)
        async with asyncio.timeout(timeout_seconds):
            answer = await self.services[service].answer(incoming)
            return b"".join([bytes(chunk) async for chunk in answer.chunks])


class SuperNodeSite:
    """Everything of a site but its link.

    Args:
        state: the site's state; its gate runs already, or not.
        fab: what the SuperLink hands out instead of the release's bundle.
    """

    def __init__(self, state, logs, fab=None):
        self.state, self.logs = state, logs
        state.node.mkdir(exist_ok=True)
        self.folder = supernode_folder(state.node)
        key, certificate = loopback_certificate("test", datetime.now(UTC))
        pem = logs / "superlink-test.pem"
        pem.write_bytes(key + certificate)
        self.superlink = ScriptedSuperLink(pem, fab)
        self.active, self.said, self.processes = [], [], {}
        self.certificate = certificate
        self.ready, self.over = threading.Event(), None
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.thread.start()
        self.ready.wait(20)

    async def _serve(self):
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()

        async def register(site, _key):
            assert site == SITE

        self.desk = FleetDesk(self.superlink.address, self.certificate, register, self.active.append)
        listener = listen_on_loopback(0)
        self.node_port = listener.getsockname()[1]
        gate = GateChannel(self.state.socket)
        link = DirectLink(self.desk.services(SITE))
        host = SuperNodeHost(self.folder, listener, link, gate.answer, self.said.append)
        await host.start()
        host.connected()
        while not self.folder.certificate.exists():
            await asyncio.sleep(0.01)
        self.ready.set()
        await self.over.wait()
        await host.stop()
        gate.close()
        await self.desk.close()

    def start(self):
        """Start SuperNode and worker."""
        self.port = free_port()
        place = ["--state", str(self.state.root), "--port", str(self.port)]
        self._start("supernode", [*place, "--node-port", str(self.node_port)])
        self._start("worker", place)

    def _start(self, name, arguments):
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "fedhealth.cli.main", "site", name, *arguments, "--lifeline"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    def send(self, content, **more):
        """Send a message and say so, as the coordinator does."""
        name = self.superlink.send(content, **more)
        self.loop.call_soon_threadsafe(self.desk.mail, SITE)
        return name

    def ask(self, content, **more):
        """Send a message and return its reply."""
        name = self.send(content, **more)
        deadline = time.monotonic() + 60
        while name not in self.superlink.replies:
            assert time.monotonic() < deadline, self.log
            for process in self.processes.values():
                assert process.poll() is None, self.log
            time.sleep(0.01)
        return self.superlink.replies[name]

    @property
    def log(self):
        return "".join(path.read_text()[-2000:] for path in sorted(self.logs.glob("*.log")))

    def kill(self):
        """Kill SuperNode and worker."""
        for process in self.processes.values():
            process.kill()
            process.wait()
            process.stdin.close()
        self.processes.clear()

    def stop(self):
        self.kill()
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(20)
        self.superlink.close()
