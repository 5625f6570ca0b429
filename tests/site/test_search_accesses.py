"""Who was shown whose documents: written before it is shown, kept as long as wanted, and without who is forgotten."""

import json
from datetime import UTC, datetime

import pytest

pytest.importorskip("tantivy", reason="the extra `search` is not installed")

from fedhealth.errors import DataUnusable
from fedhealth.search.search_file import AccessLog
from fedhealth.site import search_accesses
from fedhealth.site.consent import forget_patient
from fedhealth.site.search_accesses import (
    Access,
    forget_in_accesses,
    keep_settings,
    read_accesses,
    write_access,
)
from fedhealth.site.search_consent import keep_consent, make_index_folder, read_consent

MAY = int(datetime(2026, 5, 4, tzinfo=UTC).timestamp() * 1000)
MONTH = 31 * 86_400_000


@pytest.fixture
def log(ward):
    """A ward, its index's folder, and a function that writes an access to patients."""
    here = ward()
    index = make_index_folder(here.state)

    def write(*patients, at=MAY, question=None):
        consent = read_consent(here.state, here.folder)
        marks = tuple(sorted(map(consent.marks.of, patients)))
        access = Access(at=at, by="alice", kinds={"letter": len(patients)}, patients=marks, question=question)
        write_access(index, access, consent)

    write.here, write.index, write.folder = here, index, index / search_accesses.FOLDER
    write.marks = read_consent(here.state, here.folder).marks
    return write


def test_it_can_be_asked_about_a_patient_and_names_none(log):
    log("patient-nord", "patient-sud")
    log("patient-sud", at=MAY + 1)
    log(at=MAY + MONTH)  # who was shown nothing stands in it too
    assert [(each.by, each.kinds["letter"]) for each in read_accesses(log.index)] == [
        ("alice", 2),
        ("alice", 1),
        ("alice", 0),
    ]
    assert [each.at for each in read_accesses(log.index, log.marks.of("patient-sud"))] == [MAY, MAY + 1]
    assert [path.name for path in sorted(log.folder.glob("*.jsonl"))] == ["2026-05.jsonl", "2026-06.jsonl"]
    files = list(log.folder.glob("*.jsonl"))
    assert {path.stat().st_mode & 0o077 for path in (log.folder, *files)} == {0}
    assert not any(b"patient" in path.read_bytes().replace(b'"patients"', b"") for path in files)


def test_the_question_is_kept_where_the_hospital_says_so(log):
    log("p1", question="gout")
    keep_settings(log.index, AccessLog(questions=True))
    log("p1", question="gout again")
    keep_settings(log.index, AccessLog())
    log("p1", question="gout at last")
    assert [each.question for each in read_accesses(log.index)] == [None, "gout again", None]


def test_months_beyond_those_wanted_are_removed(log):
    keep_settings(log.index, AccessLog(keep_months=2))
    for month in range(12):
        log("p1", at=MAY + month * MONTH)
    # the last of them is 4 May 2026 + 341 days = 10 April 2027, which keeps February and March beside itself
    assert sorted(path.stem for path in log.folder.glob("*.jsonl")) == ["2027-02", "2027-03", "2027-04"]


def test_who_is_forgotten_goes_out_of_every_line_and_question_and_comes_into_none(log):
    keep_settings(log.index, AccessLog(questions=True))
    log("p1", "p2", question="gout")
    log("p2", at=MAY + MONTH, question="fever")
    log("p1", at=MAY + MONTH, question="letters of P2, please")
    log("p1", at=MAY + MONTH, question="cough")
    forget_patient(log.here.folder, log.here.state, "p2")
    consent = read_consent(log.here.state, log.here.folder)
    forget_in_accesses(log.index, consent.forgotten, ["p2"])
    assert [(len(each.patients), each.erased, each.question) for each in read_accesses(log.index)] == [
        (1, 1, None),
        (0, 1, None),
        (1, 0, None),
        (1, 0, "cough"),
    ]
    log("p2", "p1", at=MAY + MONTH, question="gout of p2?")  # found a moment before
    log(at=MAY + MONTH, question="is (p2) here?")
    assert [(len(each.patients), each.erased, each.question) for each in read_accesses(log.index)][-2:] == [
        (1, 1, None),
        (0, 0, None),
    ]
    mark = log.marks.of("p2").encode()
    assert not any(mark in path.read_bytes() for path in log.folder.iterdir())


def test_a_withdrawal_that_this_process_does_not_know_yet_counts_by_what_the_index_keeps(log):
    before = read_consent(log.here.state, log.here.folder)
    forget_patient(log.here.folder, log.here.state, "p2")
    (log.index / "consent").mkdir(exist_ok=True)
    keep_consent(log.index, read_consent(log.here.state, log.here.folder).kept(removed=False))
    shown = Access(at=MAY, by="alice", kinds={"letter": 1}, patients=(log.marks.of("p2"),))
    write_access(log.index, shown, before)
    assert [(each.patients, each.erased) for each in read_accesses(log.index)] == [((), 1)]


def test_a_line_that_a_crash_cut_off_spoils_no_other(log):
    log("p1")
    path = log.folder / "2026-05.jsonl"
    path.write_bytes(path.read_bytes() + json.dumps({"at": 1})[:5].encode())
    log("p2")
    assert [each.at for each in read_accesses(log.index)] == [MAY, MAY]


def test_where_it_cannot_be_written_nothing_is_shown(log):
    (log.index / search_accesses.FOLDER).mkdir(exist_ok=True)
    (log.folder / "2026-05.jsonl").symlink_to(log.here.folder / "elsewhere")
    with pytest.raises(DataUnusable, match="nothing is shown"):
        log("p1")
    assert not (log.here.folder / "elsewhere").exists()
