"""The Control API of a SuperLink, as much of it as a coordinator needs: which nodes there are, and one run.

Source: `flwr.supercore.control`, the client of Flower 1.41's own command line, which is private; contract tests hold
what is used of it.
"""

import hashlib
import os
from collections.abc import Callable
from typing import TypeVar

import httpx
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from fedhealth.errors import FederationFailed
from fedhealth.flower.superlink_guard import SECRET_HEADER

_Answer = TypeVar("_Answer")


class SuperLinkControl:
    """A SuperLink's Control API; every call waits for its answer.

    Args:
        address: `host:port`.
        root_certificates: PEM, of whoever certified the SuperLink.
        secret: what its guard wants to see; an empty one shows none.
    """

    def __init__(self, address: str, root_certificates: bytes, secret: str) -> None:
        self._address = address
        _go_directly_to(address.rpartition(":")[0])
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=root_certificates,
            interceptors=[_Secret(secret)] if secret else [],
        )

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def nodes(self) -> dict[bytes, int]:
        """Return the node id of every registered key (PEM, SubjectPublicKeyInfo).

        Raises:
            FederationFailed: no answer, or none that helps; so do all calls here.
        """
        found = self._asked(lambda: self._client.ListNodes(ListNodesRequest())).nodes_info
        return {node.public_key: node.node_id for node in found if node.status != "unregistered"}

    def register(self, public_key: bytes, name: str) -> int:
        """Register a key (PEM, SubjectPublicKeyInfo) and return its new node id."""
        request = RegisterNodeRequest(public_key=public_key, name=name)
        return int(self._asked(lambda: self._client.RegisterNode(request)).node_id)

    def unregister(self, node: int) -> None:
        """Take a node out; its key can never be registered again."""
        self._asked(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=node)))

    def start_run(self, bundle: bytes) -> int:
        """Start a run of a Flower App Bundle and return its id."""
        fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
        return int(self._asked(lambda: self._client.StartRun(StartRunRequest(fab=fab))).run_id)

    def stop_run(self, run: int) -> None:
        """Stop a run."""
        self._asked(lambda: self._client.StopRun(StopRunRequest(run_id=run)))

    def _asked(self, ask: Callable[[], _Answer]) -> _Answer:
        try:
            return ask()
        except (httpx.HTTPError, ValueError) as error:
            status = f" {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
            raise FederationFailed(
                f"the SuperLink at {self._address} does not do what it was asked",
                got=type(error).__name__ + status,
                next_step="It is tried again by itself; if this recurs, read superlink.log in the coordinator's home.",
            ) from error


def is_guarded(address: str, root_certificates: bytes) -> bool:
    """Say whether a SuperLink refuses a Control call that shows no secret.

    Raises:
        FederationFailed: it cannot be reached.
    """
    stranger = SuperLinkControl(address, root_certificates, "")
    try:
        stranger.nodes()
    except FederationFailed as error:
        refusal = error.__cause__
        if isinstance(refusal, httpx.HTTPStatusError):
            return refusal.response.status_code == httpx.codes.FORBIDDEN
        raise
    finally:
        stranger.close()
    return False


def _go_directly_to(host: str) -> None:
    """Keep this process's HTTP clients from showing a secret to a proxy; Flower's client takes no such option."""
    named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if host not in named.split(","):
        os.environ["no_proxy"] = ",".join(filter(None, (named, host)))


class _Secret:
    """Shows the secret with each call."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[SECRET_HEADER] = self._secret
        return call_next(context)
