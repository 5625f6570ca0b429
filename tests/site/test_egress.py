"""The egress log: every frame that leaves has its line, releases are never pushed out, and nothing leaves unwritten."""

import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time

import pytest

from fedhealth.cli.main import main
from fedhealth.errors import LedgerDamaged, RefusalCode
from fedhealth.link.frames import Answer, AskHead, Refused, ReleaseReply, pack
from fedhealth.site import egress
from fedhealth.site.egress import EgressLog, read_egress
from fedhealth.site.gate import Outgoing
from fedhealth.site.gate_process import serve_gate

STUDY, RELEASE = "a" * 64, "b" * 64
QUESTION = pack(Answer(study=STUDY, step="train", round=1), bytes(24))
BUSY = pack(Refused(code=RefusalCode.BUSY))


def release(name=RELEASE, payload=b"payload"):
    return pack(ReleaseReply(release=name, signature="c" * 128), payload)


@pytest.fixture
def log(tmp_path):
    opened = []

    def open_log(now=lambda: 1_700_000_000_000):
        opened.append(EgressLog(tmp_path, now))
        return opened[-1]

    yield open_log
    for each in opened:
        each.close()


def test_a_line_says_when_what_for_which_study_how_many_bytes_and_which_hash(log, tmp_path):
    log().record(QUESTION, release())
    (line,) = read_egress(tmp_path).lines
    assert line.model_dump() == {
        "at": 1_700_000_000_000,
        "kind": "release",
        "study": STUDY,
        "release": RELEASE,
        "bytes": len(release()),
        "sha256": hashlib.sha256(release()).hexdigest(),
    }


@pytest.mark.parametrize(
    ("request_frame", "reply", "kind", "study"),
    [
        (QUESTION, BUSY, "refused busy", STUDY),
        (pack(AskHead(since=0)), BUSY, "refused busy", None),
        (b"", BUSY, "refused busy", None),
        (b"\xff" * 70_000, BUSY, "refused busy", None),
        (struct.pack("!I", 40_000) + b"[" * 40_000, BUSY, "refused busy", None),
        (struct.pack("!I", 13) + b'{"study":"x"}', BUSY, "refused busy", None),
        (QUESTION, b"no frame", "unknown", STUDY),
    ],
)
def test_whatever_a_node_sends_the_reply_has_its_line(log, tmp_path, request_frame, reply, kind, study):
    log().record(request_frame, reply)
    (line,) = read_egress(tmp_path).lines
    assert (line.kind, line.study, line.release, line.bytes) == (kind, study, None, len(reply))


def test_releases_stay_however_much_else_a_node_asks_for(log, tmp_path, monkeypatch):
    monkeypatch.setattr(egress, "FILE_BYTES", 2_000)
    written = log()
    names = [f"{number:064x}" for number in range(30)]
    for name in names:
        written.record(QUESTION, release(name))
        for _ in range(20):
            written.record(QUESTION, BUSY)
            written.record(QUESTION, release(names[0]))  # a repeat
    kept = read_egress(tmp_path)
    assert {line.release for line in kept.lines} - {None} == set(names)
    assert kept.unreadable == 0
    others = sum(path.stat().st_size for path in (tmp_path / "egress").glob("others*"))
    assert 2_000 < others <= egress.KEPT_FILES * 2_000
    assert len(list((tmp_path / "egress").glob("others*"))) == egress.KEPT_FILES


def test_a_restart_neither_forgets_nor_repeats_the_first_sending(log, tmp_path):
    log(lambda: 1000).record(QUESTION, release())
    again = log(lambda: 2000)
    again.record(QUESTION, release())
    again.record(QUESTION, release("d" * 64))
    lines = {(line.at, line.release) for line in read_egress(tmp_path).lines}
    assert lines == {(1000, RELEASE), (2000, RELEASE), (2000, "d" * 64)}
    assert len((tmp_path / "egress" / "releases.jsonl").read_bytes().splitlines()) == 2


def test_a_line_that_a_power_cut_left_half_takes_no_other_with_it(log, tmp_path):
    log().record(QUESTION, release())
    path = tmp_path / "egress" / "releases.jsonl"
    with path.open("ab") as file:
        file.write(path.read_bytes()[:50])
    log().record(QUESTION, release("d" * 64))
    found = read_egress(tmp_path)
    assert ([line.release for line in found.lines], found.unreadable) == ([RELEASE, "d" * 64], 1)


def test_the_log_is_for_the_gates_user_only(log, tmp_path):
    log().record(QUESTION, release())
    assert (tmp_path / "egress").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "egress").iterdir())


def test_what_cannot_be_written_down_does_not_leave(tmp_path):
    class Answering:
        def handle(self, frame, digest):
            return Outgoing(b"secret", time.monotonic())

    class Full:
        def __init__(self):
            self.error = None

        def record(self, request, start, body_bytes, body_sha256):
            raise LedgerDamaged("the disk is full")

        def serve(self, *arguments):
            try:
                serve_gate(*arguments)
            except LedgerDamaged as error:
                self.error = error

    full, path = Full(), tmp_path / "s"
    end, lifeline = os.pipe()
    thread = threading.Thread(target=full.serve, args=(Answering(), path, {os.geteuid()}, end, full.record))
    thread.start()
    while not path.exists():
        time.sleep(0.005)
    with socket.socket(socket.AF_UNIX) as node:
        node.connect(str(path))
        node.sendall(struct.pack("!I", 3) + b"ask")
        assert node.recv(1) == b""
    thread.join(10)
    assert full.error is not None  # the gate ends, and says why
    os.close(lifeline)
    os.close(end)


@pytest.mark.parametrize("written", [10, OSError(28, "No space left on device")], ids=["half a line", "no line"])
def test_a_full_disk_is_an_error_for_the_administrator(log, monkeypatch, written):
    open_log = log()

    def write(descriptor, line):
        if isinstance(written, OSError):
            raise written
        return written

    monkeypatch.setattr(egress.os, "write", write)
    with pytest.raises(LedgerDamaged, match="nothing leaves"):
        open_log.record(QUESTION, BUSY)


def test_the_command_lists_what_left_within_80_columns(log, tmp_path, capsys, monkeypatch):
    gate = tmp_path / "state" / "gate"
    gate.mkdir(parents=True)
    written = EgressLog(gate, lambda: 1_700_000_000_000)
    written.record(QUESTION, release(payload=bytes(3_000_000)))
    written.record(pack(AskHead(since=0)), BUSY)
    written.record(pack(Answer(study="e" * 64, step="train", round=1)), pack(Refused(code=RefusalCode.BUDGET_SPENT)))
    written.close()

    def run(*options, code=0):
        monkeypatch.setattr(sys, "argv", ["fedhealth", "site", "egress", "--state", str(gate.parent), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        return capsys.readouterr().out

    lines = run().splitlines()
    assert all(len(line) <= 80 for line in lines)
    # 1,700,000,000 seconds after 1970 is 2023-11-14 22:13:20 UTC.
    assert lines[0].startswith("2023-11-14 22:13:20  release              aaaaaaaaaaaa    3,000,")
    assert "refused budget-spent eeeeeeeeeeee" in lines[2]
    assert lines[-1].startswith("3 frames, 3,000,")
    assert lines[-1].endswith("1 with a release")
    for digest in (STUDY, STUDY[:12]):  # as lists show it
        assert [line["kind"] for line in json.loads(run("--json", "--study", digest))["lines"]] == ["release"]
    run("--study", "heart-disease", code=3)  # a name: not "nothing left"
