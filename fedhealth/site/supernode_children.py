"""A stock SuperNode and its worker, as children of `site start` beside gate and node: started and ended together.

What a SuperNode was told and has not answered is in its memory alone. So when it or its worker ends, both begin anew:
the coordinator sees a SuperNode begin, asks again, and the gate answers the same question with the same bytes.
"""

import time
from collections.abc import Callable
from pathlib import Path

from fedhealth.processes import Child, Processes, RunAs
from fedhealth.site.loopback_port import free_port
from fedhealth.site.restart_waits import RestartWaits
from fedhealth.site.supernode_folder import supernode_folder


class SuperNodeChildren:
    """Keeps the two running while a node stands ready for them.

    Args:
        processes: owns them.
        state: the site's state folder, absolute.
        run_as: the node's user; None for this process's own.
        say: told what happens, a line at a time.
        prefix: of their names, where there are several sites.
    """

    def __init__(
        self, processes: Processes, state: Path, run_as: RunAs | None, say: Callable[[str], None], prefix: str = ""
    ) -> None:
        self._processes, self._state, self._run_as, self._say = processes, state, run_as, say
        self._prefix = prefix
        self._certificate = supernode_folder(state / "node").certificate
        self._running: list[Child] = []
        self._waits, self._due = RestartWaits(), time.monotonic()
        self._node_port = 0

    def node_arguments(self) -> list[str]:
        """Return what the node is told that is about to start; a SuperNode of the node before is ended."""
        self.stop()
        self._node_port = free_port()
        return ["--engine", "superlink", "--supernode-port", str(self._node_port)]

    def look(self) -> None:
        """Start what should run and does not; call it again and again while a node runs."""
        ended = [child for child in self._running if child.process.poll() is not None]
        if ended:
            wait = self._waits.after(time.monotonic() - self._due)
            self._say(
                f"{ended[0].name}: ended with {ended[0].end()}; SuperNode and worker begin anew in {wait:g} seconds"
            )
            self.stop()
            self._due = time.monotonic() + wait
        if not self._running and time.monotonic() >= self._due and self._may_begin():
            self._due = time.monotonic()
            port, place = str(free_port()), ["--state", str(self._state)]
            between = ["--node-port", str(self._node_port)]
            self._start("supernode", ["site", "supernode", *place, *between, "--port", port])
            self._start("worker", ["site", "worker", *place, "--port", port])
            self._say("supernode: started with its worker; the coordinator has its key")

    def stop(self) -> None:
        """End both at once; what they had in memory is asked again."""
        for child in self._running:
            child.process.kill()
            child.process.wait()
            self._processes.forget(child)
        self._running.clear()

    def _start(self, name: str, arguments: list[str]) -> None:
        self._running.append(self._processes.start(self._prefix + name, arguments, run_as=self._run_as))

    def _may_begin(self) -> bool:
        try:
            return self._certificate.exists()
        except OSError:
            return False
