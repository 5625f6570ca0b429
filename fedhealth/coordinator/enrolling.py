"""The coordinator's side of an enrolment: what it answers to a site that wants to join.

Invariants: nothing is certified before the token, the ledger key's signature and both requests' signatures held; a
stranger learns one code, whatever was wrong; the log says which of a closed list of reasons it was.
"""

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from fedhealth.canonical import canonical_bytes
from fedhealth.coordinator.home import CoordinatorHome, admit_site
from fedhealth.coordinator.invitations import Invitations, JoinRefused, Turned
from fedhealth.errors import FedHealthError, IdentityInvalid
from fedhealth.link.enrolment import (
    Answer,
    Ask,
    AskRoot,
    AskTerms,
    Join,
    Joined,
    Root,
    Terms,
    TurnedAway,
    certify_ledger_key,
)
from fedhealth.pki.certificates import fingerprint_of, requested_key
from fedhealth.pki.invitation import LONGEST_LIFETIME, Invitation, format_invitation
from fedhealth.pki.profiles import profiles
from fedhealth.signing import public_key_hex

_LOG = logging.getLogger(__name__)


def invite_site(home: CoordinatorHome, site: str, now: datetime, lifetime: timedelta = LONGEST_LIFETIME) -> str:
    """Invite a site, and return the string to hand over; an earlier invitation of it ends.

    Args:
        home: the coordinator's state; a coordinator that runs notices.
        site: the site's id.
        now: the present, with time zone.
        lifetime: at most an hour.

    Raises:
        IdentityInvalid: the name has another form, or there is no authority yet.
        ConfigInvalid: the lifetime does not fit.
    """
    file, root = home.file(), home.open_authority().root
    token, ends = Invitations(home.invitations).invite(site, now, lifetime)
    fingerprint = bytes.fromhex(fingerprint_of(root))
    return format_invitation(Invitation(file.federation, site, file.enrolment, fingerprint, token, ends))


class EnrolmentDesk:
    """Answers the questions of sites that join.

    Args:
        home: the coordinator's state.
        clock: gives the present, with time zone.
    """

    def __init__(self, home: CoordinatorHome, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._home, self._clock = home, clock
        self._invitations = Invitations(home.invitations)

    def answer(self, question: Ask) -> Answer:
        """Return what a site that asks is told."""
        try:
            if isinstance(question, AskRoot):
                return Root(pem=self._home.open_authority().root_pem.decode())
            if isinstance(question, AskTerms):
                witness = public_key_hex(self._home.witness_key().public_key())
                now = int(self._clock().timestamp())
                return Terms(federation=self._home.federation(), witness_key=witness, now=now)
            return self._join(question)
        except JoinRefused as refusal:
            _LOG.warning("a site that wants to join was turned away: %(code)s", {"code": refusal.why})
        except FedHealthError as error:
            _LOG.error("a site could not join: %(error)s", {"error": error})
        return TurnedAway(code="refused")

    def _join(self, join: Join) -> Joined:
        try:
            join.check_signature()
            profile = profiles()
            tls = requested_key(join.tls_request.encode(), profile.site.key)
            renewal = requested_key(join.renewal_request.encode(), profile.renewal.key)
            if tls == renewal:
                raise JoinRefused(Turned.BAD_REQUEST)
        except JoinRefused:
            raise
        except IdentityInvalid as error:
            raise JoinRefused(Turned.BAD_REQUEST) from error
        home, now = self._home, self._clock()
        federation = home.federation()

        def admit() -> Joined:
            member = home.members().find(join.site)
            if member is not None and member.ledger_key != join.ledger_key:
                raise JoinRefused(Turned.OTHER_LEDGER)
            leaf, chain = admit_site(home, join.site, tls, renewal, join.ledger_key, now)
            at = int(now.timestamp())
            certificate = certify_ledger_key(federation, join.site, join.ledger_key, at, home.witness_key())
            _LOG.info("site '%(site)s' joined", {"site": join.site})
            return Joined(
                tls_chain=leaf.decode(), renewal_chain=chain.decode(), ledger=certificate, link=home.file().link
            )

        request = hashlib.sha256(canonical_bytes(join)).hexdigest()
        return self._invitations.redeem(join, request, now, admit)
