"""What a coordinator shows to the world: the link, and while somebody is invited the port at which sites join.

Invariants: the enrolment port is open only while an invitation is; whatever goes wrong there leaves the link alone.

Leaves to others: what is asked over the link (`service`), and who may join (`enrolling`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from fedhealth.coordinator.enrolling import EnrolmentDesk
from fedhealth.coordinator.home import CoordinatorHome
from fedhealth.coordinator.invitations import Invitations
from fedhealth.errors import FedHealthError
from fedhealth.link.enrolment_port import EnrolmentPort
from fedhealth.link.server import LinkServer
from fedhealth.pki.identity import IDENTITY_FILE
from fedhealth.pki.profiles import Role

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5
"""How often it looks whether somebody was invited."""


class Border:
    """The coordinator's two ports; all methods belong to one event loop.

    Args:
        home: the coordinator's state.
        on_change: told of every site that connects or disconnects.
    """

    def __init__(self, home: CoordinatorHome, on_change: Callable[[str, bool], None] | None = None) -> None:
        self._home = home
        identity = home.identity(datetime.now(UTC))
        self.link = LinkServer(identity, home.federation(), home.members().check, on_change)
        self._enrolment = EnrolmentPort(home.tls / IDENTITY_FILE[Role.COORDINATOR], EnrolmentDesk(home).answer)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, address: str, enrolment: str | None = None) -> int:
        """Listen, and return the link's port.

        Args:
            address: `host:port` of the link; port 0 takes a free one.
            enrolment: `host:port` that sites join at; None to let nobody join.

        Raises:
            LinkUnavailable: the port is in use, or the address is not this machine's.
        """
        port = await self.link.start(address)
        if enrolment is not None:
            self._tasks.append(asyncio.create_task(self._open_while_invited(enrolment)))
        return port

    async def stop(self) -> None:
        """Close both ports and every stream."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._enrolment.stop()
        await self.link.stop()

    async def _open_while_invited(self, address: str) -> None:
        invitations, said = Invitations(self._home.invitations), False
        while True:
            try:
                wanted = invitations.any_open(datetime.now(UTC))
                if wanted and not self._enrolment.is_open:
                    self._home.identity(datetime.now(UTC))
                    await self._enrolment.start(address)
                elif not wanted and self._enrolment.is_open:
                    await self._enrolment.stop()
                said = False
            except (FedHealthError, OSError) as error:
                if not said:
                    _LOG.error("nobody can join: %(error)s", {"error": error})
                said = True
                with contextlib.suppress(OSError):
                    await self._enrolment.stop()
            await asyncio.sleep(_LOOK_SECONDS)
