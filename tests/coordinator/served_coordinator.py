"""A coordinator that serves, in a thread of this process, with its own home, store and sockets; and its sites."""

import asyncio
import contextlib
import threading
import time
from datetime import UTC, datetime

from study_scene import RESEARCHER, Link, Points, Scene, patch, study_of

from fedhealth.coordinator.daemon import Daemon
from fedhealth.coordinator.home import CoordinatorHome, admit_site, init_coordinator, install_chain
from fedhealth.coordinator.research_client import list_studies
from fedhealth.coordinator.research_frames import SOCKET_FILE
from fedhealth.coordinator.service import Coordinator, Ports
from fedhealth.pki.certificates import make_key
from fedhealth.pki.root import create_root
from fedhealth.study.signature import sign_study

STUDY = study_of()
SIGNED = sign_study(STUDY, RESEARCHER)


class ServedCoordinator:
    """A federation whose coordinator can be started, stopped and killed.

    Args:
        folder: an empty one with a short path.
        study: the sites are made with its data set; nobody has approved it yet.
    """

    def __init__(self, folder, study, names=("ward-a", "ward-b")):
        now, self.home = datetime.now(UTC), CoordinatorHome(folder / "home")
        root = create_root(folder / "root", "demo", None, now)
        _, request = init_coordinator(self.home, "demo", "127.0.0.1:7443", "127.0.0.1:7444")
        install_chain(self.home, root.certify_issuer(request.read_bytes(), now), root.pem, now)
        (folder / "sites").mkdir()
        self.scene = Scene(folder / "sites", study, names, key=self.home.witness_key())
        for name, site in self.scene.sites.items():
            keys = [make_key("P-256").public_key() for _ in range(2)]
            admit_site(self.home, name, *keys, site.ledger.created.ledger_key, now)
            site.ledger.account.approved.clear()
        self.socket, self.events, self._thread = self.home.root / SOCKET_FILE, [], None

    def start(self, points=None, group=None):
        """Serve, and return once researchers can ask."""
        self.points, self.failure = points or Points(), None
        ready = threading.Event()
        self._thread = threading.Thread(target=self._live, args=(ready, group), daemon=True)
        self._thread.start()
        ready.wait(30)
        if self.failure is not None:
            raise self.failure

    def _live(self, ready, group):
        async def live():
            self._loop, self._work = asyncio.get_running_loop(), asyncio.current_task()

            def heard(event):
                self.events.append(event)
                if event["event"] == "listening":
                    ready.set()

            daemon = Daemon(self.home, None, True, group, heard)
            daemon.coordinator.link = Link(self.scene.sites)
            await daemon.serve(Ports("127.0.0.1:0"))

        with contextlib.ExitStack() as stack:
            patch(stack, self.points)
            from fedhealth.coordinator import daemon

            before = daemon._ASK_SECONDS
            daemon._ASK_SECONDS = 0.05
            stack.callback(setattr, daemon, "_ASK_SECONDS", before)
            try:
                asyncio.run(live())
            except asyncio.CancelledError:
                pass
            except Exception as error:
                self.failure = error
            finally:
                ready.set()

    def stop(self):
        """End serving, as a signal does."""
        if self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._work.cancel)
            self._thread.join(20)

    def close(self):
        self.stop()
        self.scene.close()

    def wait_for(self, study, *states):
        """Wait until a study is in one of these states, and return what the coordinator says of it."""
        deadline = time.monotonic() + 90
        while True:
            found = next(each for each in list_studies(self.socket) if each.study == study.digest)
            if found.state in states:
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def approve(self, signed, *names):
        for name in names or self.scene.sites:
            self.scene.sites[name].approve(signed)


class open_home:  # noqa: N801 - reads as the function that it is used as
    """Open a coordinator's home without serving."""

    def __init__(self, served):
        self.coordinator = Coordinator(served.home, None, True, lambda _: None)

    def __enter__(self):
        return self.coordinator

    def __exit__(self, *_):
        self.coordinator.studies.close()
        self.coordinator._held.close()
