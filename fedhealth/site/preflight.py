"""Before a site starts: does this machine have what gate and node need, and keep apart what must stay apart?

Each check says what it found and, where that will not do, the one thing to do about it. A check changes nothing and
sends nothing but the beginning of a TLS connection.

Leaves to others: the link itself, which finds out more (`fedhealth.link.client`), and what a study needs of the data
(approval).
"""

import ctypes
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from cryptography import x509

from fedhealth.errors import FedHealthError
from fedhealth.flower.version import check_flower, is_supported
from fedhealth.link.engine import Engine
from fedhealth.link.proxy import connect
from fedhealth.pki.certificates import certificate_pem, parse_certificate
from fedhealth.pki.identity import ROOT_FILE, read_identity
from fedhealth.pki.names import coordinator_dns_name
from fedhealth.pki.profiles import Role
from fedhealth.policy.rules import load_policy
from fedhealth.policy.site_file import load_site_file
from fedhealth.records.source import read_source
from fedhealth.secret_file import read_file
from fedhealth.site.file_rights import groups_of, may
from fedhealth.site.landlock import Sandbox, landlock_abi
from fedhealth.site.node_file import NodeFile, load_node_file
from fedhealth.site.state import SiteState
from fedhealth.unix_socket import MAX_PATH_BYTES

ENOUGH_BYTES, LEAST_BYTES = 5 * 1024**3, 200 * 1024**2
"""Free disk space below which a site is warned, and below which it should not start."""

_CONNECT_SECONDS = 5.0
_TORCH_SECONDS = 60.0
_DEVICES = Path("/dev")
_TIME_ERROR = 5
"""What adjtimex(2) returns while no time service keeps the clock."""

_Value = TypeVar("_Value")
Verdict = Literal["ok", "warning", "wrong", "unknown"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        verdict: "wrong" if the site cannot or must not run so; "unknown" if this user cannot see it.
        found: what is so.
        remedy: what to do; empty where nothing is.
    """

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


def inspect_site(
    folder: Path, state: SiteState, node_user: tuple[int, frozenset[int]] | None, now: datetime
) -> Iterator[Finding]:
    """Yield what every check found, the quick ones first.

    Args:
        folder: the site's folder.
        state: its state.
        node_user: user id and groups of the node's user; None if it is this user.
        now: the present, with time zone.
    """
    yield _clock(state, now)
    yield _disk(state)
    yield _gpu(folder)
    yield _kernel()
    yield _data(folder, state)
    yield from _apart(folder, state, node_user)
    yield _permissions(state)
    file = _known(lambda: load_node_file(state.node))
    if not isinstance(file, NodeFile):
        yield Finding("port", "unknown", file, _JOIN)
        return
    yield _engine(file)
    yield from _line(file, state)


_JOIN = "Run this as root or as the node's user; if the site has not joined yet: fedhealth site enrol --help"


def _engine(file: NodeFile) -> Finding:
    if file.engine is Engine.LINK:
        return Finding("engine", "ok", "link: frames go over the link, and nothing of Flower runs here")
    flower = _known(check_flower)
    if not is_supported(flower):
        return Finding("engine", "wrong", flower, "Install the coordinator's FedHealth: Flower comes with it.")
    return Finding("engine", "ok", f"superlink: a stock SuperNode of Flower {flower} and a worker run beside the node")


def _clock(state: SiteState, now: datetime) -> Finding:
    certificate = _known(lambda: read_identity(state.node, Role.SITE).leaf)
    if isinstance(certificate, x509.Certificate) and now < certificate.not_valid_before_utc:
        return Finding(
            "clock",
            "wrong",
            f"{now:%Y-%m-%d %H:%M} UTC, before the site's own certificate was made",
            "Set the clock; then: timedatectl set-ntp true",
        )
    if not _is_kept():
        return Finding(
            "clock",
            "warning",
            f"{now:%Y-%m-%d %H:%M} UTC, and no time service keeps it",
            "timedatectl set-ntp true; more than 5 minutes off, and the coordinator does not know this site",
        )
    return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M} UTC, kept by a time service")


def _is_kept() -> bool:
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    return adjtimex is None or adjtimex(ctypes.create_string_buffer(512)) != _TIME_ERROR


def _disk(state: SiteState) -> Finding:
    free = shutil.disk_usage(state.gate).free
    found = f"{free / 1024**3:.1f} GiB free where the ledger is"
    if free < LEAST_BYTES:
        return Finding("disk", "wrong", found, f"Free some, at {state.gate}: a gate that cannot write stops.")
    if free < ENOUGH_BYTES:
        return Finding("disk", "warning", found, f"Free some, at {state.gate}: models are kept until they have left.")
    return Finding("disk", "ok", found)


def _gpu(folder: Path) -> Finding:
    """Look what networks of images will be computed on; every other model is computed on the processor."""
    site = _known(lambda: load_site_file(folder))
    choice = "auto" if isinstance(site, str) else site.device  # of a file that cannot be read, another check says so
    if choice == "cpu":
        return Finding("GPU", "ok", 'not used: device = "cpu" in site.toml')
    short: Verdict = "wrong" if choice == "cuda" else "warning"
    cards = sorted(_DEVICES.glob("nvidia[0-9]*"))
    if not cards and choice == "auto":
        return Finding("GPU", "ok", "none; the gate computes on the processor")
    if not cards:
        return Finding("GPU", short, 'none, and site.toml says device = "cuda"', 'Say device = "auto", or add one.')
    if not all(os.access(card, os.R_OK | os.W_OK) for card in cards):
        return Finding("GPU", short, f"{len(cards)}, not all of which this user may use", "Check who may use them.")
    name = _device_of_torch()
    if name.startswith("cuda"):
        return Finding("GPU", "ok", f"{name.removeprefix('cuda ')}: the gate computes networks of images on it")
    remedy = "Install the driver, and torch built for CUDA; nvidia-smi says what the driver sees."
    return Finding("GPU", short, f"{len(cards)}, and torch cannot use one: the gate computes on the processor", remedy)


def _device_of_torch() -> str:
    """Ask a process of its own what torch would compute on: to load it here would take seconds and half a gigabyte."""
    script = "from fedhealth.training.device import choose_device; print(choose_device('auto'))"
    try:
        asked = subprocess.run(  # noqa: S603 - this very Python
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return asked.stdout.strip()


def _kernel() -> Finding:
    abi = landlock_abi()
    if Sandbox(abi).complete:
        return Finding("confinement", "ok", f"Landlock, interface {abi}")
    return Finding(
        "confinement",
        "warning",
        f"Landlock, interface {abi}: gate and node cannot confine themselves in full",
        "Use two users and the units in deploy/systemd; Linux 6.12 or newer has all of it.",
    )


def _data(folder: Path, state: SiteState) -> Finding:
    remedy = f"Correct {folder}, or who may read it, then run this again."

    def read() -> Finding:
        load_policy(folder)
        data_set = load_site_file(folder).data_set
        if data_set.patient_column not in read_source(data_set.source, strict=False).columns:
            return Finding("data", "wrong", f"there is no column '{data_set.patient_column}'", remedy)
        gate_user = state.gate.stat().st_uid
        if gate_user != os.geteuid() and not may(data_set.file, *groups_of(str(gate_user)), stat.S_IROTH):
            return Finding(
                "data",
                "wrong",
                f"the gate's user (number {gate_user}) may not read data set '{data_set.name}'",
                f"chgrp to the gate's own group, and chmod g+rX: {folder}",
            )
        return Finding("data", "ok", f"data set '{data_set.name}' can be read by the gate's user")

    found = _known(read)
    return found if isinstance(found, Finding) else Finding("data", "wrong", found, remedy)


def _apart(folder: Path, state: SiteState, node_user: tuple[int, frozenset[int]] | None) -> Iterator[Finding]:
    if node_user is None:
        yield Finding(
            "two users",
            "warning",
            "gate and node are one user",
            "Use two, as deploy/README.md says, and name the node's with --node-user.",
        )
        return
    user, groups = node_user
    data = _known(lambda: load_site_file(folder).data_set.file)
    hidden = {"the data": data if isinstance(data, Path) else folder, "the gate's state": state.gate}
    seen = [what for what, path in hidden.items() if may(path, user, groups, stat.S_IROTH)]
    if seen:
        yield Finding(
            "two users",
            "wrong",
            f"the node's user may read {' and '.join(seen)}",
            "chmod o-rwx, and chgrp to a group without the node: " + ", ".join(str(hidden[what]) for what in seen),
        )
    elif may(state.root, user, groups, stat.S_IWOTH):
        yield Finding(
            "two users",
            "wrong",
            "the node's user may write where the socket is, and could put another in its place",
            f"chmod go-w {state.root}",
        )
    else:
        yield Finding("two users", "ok", "the node's user may read neither the data nor the gate's state")


def _permissions(state: SiteState) -> Finding:
    open_to_others = [
        path.name
        for path in (state.gate, *sorted(state.gate.glob("*.secret")), *sorted(state.gate.glob("*.key")))
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if open_to_others:
        return Finding(
            "permissions",
            "wrong",
            f"others may use {', '.join(open_to_others)} in {state.root}",
            f"Find out who read them; then: chmod -R go-rwx {state.gate}",
        )
    if len(os.fsencode(state.administrators_socket)) > MAX_PATH_BYTES:
        return Finding("permissions", "wrong", "a socket's path is too long", "Choose a shorter path for the state.")
    return Finding("permissions", "ok", "the gate's state is its user's alone")


def _line(file: NodeFile, state: SiteState) -> Iterator[Finding]:
    through = f" through the proxy {file.proxy}" if file.proxy else ""
    try:
        connection = connect(file.coordinator, file.proxy, _CONNECT_SECONDS)
    except OSError as error:
        yield _no_way_by_proxy(file, error) if file.proxy else _no_way(file.coordinator, error)
        return
    yield Finding("port", "ok", f"{file.coordinator} can be reached{through}")
    with connection:
        yield _tls(connection, file, state)


def _no_way_by_proxy(file: NodeFile, error: OSError) -> Finding:
    why = "nothing listens there" if isinstance(error, ConnectionRefusedError) else error.strerror or "no answer"
    return Finding(
        "port",
        "wrong",
        f"{file.coordinator} cannot be reached through the proxy {file.proxy}: {why}",
        f"Ask for a rule in the proxy that allows CONNECT to {file.coordinator}, or correct `proxy` in node.toml.",
    )


def _no_way(address: str, error: OSError) -> Finding:
    host, _, port = address.rpartition(":")
    proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    if proxy and _connects_by(proxy, address):
        return Finding(
            "port",
            "wrong",
            f"{address} can be reached through the proxy of this network only (CONNECT works)",
            f'Write proxy = "{proxy.rstrip("/")}" into node.toml: TLS goes through it unopened, and the link makes '
            "sure for itself whom it speaks with.",
        )
    if isinstance(error, socket.gaierror):
        return Finding("port", "wrong", f"there is no address for '{host}'", "Check the name in node.toml, and DNS.")
    refused = isinstance(error, ConnectionRefusedError)
    why = "nothing listens there" if refused else error.strerror or "no answer in 5 seconds"
    return Finding(
        "port",
        "wrong",
        f"{address} cannot be reached: {why}",
        "Ask the coordinator's operator whether it is running."
        if refused
        else f"Ask for a firewall rule outwards to {host}, TCP port {port}.",
    )


def _connects_by(proxy: str, address: str) -> bool:
    try:
        connect(address, proxy, _CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def _tls(connection: socket.socket, file: NodeFile, state: SiteState) -> Finding:
    """Look whether the other end is the federation's coordinator, or something between that opens TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    root = _known(lambda: certificate_pem(parse_certificate(read_file(state.node / ROOT_FILE))))
    if isinstance(root, str):
        return Finding("TLS", "unknown", root, _JOIN)
    context.load_verify_locations(cadata=root.decode("ascii"))
    try:
        with context.wrap_socket(connection, server_hostname=coordinator_dns_name(file.federation)):
            return Finding("TLS", "ok", f"the coordinator of federation '{file.federation}' answers")
    except ssl.SSLCertVerificationError as error:
        return Finding(
            "TLS",
            "wrong",
            f"another certificate than the federation's answers ({error.verify_message})",
            f"Something between here and the coordinator opens TLS. Have {file.coordinator} exempted from inspection; "
            "if there is none, check the address in node.toml.",
        )
    except (OSError, ValueError) as error:
        return Finding(
            "TLS",
            "wrong",
            f"no TLS 1.3 at {file.coordinator} ({type(error).__name__})",
            "Check the address in node.toml; a firewall may cut what it does not know.",
        )


def _known(read: Callable[[], _Value]) -> _Value | str:
    """Return what can be read, or why it cannot, for the person at the terminal."""
    try:
        return read()
    except OSError as error:
        return error.strerror or "an error"
    except FedHealthError as error:
        return f"{error.what} ({error.got})" if error.got else error.what
