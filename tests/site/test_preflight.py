"""Preflight and status: what is wrong with a machine is found, with its remedy; how a site stands is said."""

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from connect_proxy import ConnectProxy

from fedhealth.cli.main import main
from fedhealth.flower.version import check_flower
from fedhealth.pki.authority import install_authority, request_authority
from fedhealth.pki.certificates import key_pem, make_key
from fedhealth.pki.identity import ROOT_FILE, store_identity
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root
from fedhealth.site import preflight
from fedhealth.site.acts import pause_site
from fedhealth.site.file_rights import may
from fedhealth.site.loopback_port import listen_on_loopback
from fedhealth.site.node_records import record_engine, record_link, record_supernode, seen_running
from fedhealth.site.offers import folder_of, keep_offers
from fedhealth.site.preflight import inspect_site
from fedhealth.site.status import UNKNOWN, status_of
from fedhealth.study.signature import sign_study

NODE = (61002, frozenset({61000, 61002}))


class Federation:
    """An authority, and a TLS server with a certificate of its coordinator."""

    def __init__(self, folder, name="heart"):
        self.now = datetime.now(UTC)
        self.root = create_root(folder / "root", name, None, self.now)
        request = request_authority(folder, name)
        issuer = self.root.certify_issuer(request.read_bytes(), self.now)
        self.authority = install_authority(folder, issuer, self.root.pem, self.now)
        self.folder = folder

    def issue(self, role, holder):
        key = make_key("P-256")
        return key, self.authority.issue(key.public_key(), role, holder, self.now)

    def serve(self):
        key, chain = self.issue(Role.COORDINATOR, "coordinator")
        (self.folder / "server.pem").write_bytes(key_pem(key) + chain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem")
        listener = socket.create_server(("127.0.0.1", 0))

        def answer():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(1)
                except OSError:
                    pass

        threading.Thread(target=answer, daemon=True).start()
        return listener


@pytest.fixture
def federation(tmp_path):
    return Federation(tmp_path / "federation")


@pytest.fixture
def site(ward, federation):
    """A site that joined, whose coordinator listens."""
    here = ward()
    here.state.node.mkdir(mode=0o700)
    for role in (Role.SITE, Role.RENEWAL):
        store_identity(here.state.node, role, *federation.issue(role, "ward-a"))
    (here.state.node / ROOT_FILE).write_bytes(federation.root.pem)
    here.listener = federation.serve()
    point(here, here.listener.getsockname()[1])
    yield here
    here.listener.close()


def point(site, port, host="127.0.0.1", proxy=None):
    text = f'site = "ward-a"\nfederation = "heart"\ncoordinator = "{host}:{port}"\n'
    text += f'proxy = "{proxy}"\n' if proxy else ""
    (site.state.node / "node.toml").write_text(text)


def inspect(site, node=None, now=None):
    found = inspect_site(site.folder, site.state, node, now or datetime.now(UTC))
    return {finding.check: finding for finding in found}


def open_the_way_to(folder):
    """Let everybody pass from the system's folder for temporary files to this one."""
    for path in (folder, *folder.parents):
        if path == Path(tempfile.gettempdir()):
            return
        path.chmod(0o755)


def check(finding, verdict, *words):
    assert finding.verdict == verdict, finding
    assert bool(finding.remedy) == (verdict != "ok")
    for word in words:
        assert word in finding.found + " -> " + finding.remedy


def test_a_machine_that_will_do_is_found_to_do(site, monkeypatch):
    monkeypatch.setattr(preflight, "_is_kept", lambda: True)
    monkeypatch.setattr(preflight, "ENOUGH_BYTES", 1)
    found = inspect(site)
    assert set(found) == {
        *("clock", "disk", "GPU", "confinement", "data", "two users", "permissions", "engine", "port", "TLS"),
    }
    for name in ("clock", "disk", "data", "permissions", "port", "TLS"):
        check(found[name], "ok")


def test_a_clock_that_is_wrong_or_that_nobody_keeps(site, monkeypatch):
    check(
        inspect(site, now=datetime.now(UTC) - timedelta(days=2))["clock"],
        "wrong",
        "before the site's own",
        "timedatectl",
    )
    monkeypatch.setattr(preflight, "_is_kept", lambda: False)
    check(inspect(site)["clock"], "warning", "no time service", "timedatectl set-ntp true")


@pytest.mark.parametrize(("free", "verdict"), [(10**8, "wrong"), (10**9, "warning"), (10**10, "ok")])
def test_a_disk_that_is_nearly_full(site, monkeypatch, free, verdict):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, free))
    check(inspect(site)["disk"], verdict, "GiB free")


def test_data_that_the_gate_cannot_use(site):
    site.csv.write_text(site.csv.read_text().replace("id,", "name,", 1))
    check(inspect(site)["data"], "wrong", "no column 'id'")
    site.csv.unlink()
    check(inspect(site)["data"], "wrong", "No such file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_data_that_root_can_read_and_the_gates_user_cannot(site):
    open_the_way_to(site.folder)
    os.chown(site.state.gate, 61001, 61001)
    site.csv.chmod(0o640)
    check(inspect(site)["data"], "wrong", "number 61001", "chgrp")
    os.chown(site.csv, 0, 61001)
    check(inspect(site)["data"], "ok")


def test_a_node_that_could_read_the_data_or_replace_the_socket(site):
    check(inspect(site)["two users"], "warning", "one user", "--node-user")
    open_the_way_to(site.folder)
    site.csv.chmod(0o644)
    check(inspect(site, NODE)["two users"], "wrong", "may read the data", "chmod o-rwx", str(site.csv))
    site.csv.chmod(0o640)
    site.state.root.chmod(0o777)
    check(inspect(site, NODE)["two users"], "wrong", "could put another in its place", "chmod go-w")
    site.state.root.chmod(0o750)
    check(inspect(site, NODE)["two users"], "ok")


@pytest.mark.parametrize(
    ("mode", "owner", "group", "allowed"),
    [
        (0o600, 61002, 0, True),
        (0o060, 61002, 61000, False),  # the owner's own bits count, although the group's would do
        (0o640, 0, 61000, True),
        (0o604, 0, 61000, False),
        (0o604, 0, 0, True),
        (0o640, 0, 0, False),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_who_may_read_follows_from_owners_and_modes(tmp_path, mode, owner, group, allowed):
    file = tmp_path / "file"
    file.touch()
    os.chown(file, owner, group)
    file.chmod(mode)
    open_the_way_to(tmp_path)
    assert may(file, *NODE, stat.S_IROTH) == allowed
    tmp_path.chmod(0o700)  # a closed folder on the way keeps everybody out
    assert not may(file, *NODE, stat.S_IROTH)
    assert may(file, 0, frozenset(), stat.S_IROTH)


def test_secrets_that_others_may_read(site):
    (site.state.gate / "noise.secret").chmod(0o640)
    check(inspect(site)["permissions"], "wrong", "noise.secret", "chmod -R go-rwx")


def test_a_port_where_nothing_listens_and_a_name_without_an_address(site, monkeypatch):
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    point(site, port)
    found = inspect(site)
    check(found["port"], "wrong", "nothing listens there", "operator")
    assert "TLS" not in found
    point(site, 7443, "no-such-host.invalid")
    check(inspect(site)["port"], "wrong", "no address", "DNS")


def test_a_network_that_has_a_proxy_only(site, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        point(site, free.getsockname()[1])
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer():
            connection, _ = proxy.accept()
            asked.append(connection.recv(1000))
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        check(inspect(site)["port"], "wrong", "through the proxy", "proxy = ", "node.toml")
        thread.join(10)
    assert asked[0].startswith(b"CONNECT 127.0.0.1:")


def test_a_site_with_a_proxy_is_looked_at_through_it(site):
    address = f"127.0.0.1:{site.listener.getsockname()[1]}"
    with ConnectProxy({"c.invalid:7443": address}) as proxy:
        point(site, 7443, "c.invalid", proxy.url)
        found = inspect(site)
        check(found["port"], "ok", "through the proxy")
        check(found["TLS"], "ok", "coordinator")
        point(site, 7444, "c.invalid", proxy.url)
        check(inspect(site)["port"], "wrong", "the proxy answers 403", "allows CONNECT to c.invalid:7444")


def test_something_between_that_opens_tls(site, tmp_path):
    with Federation(tmp_path / "other").serve() as between:  # the same names under another root
        point(site, between.getsockname()[1])
        check(inspect(site)["TLS"], "wrong", "another certificate", "opens TLS", "exempted from inspection")


def test_a_port_that_speaks_no_tls(site):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        point(site, plain.getsockname()[1])

        def answer():
            connection, _ = plain.accept()
            with connection:
                connection.recv(1)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        check(inspect(site)["TLS"], "wrong", "no TLS 1.3")
        thread.join(10)


def test_a_site_that_has_not_joined(site):
    shutil.rmtree(site.state.node)
    check(inspect(site)["port"], "unknown", "site enrol")


@pytest.fixture
def command(capsys, monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["fedhealth", "site", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().out

    return run


def test_the_command_names_each_remedy_and_ends_with_3_if_something_is_wrong(site, command):
    where = (site.folder, "--state", site.state.root)
    assert command("preflight", *where)[0] == 0
    site.csv.unlink()
    code, said = command("preflight", *where)
    assert code == 3
    (line,) = [each for each in said.splitlines() if each.startswith("wrong")]
    assert "data" in line
    assert said.splitlines()[said.splitlines().index(line) + 1].strip().startswith("->")
    code, said = command("preflight", *where, "--json")
    assert code == 3
    assert {finding["verdict"] for finding in json.loads(said)} >= {"ok", "wrong"}


def test_status_says_certificate_link_budget_and_what_waits(site, command, make_protocol):
    now = datetime.now(UTC)
    record_link(site.state.node, "connected", now - timedelta(hours=3, minutes=5))
    with seen_running(site.state.node):
        found = status_of(site.state, now)
    assert (found.site, found.studies, found.gate) == ("ward-a", 0, "not running")
    assert found.link == "connected for 3 h 5 min"
    # A leaf lives for 24 hours, a renewal certificate for 90 days; both were made moments ago.
    assert found.certificate.startswith("23 h 59 min")
    assert found.renewal.startswith("89 d 23 h")
    assert {line.cohort: line.share_spent for line in found.spending} == {"training": 0, "held-out": 0}
    assert found.waits == ("2 entries of the ledger wait for the coordinator's signature",)
    keep_offers(folder_of(site.state.node), (sign_study(make_protocol(), site.researcher),))
    pause_site(site.folder, site.state)
    site.state.hold.set_restored()
    said = command("status", "--state", site.state.root)[1]
    assert "waits: the site is paused" in said
    assert "waits: 1 offered studies wait to be looked at: fedhealth site studies" in said
    assert "waits: the ledger came from a backup" in said
    assert all(len(line) <= 80 for line in said.splitlines())
    with seen_running(site.state.node):
        told = command("status", "--state", site.state.root, "--json")[1]
    assert json.loads(told)["link"] == "connected for 3 h 5 min"


def test_status_and_preflight_say_which_engine_and_whether_a_supernode_runs(site, monkeypatch):
    now, node = datetime.now(UTC), site.state.node
    assert status_of(site.state, now).engine == "link"
    record_engine(node, None, now)
    assert status_of(site.state, now).engine == "link"
    record_engine(node, "other-flower", now - timedelta(minutes=7))
    assert status_of(site.state, now).engine == "superlink: other-flower for 0 h 7 min; SuperNode not running"
    with listen_on_loopback(0) as listener:
        record_engine(node, "registered", now)
        record_supernode(node, listener.getsockname()[1])
        assert status_of(site.state, now).engine == "superlink: registered for 0 h 0 min; SuperNode running"
    assert status_of(site.state, now).engine.endswith("SuperNode not running")
    (node / "engine.json").write_text('{"supernode": "a patient"}')  # the folder is the node's
    assert status_of(site.state, now).engine == UNKNOWN
    check(inspect(site)["engine"], "ok", "link")
    (node / "node.toml").write_text((node / "node.toml").read_text() + 'engine = "superlink"\n')
    check(inspect(site)["engine"], "ok", f"superlink: a stock SuperNode of Flower {check_flower()}")
    monkeypatch.setattr("fedhealth.flower.version.version", lambda _: "1.42.0")
    check(inspect(site)["engine"], "wrong", "1.42.0")


@pytest.mark.processes
def test_status_does_not_call_the_link_of_a_node_that_was_killed_connected(site):
    now = datetime.now(UTC)
    record_link(site.state.node, "connected", now - timedelta(minutes=61))
    program = (
        "import sys, pathlib\n"
        "from fedhealth.site.node_records import seen_running\n"
        "with seen_running(pathlib.Path(sys.argv[1])):\n    print(flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(site.state.node)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
        node.stdout.readline()
        assert status_of(site.state, now).link == "connected for 1 h 1 min"
        node.kill()
        node.wait()
    assert status_of(site.state, now).link == "no node runs; the last one said 'connected' 1 h 1 min ago"


def test_status_tells_a_gate_that_runs_from_a_socket_that_was_left(site):
    with socket.socket(socket.AF_UNIX) as gate:
        gate.bind(str(site.state.socket))
        gate.listen()
        assert status_of(site.state, datetime.now(UTC)).gate == "running"
    assert site.state.socket.exists()
    assert status_of(site.state, datetime.now(UTC)).gate == "not running"


def test_status_of_an_expired_certificate_and_of_a_site_that_never_joined(site):
    assert status_of(site.state, datetime.now(UTC) + timedelta(days=2)).certificate.startswith("expired at ")
    shutil.rmtree(site.state.node)
    found = status_of(site.state, datetime.now(UTC))
    assert found.certificate == found.renewal == found.link == UNKNOWN


@pytest.mark.parametrize(
    "spoil",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_text('{"since":"2026-01-01T00:00:00+00:00","state":"\\u001b[2Jgone"}'),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"since":"2026-01-01T00:00:00","state":"connected"}'),
    ],
    ids=["a pipe", "a link to a device", "signs for the terminal", "another shape", "a time without its zone"],
)
def test_a_node_that_was_taken_over_neither_stops_nor_fools_whoever_asks_for_the_status(site, spoil):
    site.state.node.mkdir(exist_ok=True)
    (site.state.node / "link.json").unlink(missing_ok=True)
    spoil(site.state.node / "link.json")
    assert status_of(site.state, datetime.now(UTC)).link == UNKNOWN


def _sparse(path):
    path.touch(mode=0o600)
    os.truncate(path, 2**36)


def _link_to_a_copy(path):
    copy = path.parent.parent / f"copy of {path.name}"
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o600)
    path.unlink()
    path.symlink_to(copy)


SPOILT = {
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path, 0o600)),
    "a link to a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a link to another's file": _link_to_a_copy,
    "larger than memory": lambda path: (path.unlink(), _sparse(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("name", ["tls.pem", "renewal.pem", "root.pem", "node.toml"])
def test_no_file_of_a_node_that_was_taken_over_holds_up_or_misleads_whoever_looks(site, name, how):
    """Root runs both commands, in a folder where the node's user can put anything."""
    SPOILT[how](site.state.node / name)
    found, checks = status_of(site.state, datetime.now(UTC)), inspect(site)
    unknown = {"tls.pem": (True, False), "renewal.pem": (False, True), "root.pem": (True, True)}
    assert (found.certificate == UNKNOWN, found.renewal == UNKNOWN) == unknown.get(name, (False, False))
    if name == "root.pem":
        check(checks["TLS"], "unknown", "root.pem", "site enrol --help")
    elif name == "node.toml":
        check(checks["port"], "unknown", "node.toml", "site enrol --help")
        assert "TLS" not in checks
    else:
        check(checks["TLS"], "ok")
