"""A site's SuperNode and worker as real, confined processes, between a real gate and a SuperLink of the tests' own.

They are kept running as `site start` does it. The node's side of them and the coordinator's desk run in this process,
in a thread; between them, in place of the link, a function.
"""

import asyncio
import contextlib
import threading
import time
from datetime import UTC, datetime

import psutil
from scripted_superlink import NODE, ScriptedSuperLink

from fedhealth.coordinator.fleet_desk import FleetDesk
from fedhealth.link.bodies import IncomingBody
from fedhealth.link.client import SiteLink
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.link.memory import CHUNK_BYTES, MemoryPool
from fedhealth.pki.loopback import loopback_certificate
from fedhealth.processes import Processes
from fedhealth.site.loopback_port import listen_on_loopback
from fedhealth.site.node import GateChannel
from fedhealth.site.supernode_children import SuperNodeChildren
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
        self.active, self.whole, self.lost, self.said, self.told = [], [], [], [], []
        self.owner = Processes(logs)
        self.children = SuperNodeChildren(self.owner, state.root.absolute(), None, self.told.append)
        self.node_port = int(self.children.node_arguments()[-1])
        self.certificate = certificate
        self.ready, self.over = threading.Event(), None
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.thread.start()
        self.ready.wait(20)

    async def _serve(self):
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()

        async def register(site, _key):
            assert site == SITE
            return NODE

        self.desk = FleetDesk(
            self.superlink.address,
            self.certificate,
            register,
            self.active.append,
            self.whole.append,
            self.lost.append,
        )
        listener = listen_on_loopback(self.node_port)
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

    @property
    def processes(self):
        """The running SuperNode and worker, by verb."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if str(self.state.root.absolute()) in words and process.status() != psutil.STATUS_ZOMBIE:
                    found[words[words.index("site") + 1]] = process
        return {verb: process for verb, process in found.items() if verb in ("supernode", "worker")}

    def wait_for(self, condition, seconds=60.0):
        """Keep SuperNode and worker running until something is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.told, self.log)
            self.children.look()
            time.sleep(0.01)

    def send(self, content, **more):
        """Send a message and say so, as the coordinator does."""
        name = self.superlink.send(content, **more)
        self.loop.call_soon_threadsafe(self.desk.mail, SITE, name, MAX_FRAME_BYTES)
        return name

    def ask(self, content, **more):
        """Send a message and return its reply."""
        name = self.send(content, **more)
        self.wait_for(lambda: name in self.superlink.replies)
        return self.superlink.replies[name]

    @property
    def log(self):
        return "".join(path.read_text()[-2000:] for path in sorted(self.logs.glob("*.log")))

    def stop(self):
        """End everything."""
        self.children.stop()
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(20)
        self.superlink.close()
