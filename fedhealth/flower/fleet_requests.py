"""What a SuperNode asks of its SuperLink, as bytes that a link carries: one HTTP request, and its answer.

A SuperLink serves on one port what nodes may ask (its Fleet API) and what rules a federation (its Control and Runtime
APIs). So a site's end lets through the calls in `CALLS` alone, and the coordinator's end looks again; of headers, only
those that Flower's node authentication and version check need.

Leaves to others: carrying (`fedhealth.link`), who asks (the link's certificate, and the node key bound to it), and
Flower's own authentication, which the SuperLink does.

Source: `flwr.superlink.routers.fleet` and `flwr.supernode.fleet_http_client`, Flower 1.41.
"""

import base64
import struct
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.proto.fab_pb2 import GetFabResponse
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLWR_PACKAGE_VERSION_METADATA_KEY
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhealth.canonical import canonical_bytes

FLEET, JOIN = "flower-fleet", "flower-join"
"""The coordinator's two services for a site's SuperNode: one of its requests; and its key, before it begins."""

_PREFIX = "/v1/fleet/"
ACTIVATE, DEACTIVATE = _PREFIX + "activate-node", _PREFIX + "deactivate-node"
PULL, GET_FAB = _PREFIX + "pull-messages", _PREFIX + "get-fab"
PULL_OBJECT, CONFIRM = _PREFIX + "pull-object", _PREFIX + "confirm-message-received"
PUSH, PUSH_OBJECT = _PREFIX + "push-messages", _PREFIX + "push-object"
CALLS = frozenset(
    {ACTIVATE, DEACTIVATE, PULL, GET_FAB, PULL_OBJECT, CONFIRM, PUSH, PUSH_OBJECT}
    | {_PREFIX + name for name in ("send-node-heartbeat", "get-run")}
)
"""All that a SuperNode whose key is registered asks; registering is the coordinator's."""

_SIGNATURE, _SIGNED_AT = "flwr-signature", "flwr-timestamp"
PUBLIC_KEY, VERSION = FLEET_HTTP_PUBLIC_KEY_HEADER, FLWR_PACKAGE_VERSION_METADATA_KEY
HEADERS = frozenset(
    {"content-type", "accept", PUBLIC_KEY, _SIGNATURE, _SIGNED_AT, VERSION}
    | {f"flwr-{name}" for name in ("package-name", "component-name", "version-incompatibility-message")}
)

MAX_BODY_BYTES = 8 * 2**20
"""Flower cuts what it sends into objects of 5 MiB."""
_MAX_HEAD_BYTES = 16 * 1024
MAX_PACKED_BYTES = 4 + _MAX_HEAD_BYTES + MAX_BODY_BYTES
MAX_JOIN_BYTES = 4096
_LENGTH = struct.Struct("!I")

Headers = Annotated[dict[str, Annotated[str, Field(max_length=2000, pattern=r"^[\x20-\x7e]*$")]], Field(max_length=20)]


class FleetInvalid(ValueError):
    """Bytes that are not a request or an answer of this version, or more than is carried."""


class FleetRequest(BaseModel):
    """One request; its body travels beside it.

    Attributes:
        path: one of `CALLS`.
        headers: those of `HEADERS` that it has, names in lower case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: Annotated[str, Field(max_length=100)]
    headers: Headers


class FleetAnswer(BaseModel):
    """One answer; its body travels beside it.

    Attributes:
        status: of HTTP.
        headers: as above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    status: Annotated[int, Field(ge=200, le=599)]
    headers: Headers = {}


class JoinQuestion(BaseModel):
    """What a site says of its SuperNode before it starts it.

    Attributes:
        flower: its version of Flower.
        fab: SHA-256 of the one app bundle that it takes.
        public_key: of the node key, in OpenSSH's form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    flower: Annotated[str, Field(max_length=40)]
    fab: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    public_key: Annotated[str, Field(max_length=1000)]


class JoinAnswer(BaseModel):
    """What the coordinator says to it.

    Attributes:
        code: whether the key is registered now, or why not.
        flower: the coordinator's version of Flower.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    code: Literal["registered", "other-flower", "other-fab", "key-refused", "not-now"]
    flower: Annotated[str, Field(max_length=40)]


def deactivation(node: int) -> bytes:
    """Return the body of `DEACTIVATE` for a node's id."""
    return bytes(DeactivateNodeRequest(node_id=node).SerializeToString())


_Head = TypeVar("_Head", FleetRequest, FleetAnswer)


def pack_fleet(head: FleetRequest | FleetAnswer, body: bytes) -> bytes:
    """Return the bytes of a request or an answer.

    Raises:
        FleetInvalid: it is more than is carried.
    """
    text = canonical_bytes(head.model_dump(mode="json"))
    if len(text) > _MAX_HEAD_BYTES or len(body) > MAX_BODY_BYTES:
        raise FleetInvalid(f"a head of {len(text)} and a body of {len(body)} bytes")
    return _LENGTH.pack(len(text)) + text + body


def unpack_fleet(kind: type[_Head], packed: bytes) -> tuple[_Head, bytes]:
    """Return a request or an answer and its body.

    Raises:
        FleetInvalid: it is not one, or asks for something that is no node's business.
    """
    if len(packed) < _LENGTH.size or len(packed) > MAX_PACKED_BYTES:
        raise FleetInvalid(f"{len(packed)} bytes")
    (length,) = _LENGTH.unpack_from(packed)
    if length > _MAX_HEAD_BYTES:
        raise FleetInvalid(f"a head of {length} bytes")
    try:
        head = kind.model_validate_json(packed[_LENGTH.size : _LENGTH.size + length])
    except ValidationError as error:
        raise FleetInvalid("a head that is not one") from error
    if not head.headers.keys() <= HEADERS or (isinstance(head, FleetRequest) and head.path not in CALLS):
        raise FleetInvalid("a call or a header that is not a node's business")
    return head, packed[_LENGTH.size + length :]


def key_header(public_key: str) -> str:
    """Return what requests signed with a node key say in `PUBLIC_KEY`.

    Args:
        public_key: in OpenSSH's form.

    Raises:
        FleetInvalid: it is not a key on the curve P-384.
    """
    try:
        key = load_ssh_public_key(public_key.encode())
    except (ValueError, UnicodeEncodeError) as error:
        raise FleetInvalid("not a public key in OpenSSH's form") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise FleetInvalid("not a key on the curve P-384")
    return base64.b64encode(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).decode()


def is_signed(headers: Mapping[str, str], public_key: str) -> bool:
    """Say whether whoever asks has a node key: Flower's authentication signs the time of a request, and nothing of it.

    Args:
        headers: of the request, names in lower case.
        public_key: of the node key, in OpenSSH's form.

    Raises:
        FleetInvalid: it is not a key on the curve P-384.
    """
    if headers.get(PUBLIC_KEY) != key_header(public_key):
        return False
    key = load_ssh_public_key(public_key.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - `key_header` has looked
    try:
        signature = base64.b64decode(headers.get(_SIGNATURE, ""), validate=True)
        key.verify(signature, headers.get(_SIGNED_AT, "").encode(), ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def fab_in(body: bytes) -> bytes:
    """Return the app bundle in an answer to `GET_FAB`.

    Raises:
        FleetInvalid: there is none.
    """
    try:
        return bytes(GetFabResponse.FromString(body).fab.content)
    except DecodeError as error:
        raise FleetInvalid("not an answer with an app bundle") from error
