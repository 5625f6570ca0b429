"""A site's certificates, renewed in time and with new keys, and the link that changes over to them.

At a third of a certificate's life the node makes a new key and asks `Renew` for the next one, showing its leaf or, when
that has ended, its renewal certificate. The link changes over while nothing is being answered: the new stream is up
before the old one goes. A question that crosses on the way is asked again by the coordinator, and costs nothing twice.

Invariants: the old certificate is replaced only by a new one that was checked against root, name and new key; a node
whose two certificates have both ended, or which cannot be let in any more, says which person must act.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from fedhealth.errors import IdentityInvalid, LinkUnavailable
from fedhealth.link.client import LinkState, SiteLink, run_link
from fedhealth.link.renewal import ask_renewal
from fedhealth.link.services import Service
from fedhealth.pki.certificates import key_pem, make_key, make_request
from fedhealth.pki.identity import TlsIdentity, check_identity, read_identity, store_identity
from fedhealth.pki.profiles import Role, profiles
from fedhealth.site.node_file import NodeFile

_LOG = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""How often the node looks whether a certificate is due."""
RETRY_SECONDS = 5.0
"""How soon it tries again what failed; times a random factor from 1 to 2, so that sites do not come all at once."""
CHANGE_OVER_SECONDS = 30.0
"""How long a new stream may take to come up, or the gate to finish what it answers, before the old one goes on."""


class Renewal:
    """Keeps a site's two certificates fresh.

    Args:
        folder: the node's part of the site's state; owned by this object's process.
        file: where the coordinator is.
        clock: gives the present, with time zone.
    """

    def __init__(self, folder: Path, file: NodeFile, clock: Callable[[], datetime]) -> None:
        self._folder, self._file, self._clock = folder, file, clock

    async def renew_due(self) -> None:
        """Renew what is due.

        Raises:
            LinkUnavailable: the coordinator does not answer, or says no.
            IdentityInvalid: both certificates have ended, or a file is damaged; a person must act.
        """
        for role in (Role.SITE, Role.RENEWAL):
            if self._is_due(role):
                await self._renew(role)

    def leaf(self) -> TlsIdentity | None:
        """Return what the link is to show now, None if it has ended."""
        identity = read_identity(self._folder, Role.SITE)
        try:
            check_identity(identity, self._file.federation, Role.SITE, self._clock())
        except IdentityInvalid:
            return None
        return identity

    def _is_due(self, role: Role) -> bool:
        leaf = read_identity(self._folder, role).leaf
        made = leaf.not_valid_before_utc + profiles().back_date
        return self._clock() >= min(made + profiles().of(role).renew_after, leaf.not_valid_after_utc)

    async def _renew(self, role: Role) -> None:
        shown = self.leaf() or self._renewal_certificate()
        key = make_key(profiles().of(role).key)
        request = make_request(key, self._file.federation, self._file.site)
        file = self._file
        chain = await ask_renewal(shown, file.coordinator, file.federation, role, request, file.proxy)
        fresh = TlsIdentity(chain, key_pem(key), shown.root_pem)
        if check_identity(fresh, self._file.federation, role, self._clock()) != self._file.site:
            raise LinkUnavailable("the coordinator sent another site's certificate", next_step="Ask its operator.")
        store_identity(self._folder, role, key, chain)

    def _renewal_certificate(self) -> TlsIdentity:
        identity = read_identity(self._folder, Role.RENEWAL)
        check_identity(identity, self._file.federation, Role.RENEWAL, self._clock())
        return identity


async def keep_linked(
    folder: Path,
    file: NodeFile,
    services: Mapping[str, Service],
    on_state: Callable[[str], None],
    is_idle: Callable[[], bool],
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    look_seconds: float = LOOK_SECONDS,
    link: SiteLink | None = None,
) -> None:
    """Keep a site's link up, and its certificates fresh, until cancelled.

    Args:
        folder: the node's part of the site's state.
        file: where the coordinator is.
        services: what may be asked, by name.
        on_state: told of every change of the link; must not block.
        is_idle: whether nothing is being answered now.
        clock: gives the present, with time zone.
        look_seconds: how often it looks whether a certificate is due.
        link: lets the site itself ask, whichever stream is up.

    Raises:
        IdentityInvalid: both certificates have ended, or a file is damaged; a person must act.
        ProtocolMismatch: this site is older than the coordinator and must be upgraded first.
    """
    renewal, said = Renewal(folder, file, clock), ""
    link_now = _Link(file, services, on_state, clock, link or SiteLink())
    try:
        while True:
            wait = look_seconds
            try:
                await renewal.renew_due()
                said = ""
            except LinkUnavailable as error:
                if str(error) != said:
                    _LOG.warning("%(error)s", {"error": error})
                said, wait = str(error), min(wait, RETRY_SECONDS * secrets.SystemRandom().uniform(1.0, 2.0))
            identity = renewal.leaf()
            if (
                identity is not None
                and identity != link_now.identity
                and not await link_now.change_over(identity, is_idle)
            ):
                wait = min(wait, RETRY_SECONDS)
            await link_now.wait(wait)
    finally:
        await link_now.stop()


class _Link:
    """One site's link; while it changes over, two streams for a moment."""

    def __init__(
        self,
        file: NodeFile,
        services: Mapping[str, Service],
        on_state: Callable[[str], None],
        clock: Callable[[], datetime],
        link: SiteLink,
    ) -> None:
        self.identity: TlsIdentity | None = None
        self._link = link
        self._file, self._services, self._on_state, self._clock = file, services, on_state, clock
        self._task: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._connected: set[asyncio.Task[None]] = set()

    async def change_over(self, identity: TlsIdentity, is_idle: Callable[[], bool]) -> bool:
        """Show this from now on; say whether that was possible. The old stream ends when the new one is up."""
        if self._task is None or self._task not in self._connected:
            await self.stop()  # what is not up has nothing to hand over, and must not come up beside the new one
            self._task, self.identity = self._start(identity, lambda: None), identity
            return True
        try:
            async with asyncio.timeout(CHANGE_OVER_SECONDS):
                while not is_idle():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            return False
        up = asyncio.Event()
        self._leaving, old = self._task, self._task
        new = self._start(identity, up.set)
        raising = asyncio.create_task(up.wait())
        try:
            await asyncio.wait({new, raising, old}, timeout=CHANGE_OVER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not up.is_set() and not old.done():
                await _ended(new)
                return False
            await asyncio.wait({old}, timeout=1.0)  # the coordinator ends it as soon as it has the new one
            await _ended(old)  # while it counts as leaving: what it says at its end is no disturbance
        except asyncio.CancelledError:
            await _ended(new)
            raise
        finally:
            raising.cancel()
            self._leaving = None
        self._task, self.identity = new, identity
        return True

    async def wait(self, seconds: float) -> None:
        """Wait, and no longer than the link lasts.

        Raises:
            ProtocolMismatch: this site must be upgraded first.
        """
        if self._task is None:
            await asyncio.sleep(seconds)
            return
        await asyncio.wait({self._task}, timeout=seconds)
        if self._task.done():
            task, self._task, self.identity = self._task, None, None
            try:
                task.result()
            except IdentityInvalid as error:
                _LOG.warning("%(error)s", {"error": error})  # it has ended; the renewal certificate may help

    async def stop(self) -> None:
        """Leave nothing running."""
        if self._task is not None:
            await _ended(self._task)

    def _start(self, identity: TlsIdentity, on_up: Callable[[], None]) -> asyncio.Task[None]:
        def told(state: str) -> None:
            if state == LinkState.CONNECTED:
                self._connected.add(task)
                on_up()
            else:
                self._connected.discard(task)
            if task is self._leaving:
                if state != LinkState.CONNECTED:
                    task.cancel()  # it ended, however it says so: connecting again, it would end the new stream
                return
            self._on_state(state)

        file = self._file
        task: asyncio.Task[None] = asyncio.create_task(
            run_link(
                *(identity, file.coordinator, file.federation, self._services, told),
                clock=self._clock,
                link=self._link,
                proxy=file.proxy,
            )
        )
        task.add_done_callback(self._connected.discard)
        return task


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
