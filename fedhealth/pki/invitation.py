"""The one string with which a site joins: where, which federation, which root, who, and a token that is good once.

`fedhealth-1/FEDERATION/SITE/HOST:PORT/SECRET`, where SECRET is base64url of: end (`u32`, seconds since 1970), SHA-256
of the root certificate, token (16 bytes), and the first 6 bytes of the SHA-256 of everything before.

Invariants: what `format_invitation` wrote is the only text that `parse_invitation` reads as that invitation; the
checksum finds what a person mistyped, it protects against nothing else. Whoever has the string can join as that site
until it ends: it is handed over like a password.

Leaves to others: whether the token is good (the coordinator knows its hash only).
"""

import base64
import hashlib
import re
import secrets
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.names import check_name

LONGEST_LIFETIME = timedelta(hours=1)
TOKEN_BYTES = 16
MAX_INVITATION_CHARACTERS = 600

_VERSION = 1
_SECRET = struct.Struct(f">I32s{TOKEN_BYTES}s")
_CHECK_BYTES = 6
_FORM = re.compile(
    r"fedhealth-(?P<version>[0-9]{1,3})/(?P<federation>[a-z0-9-]{1,63})/(?P<site>[a-z0-9-]{1,63})"
    r"/(?P<address>[A-Za-z0-9.-]{1,253}:[0-9]{1,5})/(?P<secret>[A-Za-z0-9_-]{1,200})"
)


class InvitationInvalid(IdentityInvalid):
    """The invitation cannot be used: mistyped, ended, used, or for another site; ask for a new one."""


@dataclass(frozen=True)
class Invitation:
    """What an invitation says.

    Attributes:
        federation: name of the federation.
        site: id of the site that is invited.
        address: host and port that it joins at.
        root_sha256: fingerprint of the root's certificate, 32 bytes.
        token: 16 random bytes.
        ends: when it stops being good; whole seconds, UTC.
    """

    federation: str
    site: str
    address: str
    root_sha256: bytes
    token: bytes = field(repr=False)
    ends: datetime

    def check_time(self, now: datetime) -> None:
        """Refuse an invitation that is over.

        Raises:
            InvitationInvalid: by this machine's clock it ended, or ends later than any invitation could.
        """
        if now >= self.ends:
            raise InvitationInvalid(
                f"the invitation of site '{self.site}' ended at {self.ends:%Y-%m-%d %H:%M:%S} UTC",
                got=f"the present, {now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
                next_step="Ask the coordinator's operator for a new one, or correct this machine's clock.",
            )
        if self.ends > now + LONGEST_LIFETIME + timedelta(minutes=5):
            raise InvitationInvalid(
                f"the invitation of site '{self.site}' seems to come from the future",
                got=f"the present, {now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
                wanted=f"a time at most {LONGEST_LIFETIME} before {self.ends:%Y-%m-%d %H:%M:%S} UTC",
                next_step="Correct this machine's clock.",
            )


def new_token() -> bytes:
    """Return 16 bytes from the operating system's randomness."""
    return secrets.token_bytes(TOKEN_BYTES)


def token_hash(token: bytes) -> str:
    """Return all that the coordinator keeps of a token, as 64 hexadecimal digits.

    A plain hash is enough: there is nothing to guess in 128 random bits.
    """
    return hashlib.sha256(b"fedhealth/invitation-token\0" + token).hexdigest()


def format_invitation(invitation: Invitation) -> str:
    """Return the string for a person to carry.

    Raises:
        IdentityInvalid: a name that no certificate can carry.
    """
    check_name(invitation.federation)
    check_name(invitation.site)
    head = f"fedhealth-{_VERSION}/{invitation.federation}/{invitation.site}/{invitation.address}/"
    body = _SECRET.pack(int(invitation.ends.timestamp()), invitation.root_sha256, invitation.token)
    return head + base64.urlsafe_b64encode(body + _check(head, body)).rstrip(b"=").decode()


def parse_invitation(text: str) -> Invitation:
    """Return what an invitation says.

    Args:
        text: what a person typed or pasted; white space around it is ignored.

    Raises:
        InvitationInvalid: it is not one, of another version, or mistyped.
    """
    text = text.strip()
    found = _FORM.fullmatch(text) if len(text) <= MAX_INVITATION_CHARACTERS else None
    if found is None:
        raise _mistyped("no text of the form fedhealth-1/FEDERATION/SITE/HOST:PORT/SECRET")
    if int(found["version"]) != _VERSION:
        older = int(found["version"]) > _VERSION
        raise InvitationInvalid(
            "the invitation comes from another version of FedHealth",
            got=f"version {int(found['version'])}",
            wanted=f"version {_VERSION}",
            next_step="Upgrade this site first." if older else "Ask the coordinator's operator to upgrade first.",
        )
    secret = found["secret"]
    try:
        body = base64.b64decode(secret + "=" * (-len(secret) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _mistyped("a last part that cannot be read") from None
    head, body, check = text[: -len(secret)], body[: _SECRET.size], body[_SECRET.size :]
    if len(body) != _SECRET.size or check != _check(head, body):
        raise _mistyped("a checksum that does not fit")
    ends, root, token = _SECRET.unpack(body)
    end = datetime.fromtimestamp(ends, UTC)
    invitation = Invitation(found["federation"], found["site"], found["address"], root, token, end)
    if int(found["address"].rpartition(":")[2]) > 65535 or format_invitation(invitation) != text:
        raise _mistyped("another spelling of it")
    return invitation


def _check(head: str, body: bytes) -> bytes:
    return hashlib.sha256(head.encode() + body).digest()[:_CHECK_BYTES]


def _mistyped(got: str) -> InvitationInvalid:
    return InvitationInvalid(
        "the invitation was mistyped or cut",
        got=got,
        wanted="the whole line that `fedhealth coordinator invite` printed",
        next_step="Copy it again.",
    )
