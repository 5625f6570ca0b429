"""The service manager's units: that they are well formed, start what exists, and confine as much as they say."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from fedhealth.cli.commands import app

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
MOST_EXPOSED = {
    "fedhealth-gate.service": 1.0,
    "fedhealth-index.service": 1.0,
    "fedhealth-node.service": 2.0,
    "fedhealth-page.service": 3.0,
    "fedhealth-supernode.service": 2.0,
    "fedhealth-worker.service": 2.0,
    "fedhealth-coordinator@.service": 2.0,
    "fedhealth-coordinator.service": 2.0,
}
"""systemd's own measure, 0 to 10: below 2 is what it calls "OK"; a service without any of these lines has 9.6."""
HOSPITAL = {"fedhealth-gate.service", "fedhealth-node.service"}

analyzed = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
each_service = pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)


def settings(path):
    """Return the [Service] section of a unit: each key's last value."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str
    parser.read(path, encoding="utf-8")
    return dict(parser["Service"])


def exposure(path):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)], capture_output=True, text=True
    )
    return float(re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)[1])


def test_there_is_a_limit_for_each_service():
    assert {path.name for path in SERVICES} == set(MOST_EXPOSED)


@analyzed
@each_service
def test_a_service_is_exposed_no_more_than_stated(path, tmp_path):
    assert exposure(path) <= MOST_EXPOSED[path.name]
    bare = tmp_path / path.name
    bare.write_text("[Service]\nExecStart=" + settings(path)["ExecStart"] + "\n")
    assert exposure(bare) > 9  # so the figure is of the lines, not of the program


def test_no_service_of_the_machine_looks_up_a_name_or_prints_for_the_page():
    # It keeps Unix sockets, for the node's; resolved (by D-Bus or varlink), nscd and avahi send names into the network.
    hidden = set(settings(UNITS / "fedhealth-page.service")["InaccessiblePaths"].split())
    assert {f"-/run/{name}" for name in ("dbus", "systemd/resolve", "nscd", "avahi-daemon", "cups")} <= hidden


@analyzed
@each_service
def test_systemd_finds_nothing_wrong_with_a_service(path, tmp_path):
    program = tmp_path / "fedhealth"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / path.name.replace("@.", "@study.")
    copy.write_text(path.read_text().replace("/opt/fedhealth/bin/fedhealth", str(program)))
    assert verify(copy) == (0, "")
    copy.write_text(copy.read_text().replace("PrivateTmp", "PrivatTmp"))
    assert "PrivatTmp" in verify(copy)[1]


def verify(path):
    """Return what systemd says of a unit; lines of units of this machine are none of ours."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(path)], capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if path.name in line or "fedhealth" in line]
    return done.returncode, "\n".join(said)


@each_service
def test_a_service_starts_a_command_that_exists_with_options_that_exist(path):
    _, *words = shlex.split(settings(path)["ExecStart"])
    command = typer.main.get_command(app)
    context = command.make_context("fedhealth", list(words), resilient_parsing=True)
    while words and hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words), parent=context)  # raises on an option that is not known


@pytest.mark.parametrize("name", sorted(HOSPITAL))
def test_gate_and_node_are_two_users_without_rights(name):
    unit = settings(UNITS / name)
    assert unit["User"] == name.removesuffix(".service")
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == ""
    assert unit["NoNewPrivileges"] == "yes"


def test_the_gate_has_no_network_and_can_tell_users_apart():
    unit = settings(UNITS / "fedhealth-gate.service")
    assert (unit["PrivateNetwork"], unit["RestrictAddressFamilies"], unit["IPAddressDeny"]) == ("yes", "AF_UNIX", "any")
    assert "PrivateUsers" not in unit
    assert "--node-user fedhealth-node" in unit["ExecStart"]


def test_the_index_is_the_gates_has_no_network_and_is_last_in_every_queue():
    unit = settings(UNITS / "fedhealth-index.service")
    assert unit["User"] == "fedhealth-gate"
    assert (unit["PrivateNetwork"], unit["RestrictAddressFamilies"], unit["IPAddressDeny"]) == ("yes", "AF_UNIX", "any")
    assert (unit["CPUSchedulingPolicy"], unit["IOSchedulingClass"], unit["Nice"]) == ("idle", "idle", "19")
    assert int(unit["OOMScoreAdjust"]) > 0


def test_the_node_sees_neither_data_nor_the_gates_state():
    hidden = settings(UNITS / "fedhealth-node.service")["InaccessiblePaths"].split()
    assert hidden == ["-/srv/fedhealth", "-/var/lib/fedhealth/gate"]


def test_supernode_and_worker_are_the_nodes_user_see_no_data_and_speak_on_the_loopback_alone():
    for name in ("supernode", "worker"):
        unit = settings(UNITS / f"fedhealth-{name}.service")
        assert (unit["User"], unit["IPAddressDeny"], unit["IPAddressAllow"]) == ("fedhealth-node", "any", "localhost")
        assert unit["InaccessiblePaths"].split() == ["-/srv/fedhealth", "-/var/lib/fedhealth/gate"]
        assert (unit["SocketBindDeny"], unit.get("SocketBindAllow")) == (
            "any",
            "ipv4:tcp:7452" if name == "supernode" else None,
        )


def test_each_of_the_three_finds_the_next_where_it_listens():
    node = (UNITS / "fedhealth-node.superlink.conf").read_text()
    supernode, worker = (settings(UNITS / f"fedhealth-{name}.service")["ExecStart"] for name in ("supernode", "worker"))
    assert "--engine superlink --supernode-port 7451\n" in node and "SocketBindAllow=ipv4:tcp:7451\n" in node
    assert supernode.endswith("--node-port 7451 --port 7452") and worker.endswith("--port 7452")


@each_service
def test_what_reads_other_processes_is_no_allowed_system_call(path):
    filters = re.findall(r"^SystemCallFilter=(.*)$", path.read_text(), re.MULTILINE)
    assert filters[0] == "@system-service"
    denied = " ".join(line for line in filters if line.startswith("~"))
    assert {"@privileged", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "@keyring"} <= set(
        denied.removeprefix("~").split()
    )
    assert "landlock_restrict_self" in filters[-1]


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or os.geteuid() != 0, reason="needs systemd-sysusers and root"
)
def test_the_users_are_made_with_one_group_in_common(tmp_path):
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "fedhealth.sysusers.conf")], check=True)
    users = {line.split(":")[0]: line.split(":")[2] for line in (tmp_path / "etc" / "passwd").read_text().splitlines()}
    assert set(users) == {"fedhealth-gate", "fedhealth-node", "fedhealth-page"}
    assert len(set(users.values())) == 3
    groups = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc" / "group").read_text().splitlines()}
    assert set(groups["fedhealth"].split(",")) == {"fedhealth-gate", "fedhealth-node"}
    assert set(groups["fedhealth-askers"].split(",")) == {"fedhealth-node", "fedhealth-page"}


def test_every_folder_of_a_site_is_closed_to_others_and_each_owner_exists():
    made = re.findall(
        r"^d (\S+) [02](\d)(\d)(\d) (\S+) (\S+) -$", (UNITS / "fedhealth.tmpfiles.conf").read_text(), re.M
    )
    users = re.findall(r"^[ug] (\S+)", (UNITS / "fedhealth.sysusers.conf").read_text(), re.M)
    owners = {folder: (user, group) for folder, *_, user, group in made}
    assert owners["/var/lib/fedhealth"] == ("fedhealth-gate", "fedhealth")
    assert owners["/var/lib/fedhealth/node"] == ("fedhealth-node", "fedhealth-node")
    assert owners["/var/lib/fedhealth-askers"] == ("fedhealth-node", "fedhealth-askers")
    assert owners["/srv/fedhealth/site"] == ("root", "fedhealth-gate")
    for _, _, group_may, others_may, user, group in made:
        assert others_may == "0"
        assert int(group_may) & 2 == 0  # no group may write
        assert {user, group} <= {*users, "root"}
