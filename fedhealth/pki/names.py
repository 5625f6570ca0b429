"""The names of a federation's parties: one URI each, and one DNS name for the coordinator.

Source: SPIFFE X.509-SVID (exactly one URI name). A site's certificate names `spiffe://<federation>/site/<id>`, its
renewal certificate `spiffe://<federation>/renewal/<id>`, and the coordinator's `spiffe://<federation>/coordinator`.
"""

import re

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.profiles import Role

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def uri_of(federation: str, role: Role, holder: str) -> str:
    """Return the one URI name of a party.

    Args:
        federation: 1-63 lower-case letters, digits and hyphens, no hyphen at either end.
        role: what its certificate is good for.
        holder: the site's id, of the same form; "coordinator" for the coordinator.

    Raises:
        IdentityInvalid: a name of another form.

    Example:
        >>> uri_of("heart", Role.SITE, "hungary")
        'spiffe://heart/site/hungary'
        >>> uri_of("heart", Role.COORDINATOR, "coordinator")
        'spiffe://heart/coordinator'
    """
    if role is Role.COORDINATOR:
        return f"spiffe://{check_name(federation)}/{role}"
    return f"spiffe://{check_name(federation)}/{role}/{check_name(holder)}"


def holder_of(uri: str, federation: str, role: Role) -> str | None:
    """Return the site's id, or "coordinator", that a URI name stands for; None if it is not of this role here.

    Example:
        >>> holder_of("spiffe://heart/site/hungary", "heart", Role.SITE)
        'hungary'
        >>> holder_of("spiffe://heart/renewal/hungary", "heart", Role.SITE) is None
        True
    """
    if role is Role.COORDINATOR:
        return role.value if uri == uri_of(federation, role, role.value) else None
    prefix = f"spiffe://{check_name(federation)}/{role}/"
    site = uri.removeprefix(prefix)
    return site if uri.startswith(prefix) and _NAME.fullmatch(site) else None


def coordinator_dns_name(federation: str) -> str:
    """Return the DNS name that only this federation's coordinator is certified for, wherever it runs.

    A gRPC client in Python can compare DNS names but not URI names, so this one stands for the URI. It is
    never looked up: `.internal` is reserved for private use.

    Raises:
        IdentityInvalid: a federation name of another form than in `uri_of`.

    Example:
        >>> coordinator_dns_name("heart")
        'coordinator.heart.fedhealth.internal'
    """
    return f"coordinator.{check_name(federation)}.fedhealth.internal"


def check_name(name: str) -> str:
    """Return a federation's or site's name if it has the form that certificates allow.

    Raises:
        IdentityInvalid: it has another form.
    """
    if _NAME.fullmatch(name) is None:
        raise IdentityInvalid(
            "a federation or site has a name that no certificate can carry",
            got=repr(name[:80]),
            wanted="1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end",
            next_step="Choose another name, such as 'long-beach'.",
        )
    return name
