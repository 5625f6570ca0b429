"""The page at a hospital with three Unix users, started by root: whose each process is, and which way counts go."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("tantivy", reason="the extra `search` is not installed")

from clinic import RunningPage, asker_files, counting, indexed, until
from unix_users import GATE, NODE, STRANGER, as_user, environment, interpreter, why_not

pytestmark = [pytest.mark.processes, pytest.mark.skipif(bool(why_not()), reason=why_not() or "it runs")]


def give(path, user, group, mode=None):
    os.chown(path, user, group)
    if mode is not None:
        path.chmod(mode)


@pytest.fixture
def hospital(compiled_terms):
    """A site whose gate, node and page are three users, and a folder for the socket of those who ask."""
    folder = Path(tempfile.mkdtemp(prefix="fh-"))
    folder.chmod(0o755)
    here = indexed(folder, compiled_terms)
    here.askers = asker_files(here.folder)
    for path in here.askers.values():
        give(path, STRANGER, STRANGER)
    here.state.node.mkdir()
    give(here.state.node, NODE, NODE, 0o700)
    for path in (here.state.gate, *here.state.gate.rglob("*")):
        give(path, GATE, GATE)
    here.folder.chmod(0o755)
    here.state.root.chmod(0o755)
    here.state.askers.mkdir()
    give(here.state.askers, NODE, STRANGER, 0o2710)
    yield here
    shutil.rmtree(folder)


def user_of(process):
    """Return the user, and all groups, of a process, by the kernel's word."""
    status = Path(f"/proc/{process}/status").read_text()
    users = set(map(int, re.search(r"Uid:\t(.*)", status)[1].split()))
    return users, set(map(int, re.search(r"Groups:\t(.*)", status)[1].split()))


def test_the_page_is_its_own_user_the_search_the_gates_and_counts_go_by_the_askers_socket(hospital):
    words = [word for name, path in hospital.askers.items() for word in (f"--{name}", str(path))]
    options = {"python": interpreter(), "cwd": "/", "env": environment()}
    page = RunningPage(hospital.state.root, "--user", str(STRANGER), *words, **options)
    try:
        assert page.post("/enter", token=page.opened["token"]).status_code == 200
        found = page.post("/ask", query="goutte")
        assert (found.status_code, "&lt;b&gt;goutte" in found.text) == (200, True), found.text
        assert user_of(page.child("page-server")) == ({STRANGER}, {STRANGER})
        search = until(lambda: page.child("page-search"))
        assert user_of(search) == ({GATE}, {GATE})
        assert Path(f"/proc/{search}/net/dev").read_text().count(":") == 1
        shown = page.post("/count", code1="icd10:G20", has1="having")
        signed = re.search(r'name="bytes" value="([^"]*)"', shown.text)[1].replace("&#34;", '"')
        assert hospital.state.counts_socket.parent == hospital.state.askers
        with counting(hospital.state.counts_socket) as left:
            assert "118" in page.post(shown.url.path, bytes=signed).text
        assert left == [signed.encode()]
    finally:
        page.stop()


LISTEN = """
import sys
from pathlib import Path
from fedhealth.site.confinement import confine_node
confine_node(Path(sys.argv[1]), 1)
from fedhealth.site.state import SiteState
from fedhealth.unix_socket import listen_at
print(listen_at(SiteState(Path(sys.argv[1])).counts_socket, 0o660).getsockname())
"""
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


def test_a_confined_node_listens_for_those_who_ask_and_the_gates_user_cannot_come_there(hospital):
    def run(user, program, path):
        words = [*as_user(user, "-c", program), str(path)]
        return subprocess.run(words, cwd="/", env=environment(), capture_output=True, text=True, timeout=60)

    made = run(NODE, LISTEN, hospital.state.root)
    assert made.returncode == 0, made.stderr
    socket = hospital.state.counts_socket
    assert (socket.parent, socket.stat().st_uid, socket.stat().st_gid) == (hospital.state.askers, NODE, STRANGER)
    assert "ConnectionRefused" in run(STRANGER, CONNECT, socket).stderr  # it may, and nobody listens any more
    assert "PermissionError" in run(GATE, CONNECT, socket).stderr


@pytest.mark.parametrize("user", [str(GATE), "0"], ids=["the gate's", "root"])
def test_the_page_of_such_a_hospital_is_no_user_who_has_data(hospital, user):
    with pytest.raises(ValueError):  # it says no line of where it is open
        RunningPage(hospital.state.root, "--user", user, python=interpreter(), cwd="/", env=environment())
