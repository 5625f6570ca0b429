"""What a coordinator shows to the world: the link, and while somebody is invited the port at which sites join.

Invariants: the enrolment port is open only while an invitation is; whatever goes wrong there leaves the link alone. A
site that was revoked, by whatever process, loses its stream within `_RECHECK_SECONDS` and gets no other.

Leaves to others: what is asked over the link (`service`), and who may join (`enrolling`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.x509 import Certificate

from fedhealth.coordinator.enrolling import EnrolmentDesk
from fedhealth.coordinator.home import CoordinatorHome, renew_site
from fedhealth.coordinator.invitations import Invitations
from fedhealth.errors import FedHealthError
from fedhealth.link.enrolment_port import EnrolmentPort
from fedhealth.link.quota import QUOTA_OF_SITE, Quota
from fedhealth.link.server import LinkServer, ServicesFor
from fedhealth.pki.identity import IDENTITY_FILE
from fedhealth.pki.profiles import Role

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5
"""How often it looks whether somebody was invited."""
_RECHECK_SECONDS = 0.02
"""How often it looks whether a site that is connected was revoked: a `stat` of one file each."""
_RENEW_SECONDS = 60.0
"""How often it looks whether its own certificate is due."""


class Border:
    """The coordinator's two ports; all methods belong to one event loop.

    Args:
        home: the coordinator's state.
        on_change: told of every site that connects or disconnects.
        services_for: what each site may ask, beside new certificates.
        quota: how much of it.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        on_change: Callable[[str, bool], None] | None = None,
        services_for: ServicesFor = lambda _site: {},
        quota: Quota = QUOTA_OF_SITE,
    ) -> None:
        self._home = home
        identity = home.identity(datetime.now(UTC))
        self.link = LinkServer(
            identity, home.federation(), home.members().check, on_change, services_for, self._certify, quota
        )
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
        self._tasks += [asyncio.create_task(self._renew_own()), asyncio.create_task(self._recheck())]
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

    def _certify(self, site: str, role: Role, request_pem: bytes, shown: Certificate) -> bytes:
        return renew_site(self._home, site, role, request_pem, shown, datetime.now(UTC))

    async def _recheck(self) -> None:
        while True:
            self.link.recheck()
            await asyncio.sleep(_RECHECK_SECONDS)

    async def _renew_own(self) -> None:
        """Show a new certificate of the coordinator's own in time; a failure is tried again, and said."""
        warned = False
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            try:
                if not warned and self._home.open_authority().ends_soon(datetime.now(UTC)):
                    warned = True
                    _LOG.warning("the issuing authority ends soon: fedhealth coordinator request-authority --help")
                self.link.show(self._home.identity(datetime.now(UTC)))
                self._enrolment.show_again()
            except (FedHealthError, OSError) as error:
                _LOG.error("the coordinator's certificate is not renewed: %(error)s", {"error": error})

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
