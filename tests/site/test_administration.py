"""The administrators' socket: what it does to a running gate, in mid-round too, and what it takes from whom."""

import contextlib
import math
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from gate_by_socket import HEAD, NOBODY, Running, exchange, receive_frame, root_only

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ApprovalMissing, ConfigInvalid, LedgerBehind, RefusalCode
from fedhealth.link.frames import Answer, Head, Outgoing, PutStudy, Refused, ReleaseReply, pack, unpack_reply
from fedhealth.privacy.acts import Paused, Unpaused
from fedhealth.privacy.entries import Withdrawn
from fedhealth.privacy.verify import read_ledger, verify_ledger
from fedhealth.records.marks import PatientMarks
from fedhealth.site import gate_process, node_line
from fedhealth.site.acts import pause_site, resume_site, resume_study, withdraw_study
from fedhealth.site.administration import AdministratorPort, tell_gate
from fedhealth.site.gate_process import serve_gate
from fedhealth.site.instructions import ChangeConsent, Pause, Resume, study_named
from fedhealth.site.running_site import RunningSite
from fedhealth.site.shared_ring import RING_WANTED
from fedhealth.site.state import local_user

pytestmark = pytest.mark.processes
PAUSE, RESUME = Pause(site="ward-a"), Resume(site="ward-a")


@pytest.fixture(scope="module")
def start(make_protocol, make_csv):
    started = []

    def make():
        folder = Path(tempfile.mkdtemp(prefix="fh-"))  # under a short path, which other users may enter
        folder.chmod(0o755)
        started.append(Running(folder, make_protocol(), make_csv()))
        return started[-1]

    yield make
    for each in started:
        each.stop()
        shutil.rmtree(each.root)


@pytest.fixture(scope="module")
def running(start):
    return start()


def command(running, *words):
    """Run `fedhealth site VERB ...` as a process of its own."""
    verb, *rest = words
    program = [sys.executable, "-m", "fedhealth.cli.main", "site", verb, str(running.folder), *rest]
    return subprocess.run([*program, "--state", str(running.state.root)], capture_output=True, text=True, timeout=60)


def code_of(reply):
    assert isinstance(reply[0], Refused)
    return reply[0].code


def charges(running):
    """How many releases were charged; the ledger is read beside the gate."""
    return len(read_ledger(running.state.gate).account.reserved)


def question_of(running, number=1):
    return pack(Answer(study=running.study.digest, step="train", round=number), bytes(24))


def heard(running, data):
    """Say something to the administrators' socket; returns the reply, or None for being hung up on."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(running.state.administrators_socket))
        with contextlib.suppress(OSError):
            connection.sendall(data)
            return receive_frame(connection)


# In mid-round, with real processes


def test_a_round_that_waits_for_the_witness_is_paused_goes_on_and_is_charged_once(start):
    running = start()
    question = question_of(running)
    waiting = running.charge(question)
    paused = command(running, "pause")
    assert (paused.returncode, paused.stdout) == (
        0,
        "paused; the gate answers busy to every study from now on\n",
    ), paused.stderr
    # The very next frame, which is the coordinator's signature that the round waits for.
    assert code_of(running.say(running.sign(waiting))) == RefusalCode.BUSY
    assert code_of(running.say(question)) == RefusalCode.BUSY
    assert code_of(running.say(pack(PutStudy(), running.signed))) == RefusalCode.BUSY
    assert isinstance(running.say(HEAD)[0], Head)
    assert verify_ledger(running.state.gate).paused
    again = command(running, "pause")
    assert (again.returncode, "paused already" in again.stderr) == (ConfigInvalid.exit_code, True)
    assert command(running, "resume").stdout == "the site goes on\n"
    assert isinstance(running.say(question)[0], ReleaseReply)
    assert charges(running) == 1
    running.end()
    with running.state.opened_ledger("ward-a") as ledger:
        written = [entry for entry, _ in ledger.history() if isinstance(entry, Paused | Unpaused)]
    assert [(entry.kind, entry.by) for entry in written] == [("paused", local_user()), ("unpaused", local_user())]


def test_a_study_is_withdrawn_in_the_middle_of_its_round_and_gives_back_what_it_had_not_spent(start):
    running = start()
    waiting = running.charge(question_of(running))
    withdrawn = command(running, "withdraw", running.study.digest[:8])
    assert withdrawn.returncode == 0, withdrawn.stderr
    for frame in (running.sign(waiting), question_of(running), pack(PutStudy(), running.signed)):
        assert code_of(running.say(frame)) == RefusalCode.NOT_APPROVED
    assert charges(running) == 1
    with pytest.raises(ApprovalMissing):
        withdraw_study(running.folder, running.state, running.study.digest)
    running.end()
    with running.state.opened_ledger("ward-a") as ledger:
        assert [entry.by for entry, _ in ledger.history() if isinstance(entry, Withdrawn)] == [local_user()]
    spending = verify_ledger(running.state.gate).spending
    assert all(line.share_set_aside == line.share_spent for line in spending)


def test_after_a_gate_was_killed_its_socket_is_left_and_the_same_verbs_work_without_it(start):
    running = start()
    running.process.kill()
    running.process.wait()
    assert running.state.administrators_socket.exists()
    assert pause_site(running.folder, running.state) is False
    running.launch()
    assert code_of(running.say(question_of(running))) == RefusalCode.BUSY
    assert resume_site(running.folder, running.state) is True


# Who is heard, and what


def forget_instruction(state, patient, verb="forget"):
    marks = PatientMarks.under(state.naming_secret(), "ward", "id")
    return ChangeConsent(site="ward-a", verb=verb, data_set="ward", scheme=marks.scheme, mark=marks.of(patient))


def test_the_socket_is_for_the_gates_user_alone(running):
    path = running.state.administrators_socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


STRANGER = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(5)
    connection.connect(sys.argv[1])
    try:
        connection.sendall(bytes.fromhex(sys.argv[2]))
        print(len(connection.recv(4096)))
    except OSError:
        print(0)
"""


def framed(data):
    return struct.pack("!I", len(data)) + data


@root_only
def test_another_user_is_not_heard_even_where_the_files_let_it_in(running):
    path = running.state.administrators_socket
    opened = (running.state.root, path.parent, path)
    before = [stat.S_IMODE(each.stat().st_mode) for each in opened]
    for each in opened:
        each.chmod(0o777)
    words = ["/usr/bin/python3", "-I", "-c", STRANGER, str(path), framed(canonical_bytes(PAUSE)).hex()]
    done = subprocess.run(words, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, text=True)
    for each, mode in zip(opened, before, strict=True):
        each.chmod(mode)
    assert done.stdout == "0\n", done.stderr
    assert not verify_ledger(running.state.gate).paused
    assert "as its administrator and was refused" in running.log.read_text()


NOT_INSTRUCTIONS = {
    "nothing": b"",
    "garbage": b"\xff" * 40,
    "a verb that does not exist": b'{"site":"ward-a","verb":"obey"}',
    "a name of who does it": b'{"by":"somebody","site":"ward-a","verb":"pause"}',
    "spaces": b'{"site": "ward-a", "verb": "pause"}',
    "keys in another order": b'{"verb":"pause","site":"ward-a"}',
    "a pause of one study": canonical_bytes({"site": "ward-a", "study": "ab" * 32, "verb": "pause"}),
    "a withdrawal of none": b'{"site":"ward-a","study":null,"verb":"withdraw"}',
    "a withdrawal of too few digits": canonical_bytes({"site": "ward-a", "study": "ab" * 3, "verb": "withdraw"}),
    "a rejection with a sentence": canonical_bytes(
        {"site": "ward-a", "study": "ab" * 32, "verb": "reject", "reason": "only three such patients"}
    ),
    "a rejection of a study by its first digits": canonical_bytes(
        {"site": "ward-a", "study": "ab" * 8, "verb": "reject", "reason": None}
    ),
    "a patient by name": canonical_bytes(
        {"site": "ward-a", "verb": "forget", "data_set": "ward", "scheme": "ab" * 32, "mark": "p0"}
    ),
    "a patient of other data": canonical_bytes(
        {"site": "ward-a", "verb": "forget", "data_set": "icu", "scheme": "ab" * 32, "mark": "ab" * 32}
    ),
    "an approval of no study": canonical_bytes(
        {
            "site": "ward-a",
            "verb": "approve",
            "although_rejected": False,
            "signed_study": "bm8gc3R1ZHk=",
            "reply_after_ms": {"train": 20, "evaluate": 20},
        }
    ),
    "an approval of what is no base64": canonical_bytes(
        {"site": "ward-a", "verb": "approve", "although_rejected": False, "signed_study": "%", "reply_after_ms": {}}
    ),
    "a key that is none": canonical_bytes({"site": "ward-a", "verb": "trust", "name": "eve", "key": "ab" * 31}),
    "a researcher without a name": canonical_bytes({"site": "ward-a", "verb": "trust", "name": "", "key": "ab" * 32}),
    "nobody's key let go": canonical_bytes({"site": "ward-a", "verb": "distrust", "name": "nobody"}),
    "another site": b'{"site":"ward-b","verb":"pause"}',
}


@pytest.mark.parametrize("data", NOT_INSTRUCTIONS.values(), ids=NOT_INSTRUCTIONS)
def test_what_is_no_instruction_is_declined_and_changes_nothing(running, data):
    before = verify_ledger(running.state.gate).head.size
    assert b'"kind":"declined"' in heard(running, framed(data))
    assert verify_ledger(running.state.gate).head.size == before


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", struct.pack("!I", 2**20), framed(canonical_bytes(PAUSE)) * 2, b"GET / HTTP/1.1"],
    ids=["a length without end", "more than an instruction is", "two at once", "another protocol"],
)
def test_who_says_too_much_is_hung_up_on(running, data):
    assert heard(running, data) is None
    assert not verify_ledger(running.state.gate).paused


def test_who_stalls_holds_up_no_frame_and_others_only_for_its_time(running):
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stalled = stack.enter_context(socket.socket(socket.AF_UNIX))
            stalled.connect(str(running.state.administrators_socket))
            stalled.sendall(b"\0\0")
        for _ in range(20):
            assert isinstance(running.say(HEAD)[0], Head)
        stalled.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            stalled.recv(1)  # the last of them still has its turn before it
        assert tell_gate(running.state.administrators_socket, PAUSE)
        assert tell_gate(running.state.administrators_socket, RESUME)


def test_a_node_in_the_middle_of_a_frame_does_not_keep_an_administrator_waiting(running):
    question = question_of(running)
    with running.connect() as connection:
        connection.sendall(struct.pack("!I", len(question)) + question[:10])
        assert pause_site(running.folder, running.state)
        connection.sendall(question[10:])
        assert unpack_reply(receive_frame(connection))[0].code == RefusalCode.BUSY
        assert resume_site(running.folder, running.state)
        assert isinstance(exchange(connection, HEAD)[0], Head), "the same connection goes on"


def never():
    return -math.inf


class Large:
    """A gate whose replies are larger than what the kernel holds for a peer."""

    def handle(self, frame, digest=None):
        return Outgoing(pack(Refused(code=RefusalCode.BUSY)), time.monotonic(), bytes(2**25))


@pytest.mark.parametrize("asks_first", [b"", RING_WANTED], ids=["by the socket", "by shared memory"])
def test_a_node_that_does_not_take_its_reply_is_hung_up_on_when_an_administrator_waits(asks_first, monkeypatch):
    monkeypatch.setattr(node_line, "_HURRY_SECONDS", 0.2)
    done = []
    folder = Path(tempfile.mkdtemp(prefix="fh-"))
    read, write = os.pipe()
    port = AdministratorPort(folder / "admin.sock", {os.geteuid()}, lambda what, by: done.append((what, by)), never)
    arguments = (Large(), folder / "gate.sock", {os.geteuid()}, read, lambda *_: None, port)
    thread = threading.Thread(target=serve_gate, args=arguments)
    thread.start()
    try:
        while not (folder / "gate.sock").exists():
            time.sleep(0.005)
        with socket.socket(socket.AF_UNIX) as node:
            node.settimeout(10)
            node.connect(str(folder / "gate.sock"))
            node.sendall(asks_first)
            assert node.recv(len(asks_first)) == asks_first
            node.sendall(framed(HEAD))
            assert node.recv(1)  # the reply is on its way
            assert tell_gate(folder / "admin.sock", PAUSE)
            taken = 1
            with contextlib.suppress(ConnectionResetError):
                while part := node.recv(2**20):
                    taken += len(part)
        assert taken < 2**25
        assert done == [(PAUSE, local_user())]
    finally:
        os.close(write)
        thread.join(20)
        port.close()
        os.close(read)
        shutil.rmtree(folder)
    assert not thread.is_alive()


# What it does to a gate, without processes


def test_a_pause_in_mid_round_uses_up_no_attempt_of_the_release(hospital, steps):
    def die(*arguments):
        raise KeyboardInterrupt

    here = hospital(compute=die)
    with pytest.raises(KeyboardInterrupt):
        here.ask()  # one of the two attempts
    here.reopen(steps["noise_only"], confirm=False)
    here.send(here.question())
    here.gate.administer(PAUSE, "ann")
    assert here.send(here.witnessed())[0].code == RefusalCode.BUSY
    here.gate.administer(RESUME, "ann")
    assert isinstance(here.ask()[0], ReleaseReply)
    assert here.charges() == 1


def test_a_study_that_a_failure_stopped_goes_on_without_a_restart(hospital, steps):
    broken = [True]

    def compute(*arguments):
        if broken[0]:
            raise MemoryError
        return steps["noise_only"](*arguments)

    here = hospital(compute=compute)
    assert here.ask()[0].code == RefusalCode.BUSY
    broken[0] = False
    assert here.ask()[0].code == RefusalCode.BUSY
    here.gate.administer(Resume(site="ward-a", study=here.study.digest), "ann")
    assert isinstance(here.ask()[0], ReleaseReply)
    assert here.charges() == 1


def test_nothing_is_written_to_a_ledger_that_is_held(ward, steps):
    here = ward()
    here.state.hold.set_restored()
    gate, ledger = here.open_gate(steps["noise_only"])
    before = ledger.size, ledger.journal_size
    site = RunningSite(here.folder, here.state, gate, ledger, gate_process.SYSTEM_CLOCK)
    for instruction in (PAUSE, forget_instruction(here.state, "p0")):
        with pytest.raises(LedgerBehind):
            site.administer(instruction, "ann")
    assert (ledger.size, ledger.journal_size) == before
    ledger.close()


# name: (what is given for the study, of a site that approved it; the words of the refusal)
NO_STUDIES = {
    "too few digits": (lambda digest: digest[:7], "not approved here"),
    "too many digits": (lambda digest: digest + "0", "not approved here"),
    "capital letters": (lambda digest: digest.upper(), "not approved here"),
    "no digits": (lambda digest: "small-study", "not approved here"),
    "another study": (lambda digest: ("0" if digest[0] == "1" else "1") + digest[1:12], "not approved here"),
    "another at its end": (lambda digest: digest[:-1] + ("0" if digest[-1] == "1" else "1"), "not approved here"),
}


@pytest.mark.parametrize(("given", "words"), NO_STUDIES.values(), ids=NO_STUDIES)
@pytest.mark.parametrize("call", [withdraw_study, resume_study])
def test_what_names_no_approved_study_changes_nothing(ward, make_protocol, steps, call, given, words):
    here, study = ward(), make_protocol()
    here.approve(study, steps["noise_only"])
    before = here.traces
    with pytest.raises(ApprovalMissing, match=words):
        call(here.folder, here.state, given(study.digest))
    assert here.traces == before


def test_a_study_is_named_by_its_first_digits_as_long_as_no_other_begins_so():
    one, other = "abcdef01" + "0" * 56, "abcdef01" + "1" * 56
    assert study_named("abcdef01", {one}) == one
    assert study_named(other[:9], {one, other}) == other
    with pytest.raises(ConfigInvalid, match="2 studies") as caught:
        study_named("abcdef01", {one, other})
    assert "abcdef010000" in str(caught.value) and "abcdef011111" in str(caught.value)
