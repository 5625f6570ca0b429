"""The messages with which a site joins: both ends live by this file.

A site asks, in this order, each on a connection of its own: `AskRoot` (what it gets back counts only if its hash is
the invitation's), `AskTerms` and `Join` (both over TLS that ends at the coordinator, by that root). A message is a
four-byte length and that many bytes of canonical JSON, at most 32 KiB, so that a stranger can take little memory.

Invariants: the token is sent only where the root's fingerprint held; a `Join` is signed by the site's ledger key over
all that it asks for, and each certificate request by its own key; a refusal is a code and nothing more.
"""

import struct
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import FedHealthError
from fedhealth.privacy.checkpoint import Signature
from fedhealth.privacy.release import Digest
from fedhealth.signing import load_public_key, public_key_hex, sign, verify

ENROLMENT_VERSION = 1
MAX_MESSAGE_BYTES = 32 * 1024
LEDGER_CERTIFICATE_FILE = "ledger.certificate.json"
"""Where a site keeps its `LedgerCertificate`, beside its ledger."""

Name = Annotated[str, StringConstraints(max_length=63)]
Pem = Annotated[str, StringConstraints(max_length=12 * 1024)]
Token = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Seconds = Annotated[int, Field(ge=0, le=2**53 - 1)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Ask(_Message):
    version: Annotated[int, Field(ge=1, le=2**31)] = ENROLMENT_VERSION


class AskRoot(_Ask):
    """Which root is it?"""

    kind: Literal["root"] = "root"


class AskTerms(_Ask):
    """What does a site pin before it joins?"""

    kind: Literal["terms"] = "terms"


class Join(_Ask):
    """Let me in.

    Attributes:
        site: the site's id.
        token: of the invitation, hexadecimal.
        tls_request: signing request of the key of its link, PEM.
        renewal_request: signing request of the key of its renewal certificate, PEM.
        ledger_key: raw Ed25519 public key of its ledger, hexadecimal.
        signature: of the ledger key over all of the above, in the domain "join".
    """

    kind: Literal["join"] = "join"
    site: Name
    token: Token
    tls_request: Pem
    renewal_request: Pem
    ledger_key: Digest
    signature: Signature

    def statement(self) -> bytes:
        """Return the bytes that the ledger key signs."""
        return canonical_bytes(self.model_dump(mode="json", exclude={"signature"}))

    def check_signature(self) -> None:
        """Refuse a ledger key whose private half did not sign this.

        Raises:
            IdentityInvalid: it did not, or it is no key.
        """
        verify(load_public_key(self.ledger_key), "join", self.statement(), bytes.fromhex(self.signature))


class Root(_Message):
    """The root's certificate."""

    kind: Literal["root"] = "root"
    pem: Pem


class Terms(_Message):
    """What a site pins before it joins.

    Attributes:
        federation: the federation's name.
        witness_key: raw Ed25519 public key that countersigns ledgers, hexadecimal.
        now: the coordinator's clock, in seconds since 1970, so that a wrong clock is told from a wrong certificate.
    """

    kind: Literal["terms"] = "terms"
    federation: Name
    witness_key: Digest
    now: Seconds


class LedgerCertificate(_Message):
    """The coordinator's word for whose a ledger key is: what an auditor compares a ledger's key with.

    Attributes:
        federation: the federation's name.
        site: the site's id.
        ledger_key: raw Ed25519 public key, hexadecimal.
        at: when the site joined, in seconds since 1970.
        signature: of the witness key over all of the above, in the domain "ledger-key".
    """

    federation: Name
    site: Name
    ledger_key: Digest
    at: Seconds
    signature: Signature

    def check(self, witness_key: str) -> None:
        """Refuse a certificate that the witness did not sign.

        Raises:
            IdentityInvalid: it did not.
        """
        statement = canonical_bytes(self.model_dump(mode="json", exclude={"signature"}))
        verify(load_public_key(witness_key), "ledger-key", statement, bytes.fromhex(self.signature))


class Joined(_Message):
    """Welcome.

    Attributes:
        tls_chain: the leaf of the link and its issuer's certificate, PEM.
        renewal_chain: the renewal certificate and its issuer's, PEM.
        ledger: whose the ledger key is.
        link: host and port of the link.
    """

    kind: Literal["joined"] = "joined"
    tls_chain: Pem
    renewal_chain: Pem
    ledger: LedgerCertificate
    link: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{1,253}:[0-9]{1,5}$")]


class TurnedAway(_Message):
    """Not now, or not you; the reason is in the coordinator's log."""

    kind: Literal["turned-away"] = "turned-away"
    code: Literal["refused", "bad-request", "upgrade-site", "upgrade-coordinator"]


Ask = AskRoot | AskTerms | Join
Answer = Root | Terms | Joined | TurnedAway

_ASK = TypeAdapter[Ask](Annotated[Ask, Field(discriminator="kind")])
_ANSWER = TypeAdapter[Answer](Annotated[Answer, Field(discriminator="kind")])
_LENGTH = struct.Struct("!I")


class MessageInvalid(FedHealthError):
    """The bytes are no message of an enrolment.

    Args:
        code: what the other side is told.
    """

    exit_code = 9

    def __init__(self, code: Literal["bad-request", "upgrade-site", "upgrade-coordinator"]) -> None:
        super().__init__("an enrolment's message is refused", got=code)
        self.code = code


def make_join(
    site: str, token: bytes, tls_request: bytes, renewal_request: bytes, ledger_key: Ed25519PrivateKey
) -> Join:
    """Return the signed wish to join."""
    unsigned = Join(
        site=site,
        token=token.hex(),
        tls_request=tls_request.decode(),
        renewal_request=renewal_request.decode(),
        ledger_key=public_key_hex(ledger_key.public_key()),
        signature="0" * 128,
    )
    return unsigned.model_copy(update={"signature": sign(ledger_key, "join", unsigned.statement()).hex()})


def certify_ledger_key(
    federation: str, site: str, ledger_key: str, at: int, witness_key: Ed25519PrivateKey
) -> LedgerCertificate:
    """Return the witness's word for whose a ledger key is."""
    statement = {"federation": federation, "site": site, "ledger_key": ledger_key, "at": at}
    signature = sign(witness_key, "ledger-key", canonical_bytes(statement)).hex()
    return LedgerCertificate(federation=federation, site=site, ledger_key=ledger_key, at=at, signature=signature)


def frame(message: _Message) -> bytes:
    """Return a message's length and bytes."""
    body = canonical_bytes(message)
    return _LENGTH.pack(len(body)) + body


def announced_bytes(head: bytes) -> int:
    """Return how many bytes follow the four of a length.

    Raises:
        MessageInvalid: more than a message may have, or none.
    """
    (length,) = _LENGTH.unpack(head)
    if not 0 < length <= MAX_MESSAGE_BYTES:
        raise MessageInvalid("bad-request")
    return int(length)


def parse_ask(body: bytes) -> Ask:
    """Return what a site asks.

    Raises:
        MessageInvalid: anything else, or an ask of another version.
    """
    try:
        version = _Version.model_validate_json(body, strict=True).version
        if version != ENROLMENT_VERSION:
            raise MessageInvalid("upgrade-site" if version < ENROLMENT_VERSION else "upgrade-coordinator")
        return _ASK.validate_json(body, strict=True)
    except ValidationError:
        raise MessageInvalid("bad-request") from None


def parse_answer(body: bytes) -> Answer:
    """Return what a coordinator answers.

    Raises:
        MessageInvalid: anything else.
    """
    try:
        return _ANSWER.validate_json(body, strict=True)
    except ValidationError:
        raise MessageInvalid("bad-request") from None


class _Version(BaseModel):
    """The one field that every version of an ask has."""

    model_config = ConfigDict(extra="ignore")
    version: Annotated[int, Field(ge=0, le=2**31)]
