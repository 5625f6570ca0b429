"""Who is at the other end of a call, by what TLS has proven, and the one place where a refusal is logged.

Invariants: a log line about a peer that is turned away has its address and one word of a closed list, never anything
that the peer sent; the peer learns a status code and nothing more.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.x509 import Certificate

from fedhealth.errors import FedHealthError, IdentityInvalid
from fedhealth.link.tls import aio, grpc
from fedhealth.pki.certificates import parse_certificate
from fedhealth.pki.leaf import Flaw, LeafRefused
from fedhealth.pki.profiles import Role

logger = logging.getLogger(__name__)

Admission = Callable[[str, Certificate, Role], None]
"""Given a site, the leaf it proved in TLS and what the leaf is good for; raises `LeafRefused` if it is not let in."""

_CODE_OF = dict.fromkeys((Flaw.NOT_A_MEMBER, Flaw.REVOKED, Flaw.NOT_ON_RECORD), grpc.StatusCode.PERMISSION_DENIED)


def refusal_code(context: aio.ServicerContext, error: FedHealthError) -> grpc.StatusCode:
    """Log why a peer is not let in, in one word of ours, and return the code that is all it learns."""
    if isinstance(error, LeafRefused):
        logger.warning("refused %(address)s: %(code)s", {"address": context.peer(), "code": error.flaw})
        return _CODE_OF.get(error.flaw, grpc.StatusCode.UNAUTHENTICATED)
    logger.error("refused %(address)s: %(error)s", {"address": context.peer(), "error": error})
    return grpc.StatusCode.UNAUTHENTICATED


def proven_leaf(context: aio.ServicerContext) -> Certificate:
    """Return the certificate that a peer proved in TLS 1.3.

    TLS looked at its dates when the connection was opened, which may be long ago.

    Raises:
        LeafRefused: an older TLS, no certificate, or one that has ended since.
    """
    facts = context.auth_context()
    version, certificates = facts.get("ssl_tls_version"), facts.get("x509_pem_cert", ())
    if not version or list(version) != [b"TLSv1.3"]:
        raise LeafRefused(Flaw.TLS_VERSION, str(version), "TLSv1.3")
    if len(certificates) != 1:
        raise LeafRefused(Flaw.NO_CERTIFICATE, "none", "a site's")
    try:
        leaf = parse_certificate(certificates[0])
    except IdentityInvalid as error:
        raise LeafRefused(Flaw.MALFORMED, "what cannot be read", "a certificate") from error
    check_not_over(leaf)
    return leaf


def check_not_over(leaf: Certificate) -> None:
    """Return if a leaf has not ended by now.

    Raises:
        LeafRefused: it has.
    """
    if datetime.now(UTC) >= leaf.not_valid_after_utc:
        raise LeafRefused(Flaw.EXPIRED, "a leaf that ended under way", "one that was renewed")
