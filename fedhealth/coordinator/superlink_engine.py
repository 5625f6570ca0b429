"""`engine = "superlink"` at the coordinator: a stock Flower deployment that carries the frames of a study's run.

Only the way of the frames differs from `engine = "link"`: who asks, countersigns, combines and publishes is the same
code, so the same frames cross. A site's SuperNode reaches the SuperLink through the site's link and nothing else.

Leaves to others: the SuperLink (`superlink_processes`), runs on it (`superlink_run`), requests of SuperNodes
(`fleet_desk`).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedhealth.coordinator.fleet_desk import FleetDesk
from fedhealth.coordinator.node_keys import NodeKeys, node_key
from fedhealth.coordinator.superlink_processes import SuperLinkProcesses
from fedhealth.coordinator.superlink_run import SuperLinkRun
from fedhealth.errors import FederationFailed
from fedhealth.link.memory import Buffer
from fedhealth.link.services import Service, away
from fedhealth.unix_socket import SocketFolder

_LOG = logging.getLogger(__name__)

JOIN_SECONDS = 20.0
"""How long after its link a site's SuperNode may take to join before an operator is told."""


class SuperLinkEngine:
    """The SuperLink of a coordinator; all methods belong to one event loop.

    Args:
        folder: of the coordinator's home; made if it must be.
        on_event: told what an operator should know, as JSON-ready mappings.
    """

    def __init__(self, folder: Path, on_event: Callable[[Mapping[str, Any]], None]) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._on_event = on_event
        self._sockets = SocketFolder("fedhealth-frames-")  # a home's path may be too long for a socket
        socket = self._sockets.path / "frames.sock"
        self.processes = SuperLinkProcesses(folder, socket)
        self._run = SuperLinkRun(socket, self.processes.control, self._sent)
        self._keys = NodeKeys(folder / "nodes")
        self._desk: FleetDesk | None = None
        self._nodes: dict[str, int] = {}
        self._linked: dict[str, asyncio.TimerHandle] = {}
        self._joined = set[str]()
        self._registering = asyncio.Lock()

    async def start(self) -> None:
        """Start the SuperLink, and register every key that was registered before.

        Raises:
            FedHealthError: it cannot be started.
        """
        await self._run.start()
        await self.processes.start()
        self._desk = FleetDesk(
            self.processes.address,
            self.processes.certificate,
            self.register,
            lambda site: self.lose(site, "a SuperNode that began anew"),
            self._run.look,
            self._run.drop,
        )
        for site, key in self._keys.all().items():
            try:
                self._nodes[site] = await asyncio.to_thread(self._registered, site, key)
            except FederationFailed as error:  # one site's key stops nobody else; it is told when it joins
                _LOG.error("site '%(site)s': its key is not registered: %(error)s", {"site": site, "error": error})

    async def stop(self) -> None:
        """End the run and the SuperLink."""
        for timer in self._linked.values():
            timer.cancel()
        await self._run.stop()
        if self._desk is not None:
            await self._desk.close()
        await self.processes.stop()
        self._sockets.close()

    async def register(self, site: str, public_key: bytes) -> int:
        """Let a site's SuperNode use the SuperLink, again as often as it asks, and return Flower's id of it.

        Args:
            site: as its certificate has proven.
            public_key: P-384, in OpenSSH's format.

        Raises:
            FederationFailed: the key is another site's, or none, or the SuperLink does not take it.
        """
        key = node_key(site, public_key)
        async with self._registering:
            self._keys.check(site, key)
            self._nodes[site] = await asyncio.to_thread(self._registered, site, key)
            self._keys.keep(site, key)
            if site in self._linked:
                self._joined.add(site)
            return self._nodes[site]

    async def carry(self, site: str, frame: bytes, seconds: float, longest: int) -> Buffer:
        """Carry a frame to a site's gate and return its reply; a run begins if there is none.

        Raises:
            PeerAway: there is no reply; nobody knows whether the gate had the frame.
        """
        if site not in self._joined:
            raise away(f"site '{site}'", "a link without a SuperNode" if site in self._linked else "no connection")
        self._run.begin()
        return await self._run.carry(site, self._nodes[site], frame, seconds, longest)

    def linked(self, site: str, connected: bool) -> None:
        """Take note that a site's link is up or down."""
        if (timer := self._linked.pop(site, None)) is not None:
            timer.cancel()
        self._joined.discard(site)  # its node says so again for each link
        if connected:
            loop = asyncio.get_running_loop()
            self._linked[site] = loop.call_later(JOIN_SECONDS, self._look_for_node, site)
        else:
            self.lose(site, "a link that ended")

    def _look_for_node(self, site: str) -> None:
        if site not in self._joined:
            _LOG.warning("site '%(site)s' has a link and no SuperNode: is its engine 'superlink'?", {"site": site})
            self._on_event({"event": "no-supernode", "site": site})

    async def end_run(self) -> None:
        """End the run, if there is one: the study's is over."""
        await self._run.end()

    def lose(self, site: str, got: str) -> None:
        """Fail what is under way for a site whose link or SuperNode began anew: it has forgotten what it was asked."""
        self._run.lose(site, got)

    def services(self, site: str) -> Mapping[str, Service]:
        """Return what a site may ask for its SuperNode."""
        return {} if self._desk is None else self._desk.services(site)

    def _sent(self, site: str, message: str, longest: int) -> None:
        if self._desk is not None:
            self._desk.mail(site, message, longest)

    def _registered(self, site: str, key: bytes) -> int:
        """Return the node of a site's key; the SuperLink is told if it does not know it, and forgets a former one."""
        control = self.processes.control()
        try:
            known = control.nodes()
            former = self._keys.all().get(site)
            node = known.get(key) or control.register(key, site)  # first: a key that is refused takes none away
            if former is not None and former != key and former in known:
                control.unregister(known[former])
            return node
        finally:
            control.close()
