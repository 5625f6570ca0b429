"""`fedhealth site page` with its real processes: what they may; one that dies is replaced; all end together."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tantivy", reason="the extra `search` is not installed")

from clinic import RunningPage, asker_files, counting, indexed, until

from fedhealth.errors import ConfigInvalid
from fedhealth.page.running import listen_for_browsers

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is looked at is Linux's"),
]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory, compiled_terms):
    here = indexed(tmp_path_factory.mktemp("clinic"), compiled_terms)
    here.state.node.mkdir()
    words = [word for name, path in asker_files(here.folder).items() for word in (f"--{name}", str(path))]
    here.page = RunningPage(here.state.root, *words)
    yield here
    here.page.stop()


def test_a_clinician_searches_and_has_others_count_over_real_processes(clinic):
    page = clinic.page
    assert page.post("/enter", token=page.opened["token"]).status_code == 200
    found = page.post("/ask", query="douleur thoracique, maladie de Parkinson, sans démence")
    assert (found.status_code, "Lettre de sortie" in found.text) == (200, True), found.text
    letter = re.search(r'href="([^"]+)" dir="auto">Lettre de sortie', found.text)[1]
    assert "Retour au domicile" in page.browser.get(letter).text
    proposal = page.browser.get(found.url.path.replace("asked", "count/from")).text
    assert "icd10:G20" in re.findall(r'id="code\d" value="([^"]+)"', proposal)
    shown = page.post("/count", code1="icd10:G20", has1="having")
    signed = re.search(r'name="bytes" value="([^"]*)"', shown.text)[1].replace("&#34;", '"')
    with counting(clinic.state.counts_socket) as left:
        assert "118" in page.post(shown.url.path, bytes=signed).text
    assert left == [signed.encode()]


def test_an_identifier_or_a_letter_is_searched_here_and_proposes_no_count(clinic):
    page = clinic.page
    page.post("/enter", token=page.opened["token"])
    for question in (
        "maladie de Parkinson 12345678",
        "Chère consœur, je vous adresse Madame X pour une maladie de Parkinson. " * 4,
    ):
        found = page.post("/ask", query=question)
        assert found.status_code == 200
        proposal = page.browser.get(found.url.path.replace("asked", "count/from")).text
        assert set(re.findall(r'id="code\d" value="([^"]*)"', proposal)) == {""}


def test_what_searches_has_no_network_and_the_page_can_open_no_file_of_the_gate(clinic):
    page = clinic.page
    search, server = until(lambda: page.child("page-search")), page.child("page-server")
    network = Path(f"/proc/{search}/net/dev").read_text().count(":")
    assert network == 1  # its own loopback
    for each in (search, server):
        assert "NoNewPrivs:\t1" in Path(f"/proc/{each}/status").read_text()
    opened = {str(path.readlink()) for path in Path(f"/proc/{server}/fd").iterdir()}
    assert not {path for path in opened if path.startswith(str(clinic.state.root))}
    index = str(clinic.state.index)
    assert any(str(path.readlink()).startswith(index) for path in Path(f"/proc/{search}/fd").iterdir())


def test_a_search_that_was_killed_is_started_again_and_the_session_goes_on(clinic):
    page = clinic.page
    page.post("/enter", token=page.opened["token"])
    found = page.post("/ask", query="goutte")
    before = until(lambda: page.child("page-search"))
    os.kill(before, signal.SIGKILL)
    until(lambda: page.child("page-search") not in (None, before))
    until(lambda: page.browser.get(found.url).status_code == 200)


def test_the_page_ends_with_its_command_and_the_command_with_the_page(clinic, tmp_path):
    token = tmp_path / "token"
    other = RunningPage(clinic.state.root, "--token-file", str(token))
    try:
        assert "token" not in other.opened
        assert token.stat().st_mode & 0o777 == 0o600
        assert other.post("/enter", token=token.read_text()).status_code == 200
        os.kill(other.child("page-server"), signal.SIGKILL)
        assert other.process.wait(20) == 11
    finally:
        other.stop()


def test_the_page_can_send_what_it_was_shown_to_nobody_by_any_network_and_run_no_program():
    """A page that a document has taken over: Landlock stops TCP, and a datagram would carry a letter as well."""
    seen = subprocess.run([sys.executable, "-c", _TRY_TO_SEND], capture_output=True, text=True, check=True)
    assert json.loads(seen.stdout) == {
        "AF_INET": False,
        "AF_INET6": False,
        "AF_UNIX": True,
        "exec": False,
        "search": False,
    }


_TRY_TO_SEND = """
import json, os, socket, sys
from fedhealth.site.confinement import confine_page
from fedhealth.site.system_calls import give_up_system_calls
confine_page()
def can(family):
    try:
        socket.socket(getattr(socket, family), socket.SOCK_DGRAM).close()
        return True
    except PermissionError:
        return False
able = {family: can(family) for family in ("AF_INET", "AF_INET6", "AF_UNIX")}
try:
    os.execv("/bin/true", ["true"])
except PermissionError:
    able["exec"] = False
give_up_system_calls()  # as what searches does: not even a socket that is a file
able["search"] = can("AF_UNIX")
print(json.dumps(able))
"""


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "localhost", ""])  # noqa: S104 - refused
def test_it_is_served_on_the_loopback_alone(address):
    with pytest.raises(ConfigInvalid, match="loopback alone"):
        listen_for_browsers(address, 0)
