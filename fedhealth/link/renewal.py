"""`Renew`: a site gets its next certificate, with a new key, for one that is still good. Both ends.

A method of its own on the link's port, because a site whose leaf has ended can open no stream: its renewal certificate
is let in here and nowhere else. A request says which of the two certificates it wants and proves that it has the new
key; whose it will be is never asked, it is who TLS says.

Invariants: the caller's certificate has the profile of a leaf or of a renewal certificate and is on the record; the new
key is not the old one; a refusal is a status code and nothing more.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from cryptography.x509 import Certificate
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import FedHealthError, LinkUnavailable
from fedhealth.link.peer import Admission, proven_leaf, refusal_code
from fedhealth.link.quota import QUOTA_OF_SITE, Bucket
from fedhealth.link.tls import aio, grpc, open_channel
from fedhealth.pki.identity import TlsIdentity
from fedhealth.pki.leaf import LeafRefused, check_leaf
from fedhealth.pki.profiles import Role

logger = logging.getLogger(__name__)

RENEWAL_SERVICE = "fedhealth.Renewal"
RENEWAL_METHOD = "Renew"
MAX_RENEWAL_BYTES = 16 * 1024
RENEWAL_SECONDS = 20.0

Certify = Callable[[str, Role, bytes, Certificate], bytes]
"""Given a site, what the new certificate is good for, the signing request and the leaf that was shown; returns the
new leaf and its issuer's certificate, PEM, or raises."""


class RenewRequest(BaseModel):
    """Which certificate, and for which key.

    Attributes:
        role: "site" for the leaf of the link, "renewal" for the one that renews.
        request: a signing request, PEM.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Literal[Role.SITE, Role.RENEWAL]
    request: Annotated[str, StringConstraints(max_length=8 * 1024)]


class RenewalRefused(LinkUnavailable):
    """The coordinator does not renew this certificate: the site was revoked, or its certificates were replaced."""


def renewal_handler(federation: str, admits: Admission, certify: Certify) -> grpc.GenericRpcHandler:
    """Return what answers `Renew` on the coordinator's port.

    Args:
        federation: whose sites may renew.
        admits: raises if a site's certificate is not on the record.
        certify: makes the new certificate and puts it on the record.
    """
    buckets: dict[str, Bucket] = {}  # of members only, so there are never many

    def has_one(site: str) -> bool:
        most = QUOTA_OF_SITE.requests_a_second
        return buckets.setdefault(site, Bucket(most, most, time.monotonic)).has_one()

    def answer(body: bytes, context: aio.ServicerContext) -> bytes | grpc.StatusCode:
        try:
            leaf = proven_leaf(context)
            site, role = _holder(leaf, federation)
            admits(site, leaf, role)
            if not has_one(site):  # each costs signatures and a disk that is waited for
                return grpc.StatusCode.RESOURCE_EXHAUSTED
            if len(body) > MAX_RENEWAL_BYTES:
                return grpc.StatusCode.INVALID_ARGUMENT
            wish = RenewRequest.model_validate_json(body)
            return certify(site, Role(wish.role), wish.request.encode(), leaf)
        except ValidationError:
            return grpc.StatusCode.INVALID_ARGUMENT
        except FedHealthError as error:
            return refusal_code(context, error)
        except Exception as error:  # gRPC would send its text to the other side
            logger.error("a renewal failed: %(error)s", {"error": error})
            return grpc.StatusCode.UNAVAILABLE

    async def renew(body: bytes, context: aio.ServicerContext) -> bytes:
        answered = answer(body, context)
        if isinstance(answered, grpc.StatusCode):
            await context.abort(answered)  # never returns: it raises what ends the call
        return bytes(answered)

    method = grpc.unary_unary_rpc_method_handler(renew)  # no serializers: messages are bytes
    return grpc.method_handlers_generic_handler(RENEWAL_SERVICE, {RENEWAL_METHOD: method})


async def ask_renewal(
    identity: TlsIdentity,
    address: str,
    federation: str,
    role: Role,
    request_pem: bytes,
    proxy: str | None = None,
) -> bytes:
    """Ask for the next certificate, and return the new leaf and its issuer's certificate, PEM.

    Args:
        identity: with the site's leaf or renewal certificate.
        address: `host:port` of the coordinator's link.
        federation: the federation of both ends.
        role: what the new certificate is to be good for: `SITE` or `RENEWAL`.
        request_pem: a signing request of the new key.
        proxy: as `tls.open_channel` has it.

    Raises:
        RenewalRefused: the coordinator says no.
        LinkUnavailable: it does not answer.
    """
    if role not in (Role.SITE, Role.RENEWAL):
        raise ValueError("a site renews its own certificates")
    body = canonical_bytes(RenewRequest(role=role, request=request_pem.decode()))
    async with open_channel(identity, address, federation, proxy) as channel:
        call: Callable[..., Awaitable[bytes]] = channel.unary_unary(f"/{RENEWAL_SERVICE}/{RENEWAL_METHOD}")
        try:
            return await call(body, timeout=RENEWAL_SECONDS)
        except aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
                raise RenewalRefused(
                    "the coordinator does not renew this site's certificate",
                    got=error.code().name,
                    next_step="Ask its operator for a new invitation, and why: fedhealth site enrol --help",
                ) from error
            raise LinkUnavailable(
                f"the certificate of this site could not be renewed at {address}",
                got=error.code().name,
                next_step="It is tried again by itself; if this recurs, look at the network between.",
            ) from error


def _holder(leaf: Certificate, federation: str) -> tuple[str, Role]:
    try:
        return check_leaf(leaf, federation, Role.RENEWAL), Role.RENEWAL
    except LeafRefused:
        return check_leaf(leaf, federation, Role.SITE), Role.SITE
