"""The profile of a leaf certificate, checked again after TLS checked its chain.

TLS checks signatures, dates, path lengths, name constraints and that the usage includes the role's; it accepts more
than this federation's profiles: other key types, a second name, a second usage, longer lives. What it leaves is here.

Invariants: a leaf passes only if it could have come out of `Authority.issue`; whatever else is in it refuses. Why a
leaf was refused is one word of a closed list, so that a log can say it without repeating what a stranger sent.
"""

from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.certificates import key_usage
from fedhealth.pki.names import coordinator_dns_name, holder_of, uri_of
from fedhealth.pki.profiles import CURVES, Role, profiles


class Flaw(StrEnum):
    """Why a peer is turned away: all that a log says of it."""

    NO_CERTIFICATE = "no-certificate"
    TLS_VERSION = "tls-version"
    UNKNOWN_AUTHORITY = "unknown-authority"
    SELF_SIGNED = "self-signed"
    BAD_SIGNATURE = "bad-signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    WRONG_FEDERATION = "wrong-federation"
    WRONG_PURPOSE = "wrong-purpose"
    PATH_TOO_LONG = "path-too-long"
    NOT_AN_AUTHORITY = "not-an-authority"
    MALFORMED = "malformed"
    WEAK_KEY = "weak-key"
    IS_AN_AUTHORITY = "is-an-authority"
    KEY_USAGE = "key-usage"
    NO_EXTENDED_USAGE = "no-extended-usage"
    EXTENDED_USAGE = "extended-usage"
    NO_URI_NAME = "no-uri-name"
    TWO_URI_NAMES = "two-uri-names"
    OTHER_NAMES = "other-names"
    WRONG_NAME = "wrong-name"
    RENEWAL_ONLY = "renewal-only"
    LIVES_TOO_LONG = "lives-too-long"
    UNKNOWN_EXTENSION = "unknown-extension"
    NOT_A_MEMBER = "not-a-member"
    NOT_ON_RECORD = "not-on-record"
    REVOKED = "revoked"
    SAME_KEY = "same-key"
    HANDSHAKE = "handshake"


class LeafRefused(IdentityInvalid):
    """A certificate does not have the profile of its role, or its holder is not let in.

    Args:
        flaw: why, for a log.
        got: what was found, for the certificate's own holder; not for a log of the other side.
        wanted: what the profile asks for.
    """

    def __init__(self, flaw: Flaw, got: str, wanted: str) -> None:
        super().__init__(
            f"certificate does not have this federation's profile: {flaw}",
            got=got,
            wanted=wanted,
            next_step="Ask the federation's coordinator for a certificate of the right kind.",
        )
        self.flaw = flaw


_EXTENSIONS = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
}


def check_leaf(certificate: x509.Certificate, federation: str, role: Role) -> str:
    """Check a certificate's profile, not its chain or its dates, and return whose it is.

    Args:
        certificate: the leaf, as TLS received it.
        federation: the federation that its one URI name must be of.
        role: what it must be good for.

    Returns:
        The site's id, or "coordinator".

    Raises:
        LeafRefused: it differs from the profile in anything.
    """
    profile = profiles().of(role)
    try:
        key, extensions = certificate.public_key(), certificate.extensions
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise LeafRefused(Flaw.MALFORMED, type(error).__name__, "extensions and a key that can be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES[profile.key]):
        raise LeafRefused(Flaw.WEAK_KEY, type(key).__name__, f"a {profile.key} key")
    unknown = {extension.oid for extension in extensions} - _EXTENSIONS
    if unknown:
        got = ", ".join(sorted(oid.dotted_string for oid in unknown))
        raise LeafRefused(Flaw.UNKNOWN_EXTENSION, got, "those of the profile")
    _check_usages(extensions, role)
    holder = _check_names(extensions, federation, role)
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    if life > profile.lifetime + profiles().back_date:
        raise LeafRefused(Flaw.LIVES_TOO_LONG, str(life), f"at most {profile.lifetime}")
    return holder


def _check_usages(extensions: x509.Extensions, role: Role) -> None:
    profile = profiles().of(role)
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise LeafRefused(Flaw.KEY_USAGE, "none", "basic constraints and key usage") from error
    if constraints.ca:
        raise LeafRefused(Flaw.IS_AN_AUTHORITY, "an authority", "a leaf")
    if usage != key_usage("digital_signature"):
        raise LeafRefused(Flaw.KEY_USAGE, "another key usage", "digital signature only")
    try:
        extended = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound as error:
        raise LeafRefused(Flaw.NO_EXTENDED_USAGE, "none", profile.usage.dotted_string) from error
    if extended != [profile.usage]:
        got = ", ".join(oid.dotted_string for oid in extended)
        raise LeafRefused(Flaw.EXTENDED_USAGE, got, f"only {profile.usage.dotted_string}")


def _check_names(extensions: x509.Extensions, federation: str, role: Role) -> str:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise LeafRefused(Flaw.NO_URI_NAME, "no name", "exactly one URI name") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        flaw = Flaw.TWO_URI_NAMES if uris else Flaw.NO_URI_NAME
        raise LeafRefused(flaw, f"{len(uris)} URI names", "exactly one")
    beside = [name.value for name in names if not isinstance(name, x509.UniformResourceIdentifier)]
    if beside != ([coordinator_dns_name(federation)] if role is Role.COORDINATOR else []):
        raise LeafRefused(Flaw.OTHER_NAMES, f"{len(beside)} names beside the URI name", "those of the profile")
    holder = holder_of(uris[0], federation, role)
    if holder is None:
        renews = role is not Role.RENEWAL and holder_of(uris[0], federation, Role.RENEWAL) is not None
        flaw = Flaw.RENEWAL_ONLY if renews else Flaw.WRONG_NAME
        raise LeafRefused(flaw, repr(uris[0][:200]), uri_of(federation, role, "id"))
    return holder
