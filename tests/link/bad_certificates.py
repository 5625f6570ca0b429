"""Certificates that nobody should be let in with, each wrong in one thing, made from the keys of a real federation."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhealth.pki.certificates import certificate_pem, key_usage

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
P256 = ec.SECP256R1()
COORDINATOR = "coordinator.heart.fedhealth.internal"
HUNGARY = "spiffe://heart/site/hungary"
DAY, MINUTES = timedelta(days=1), timedelta(minutes=5)


@dataclass
class Wish:
    """What a certificate says; as it stands, a perfect leaf of the site 'hungary'."""

    key: object = field(default_factory=lambda: ec.generate_private_key(P256))
    uris: tuple = (HUNGARY,)
    dns: tuple = ()
    usages: tuple = (CLIENT,)
    ca: bool = False
    path_length: int | None = None
    bit: str = "digital_signature"
    begins: timedelta = -MINUTES
    lives: timedelta = DAY
    permitted: tuple = ()
    critical: tuple = ()
    common_name: str = "hungary"


@dataclass
class Issuer:
    """A certificate and its key, with what stands above it."""

    certificate: x509.Certificate
    key: object
    above: tuple = ()
    by_openssl: bool = False  # gRPC's own TLS would not load it to show it

    def make(self, wish):
        """Return an issuer or leaf below this one, whatever the wish."""
        names = [x509.UniformResourceIdentifier(uri) for uri in wish.uris] + [x509.DNSName(name) for name in wish.dns]
        begins = datetime.now(UTC) + wish.begins
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wish.common_name)]))
            .issuer_name(self.certificate.subject if self.certificate else _name(wish))
            .public_key(wish.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + wish.lives)
            .add_extension(x509.BasicConstraints(ca=wish.ca, path_length=wish.path_length), critical=True)
            .add_extension(key_usage(wish.bit), critical=True)
        )
        if wish.usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(wish.usages), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if wish.permitted:
            subtrees = [x509.UniformResourceIdentifier(name) for name in wish.permitted]
            builder = builder.add_extension(x509.NameConstraints(subtrees, None), critical=True)
        for extension in wish.critical:
            builder = builder.add_extension(extension, critical=True)
        signer = self.key or wish.key
        algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA384()
        made = builder.sign(signer, algorithm)
        return Issuer(made, wish.key, (self.certificate, *self.above) if self.certificate else ())

    @property
    def chain_pem(self):
        """What is shown in TLS: this and what stands above it, without the root."""
        shown = [self.certificate, *(each for each in self.above if each.issuer != each.subject)]
        return b"".join(map(certificate_pem, shown))

    @property
    def key_pem(self):
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def _name(wish):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wish.common_name)])


NOBODY = Issuer(None, None)


def authority(**changes):
    """The wish of an issuing authority."""
    wish = {"usages": (), "uris": (), "ca": True, "path_length": 0, "bit": "key_cert_sign", "lives": 365 * DAY}
    return Wish(**({"common_name": "issuing", "permitted": ("heart",)} | wish | changes))


def below_another_root(**changes):
    root = NOBODY.make(authority(path_length=1, common_name="another root"))
    return root.make(authority()).make(Wish(**changes))


def rsa_key(bits):
    return rsa.generate_private_key(65537, bits)


def bad_certificates(root, issuing):
    """Return every case by name: who shows it, and the word that the coordinator's log must have.

    Args:
        root: the federation's root, which signs what its ceremony would not.
        issuing: its issuing authority, likewise.
    """
    leaf = issuing.make

    def under(**changes):
        return root.make(authority(**changes)).make(Wish())

    altered = leaf(Wish())
    altered.certificate = tampered(altered.certificate)
    return {
        "no certificate": (None, "no-certificate"),
        "another root, all names right": (below_another_root(), "unknown-authority"),
        "self-signed": (NOBODY.make(Wish()), "unknown-authority self-signed"),
        "signature altered": (altered, "bad-signature"),
        "expired": (leaf(Wish(begins=-2 * DAY)), "expired"),
        "not yet valid": (leaf(Wish(begins=DAY)), "not-yet-valid"),
        "issuing authority expired": (under(begins=-400 * DAY), "expired"),
        "issuing authority not yet valid": (under(begins=DAY), "not-yet-valid"),
        "a site's leaf as authority": (leaf(Wish()).make(Wish()), "unknown-authority"),
        "a leaf that signs as authority": (leaf(Wish(bit="key_cert_sign")).make(Wish()), "not-an-authority"),
        "an authority below the issuing one": (leaf(authority()).make(Wish()), "path-too-long"),
        "another federation": (leaf(Wish(uris=("spiffe://lung/site/hungary",))), "wrong-federation"),
        "authority of another federation": (
            root.make(authority(permitted=("lung",))).make(Wish(uris=("spiffe://lung/site/hungary",))),
            "wrong-federation",
        ),
        "server usage only": (leaf(Wish(usages=(SERVER,))), "wrong-purpose"),
        "coordinator's certificate as a site": (
            leaf(Wish(uris=("spiffe://heart/coordinator",), dns=(COORDINATOR,), usages=(SERVER,))),
            "wrong-purpose",
        ),
        "unknown critical extension": (
            leaf(Wish(critical=(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"),))),
            "unknown-extension",
        ),
        "client and server usage": (leaf(Wish(usages=(CLIENT, SERVER))), "extended-usage"),
        "client and any usage": (leaf(Wish(usages=(CLIENT, ANY))), "extended-usage"),
        "any usage": (leaf(Wish(usages=(ANY,))), "extended-usage wrong-purpose"),
        "no extended usage": (leaf(Wish(usages=())), "no-extended-usage"),
        "another key usage": (openssl(leaf(Wish(bit="key_agreement"))), "key-usage"),
        "an authority with a site's name": (
            root.make(Wish(ca=True, path_length=0, bit="digital_signature")),
            "is-an-authority",
        ),
        "two URI names": (leaf(Wish(uris=(HUNGARY, "spiffe://heart/site/va"))), "two-uri-names"),
        "no URI name": (leaf(Wish(uris=(), dns=("hungary.heart.fedhealth.internal",))), "no-uri-name"),
        "no name at all": (leaf(Wish(uris=())), "no-uri-name"),
        "a DNS name beside": (leaf(Wish(dns=("hungary.heart.fedhealth.internal",))), "other-names"),
        "a name of no form": (leaf(Wish(uris=("spiffe://heart/site/Hungary/1",))), "wrong-name"),
        "the coordinator's name for a client": (leaf(Wish(uris=("spiffe://heart/coordinator",))), "wrong-name"),
        "RSA 1024": (leaf(Wish(key=rsa_key(1024))), "weak-key"),
        "RSA 2048": (leaf(Wish(key=rsa_key(2048))), "weak-key"),
        # TLS offers no signature by such keys here, so a peer that has one has nothing to show.
        "Ed25519": (openssl(leaf(Wish(key=ed25519.Ed25519PrivateKey.generate()))), "no-certificate"),
        "P-192": (openssl(leaf(Wish(key=ec.generate_private_key(ec.SECP192R1())))), "no-certificate"),
        "P-521": (openssl(leaf(Wish(key=ec.generate_private_key(ec.SECP521R1())))), "no-certificate"),
        "P-384": (leaf(Wish(key=ec.generate_private_key(ec.SECP384R1()))), "weak-key"),
        "lives for a month": (leaf(Wish(lives=30 * DAY)), "lives-too-long"),
        "made with a stolen issuing key": (leaf(Wish()), "not-on-record"),
        "a site that never joined": (leaf(Wish(uris=("spiffe://heart/site/atlantis",))), "not-a-member"),
    }


def openssl(issuer):
    """Mark a certificate to be shown by OpenSSL."""
    issuer.by_openssl = True
    return issuer


def tampered(certificate):
    """The same certificate with one bit of its signature changed."""
    der = bytearray(certificate.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_certificate(bytes(der))
