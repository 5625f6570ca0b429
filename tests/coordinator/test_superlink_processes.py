"""A stock SuperLink and SuperExec as real processes: guarded, started again after a kill, and gone at the end."""

import asyncio
import os
import signal
import socket
import sqlite3
import stat
from contextlib import closing

import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.coordinator import superlink_engine, superlink_processes
from fedhealth.coordinator.node_keys import NodeKeys, node_key
from fedhealth.coordinator.superlink_engine import SuperLinkEngine
from fedhealth.coordinator.superlink_processes import SuperLinkProcesses, bound_log
from fedhealth.errors import ConfigInvalid, FederationFailed, LinkUnavailable
from fedhealth.flower.superlink_control import is_guarded
from fedhealth.link.services import PeerAway

pytestmark = pytest.mark.processes
SSH = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH


def ssh_key():
    return ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*SSH)


async def another(processes, program, before):
    """Wait until a program runs as another process than before, and the SuperLink answers."""
    while processes.process_ids().get(program, before) == before:
        await asyncio.sleep(0.05)
    while True:
        control = processes.control()
        try:
            return await asyncio.to_thread(control.nodes)
        except FederationFailed:
            await asyncio.sleep(0.05)
        finally:
            control.close()


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_superlink_is_guarded_keeps_its_keys_over_a_kill_and_leaves_nothing_running(tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there, and nobody goes there
    monkeypatch.setenv("no_proxy", "example.org")
    first, second = ssh_key(), ssh_key()
    before = children()

    async def scene():
        engine = SuperLinkEngine(tmp_path / "superlink", lambda _event: None)
        await engine.start()
        try:
            processes = engine.processes
            ids = processes.process_ids()
            listening = {
                each.laddr.ip
                for pid in ids.values()
                for each in psutil.Process(pid).net_connections()
                if each.status == psutil.CONN_LISTEN
            }
            assert listening == {"127.0.0.1"}
            assert is_guarded(processes.address, processes.certificate)
            for name in ("certificate.key", "control.secret", "superexec.secret"):
                assert stat.S_IMODE((tmp_path / "superlink" / name).stat().st_mode) == 0o600
            await engine.register("a", first)
            await engine.register("a", first)
            with pytest.raises(FederationFailed, match="its key is that of site 'a'"):
                await engine.register("b", first)
            await engine.register("b", second)
            with pytest.raises(PeerAway, match="no connection"):
                await engine.carry("a", b"frame", 1.0, 100)
            engine.linked("a", True)
            with pytest.raises(PeerAway, match="a link without a SuperNode"):
                await engine.carry("a", b"frame", 1.0, 100)
            for program, pid in ids.items():
                os.kill(pid, signal.SIGKILL)
                known = await another(processes, program, pid)
                assert set(known) == {node_key("a", first), node_key("b", second)}
            assert is_guarded(processes.address, processes.certificate), "after a kill as well"
        finally:
            await engine.stop()

    asyncio.run(scene())
    assert children() == before


def test_a_site_without_a_supernode_is_told_of_after_a_while_and_one_that_left_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(superlink_engine, "JOIN_SECONDS", 0.05)
    told = []

    async def scene():
        engine = SuperLinkEngine(tmp_path / "superlink", told.append)
        for site, connected in (("a", True), ("b", True), ("b", False)):
            engine.linked(site, connected)
        await asyncio.sleep(0.2)
        await engine.stop()

    asyncio.run(scene())
    assert told == [{"event": "no-supernode", "site": "a"}]


def test_a_new_database_is_filled_from_the_record_of_keys(tmp_path):
    key = ssh_key()

    async def scene():
        for last in (False, True):
            engine = SuperLinkEngine(tmp_path / "superlink", lambda _event: None)
            await engine.start()
            try:
                control = engine.processes.control()
                if last:
                    assert set(control.nodes()) == {node_key("a", key)}
                else:
                    await engine.register("a", key)
                control.close()
            finally:
                await engine.stop()
            for path in (tmp_path / "superlink").glob("state.db*"):
                path.unlink()

    asyncio.run(scene())


def refused(processes, error, match):
    before = children()

    async def scene():
        with pytest.raises(error, match=match):
            await processes.start()

    asyncio.run(scene())
    assert children() == before


def test_a_key_that_is_refused_takes_no_other_away_and_keeps_no_coordinator_from_starting(tmp_path):
    first, second, other = ssh_key(), ssh_key(), ssh_key()

    async def scene():
        engine = SuperLinkEngine(tmp_path / "superlink", lambda _event: None)
        await engine.start()
        try:
            await engine.register("b", other)
            await engine.register("a", first)
            await engine.register("a", second)  # Flower takes the first one never again
            with pytest.raises(FederationFailed, match="does not do what it was asked"):
                await engine.register("a", first)
            control = engine.processes.control()
            assert set(control.nodes()) == {node_key("a", second), node_key("b", other)}
            control.close()
        finally:
            await engine.stop()
        NodeKeys(tmp_path / "superlink" / "nodes").keep("a", node_key("a", first))
        engine = SuperLinkEngine(tmp_path / "superlink", lambda _event: None)
        await engine.start()
        try:
            assert await engine.register("b", other)
        finally:
            await engine.stop()

    asyncio.run(scene())


def test_a_log_that_grows_is_put_aside_and_written_on(tmp_path):
    path = tmp_path / "flower-superlink.log"
    with path.open("ab", buffering=0) as log:  # as the process has it
        for number in range(3):
            log.write(b"%d" % number * 600)
            bound_log(path, most=1000)
            log.write(b"-")
    # Of the parts of 600 bytes the second is the first beyond 1,000: what was there goes aside, the rest is written on.
    assert path.with_name("flower-superlink.log.1").read_bytes() == b"0" * 600 + b"-" + b"1" * 600
    assert path.read_bytes() == b"-" + b"2" * 600 + b"-"


def test_a_log_is_looked_at_while_its_program_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("fedhealth.coordinator.superlink_processes.LOG_SECONDS", 0.01)
    monkeypatch.setattr("fedhealth.coordinator.superlink_processes.bound_log", lambda path: looked.add(path.name))
    looked = set()

    async def run():
        processes = SuperLinkProcesses(tmp_path / "superlink", tmp_path / "frames.sock")
        await processes.start()
        try:
            async with asyncio.timeout(30):
                while len(looked) < 2:
                    await asyncio.sleep(0.01)
        finally:
            await processes.stop()

    asyncio.run(run())
    assert looked == {"flower-superlink.log", "flower-superexec.log"}


def test_a_port_in_use_is_said_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        processes = SuperLinkProcesses(tmp_path / "s", tmp_path / "none", port)
        refused(processes, LinkUnavailable, rf"cannot listen at 127\.0\.0\.1:{port}; got Address already in use")


def test_a_database_of_a_later_flower_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "s").mkdir()
    database = tmp_path / "s" / "state.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
        connection.commit()
    before = database.read_bytes()
    refused(SuperLinkProcesses(tmp_path / "s", tmp_path / "none"), ConfigInvalid, "a database of form 0123456789ab")
    assert database.read_bytes() == before


def test_a_superlink_that_ends_early_is_told_of_with_the_end_of_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(superlink_processes, "stock_command", lambda *_: ["/bin/sh", "-c", "echo cannot go on; exit 3"])
    refused(SuperLinkProcesses(tmp_path / "s", tmp_path / "none"), FederationFailed, "got cannot go on")


def test_a_superlink_that_lets_strangers_start_apps_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(superlink_processes, "is_guarded", lambda *_: False)
    processes = SuperLinkProcesses(tmp_path / "s", tmp_path / "none")
    refused(processes, FederationFailed, "would let anybody on this machine start an app")
