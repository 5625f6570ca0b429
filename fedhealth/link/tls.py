"""gRPC with TLS 1.3 only: the one place of the link where grpc is imported, and the settings both ends share.

Source: gRPC offers Python no minimum TLS version. Its environment variable `GRPC_SSL_CIPHER_SUITES` names
the cipher suites of TLS 1.2 and before (TLS 1.3 has its own): naming one that needs an RSA key leaves nothing
that an ECDSA certificate could use, so a handshake below 1.3 fails at either end.

Invariants: import grpc in this package from here, never directly. grpc reads the variable when it is loaded;
where another package (Flower, say) loaded it first, it is told to read its variables again. The server checks
`ssl_tls_version` of every peer as a second line, in case neither works.

Leaves to others: whose certificates are good (`fedhealth.pki.identity`).
"""

import logging
import os
from collections.abc import Callable

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"  # before grpc is loaded; see above
os.environ["no_grpc_proxy"] = ""  # noqa: SIM112 - grpc's own spelling; or `no_proxy` decides which way a site goes
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # or each refused handshake is a line on stderr

import grpc as grpc
from grpc import aio as aio
from grpc._cython import cygrpc  # private: the only way to have the variable read again

from fedhealth.link.session import MAX_FRAME_BYTES, MAX_HEADER_BYTES
from fedhealth.pki.identity import TlsIdentity
from fedhealth.pki.names import coordinator_dns_name

logger = logging.getLogger(__name__)

try:
    cygrpc.reset_grpc_config_vars()
except AttributeError:  # another version of grpc
    logger.warning("cannot make sure that TLS 1.2 fails in the handshake; it is refused right after it")

SERVICE = "fedhealth.Link"
METHOD = "Stream"
HELLO_SECONDS = 30.0
"""How long an end waits for the other's HELLO, connecting included."""

_SHARED_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_send_message_length", MAX_FRAME_BYTES + MAX_HEADER_BYTES),
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES + MAX_HEADER_BYTES),
    ("grpc.http2.ping_timeout_ms", 600_000),  # or a slow line counts as dead; `stream` looks for signs of life
]


def server_options() -> list[tuple[str, int | str]]:
    """Return the options of a link server's `grpc.aio.server`."""
    return [
        *_SHARED_OPTIONS,
        ("grpc.so_reuseport", 0),  # or a second coordinator would silently share the port
        ("grpc.server_handshake_timeout_ms", 10_000),  # a stranger who does not finish is hung up on
        ("grpc.max_connection_idle_ms", 60_000),  # so is who opens no stream
        ("grpc.max_concurrent_streams", 8),  # of one connection
        ("grpc.max_metadata_size", 8 * 2**10),  # ours is some hundred bytes
        ("grpc.absolute_max_metadata_size", 8 * 2**10),
    ]


def server_credentials(current: Callable[[], TlsIdentity]) -> grpc.ServerCredentials:
    """Return credentials that ask every peer for a certificate of the federation's root.

    Args:
        current: asked at every handshake what to show; streams that are up stay when it changes.
    """
    shown: list[TlsIdentity] = []

    def configuration() -> grpc.ServerCertificateConfiguration | None:
        identity = current()
        if shown == [identity]:
            return None  # nothing new
        shown[:] = [identity]
        return grpc.ssl_server_certificate_configuration(
            [(identity.key_pem, identity.chain_pem)], root_certificates=identity.root_pem
        )

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration, require_client_authentication=True)


def open_channel(identity: TlsIdentity, address: str, federation: str, proxy: str | None = None) -> aio.Channel:
    """Return a channel, not yet connected, that accepts only the federation's coordinator at the other end.

    Args:
        identity: the site's.
        address: `host:port` of the coordinator.
        federation: whose coordinator it must be: the server's certificate needs
            `names.coordinator_dns_name(federation)`, whatever the address.
        proxy: `http://host:port` of the proxy to go through, as `proxy.Proxy` has it; None to go directly.
    """
    credentials = grpc.ssl_channel_credentials(
        identity.root_pem, private_key=identity.key_pem, certificate_chain=identity.chain_pem
    )
    options = [
        *_SHARED_OPTIONS,
        ("grpc.ssl_target_name_override", coordinator_dns_name(federation)),
        ("grpc.use_local_subchannel_pool", 1),  # a new channel means a new connection, without old back-off
        ("grpc.enable_retries", 0),  # the link has its own
        ("grpc.enable_http_proxy", int(proxy is not None)),  # a decision of the site, not of the environment
    ]
    if proxy is not None:
        options.append(("grpc.http_proxy", proxy))
    return aio.secure_channel(address, credentials, options)
