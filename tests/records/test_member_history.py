"""Who was in the data at each version, over crashes and losses, against a plain dictionary of sets."""

import random

import numpy as np
import pytest

from fedhealth.records.marks import PatientMarks, short_mark, without_patients
from fedhealth.records.members import MemberHistory, digest_of_members
from fedhealth.records.table import Table


def marks(*numbers):
    return np.array(sorted(numbers), dtype=np.uint64)


def test_every_version_can_be_told_for_patients_who_come_leave_and_return(tmp_path):
    generator, history, versions = random.Random(3), MemberHistory(tmp_path / "members"), {}  # noqa: S311 - the same draws in every run
    for version in range(1, 30):
        versions[version] = {mark for mark in range(40) if generator.random() < 0.7}
        assert history.record(version, marks(*versions[version])) == digest_of_members(marks(*versions[version]))
        if version % 4 == 0:  # a crash came before the journal named this version, and the data changed again
            versions[version] = {mark for mark in range(40) if generator.random() < 0.7}
            history.record(version, marks(*versions[version]))
    for version, members in versions.items():
        assert set(history.members(version).tolist()) == members, version


def test_patients_who_stay_take_sixteen_bytes_each_whatever_the_versions(tmp_path):
    history = MemberHistory(tmp_path / "members")
    everybody = np.arange(10**4, dtype=np.uint64)
    history.record(1, everybody)
    history.record(2, everybody[1:])
    assert (tmp_path / "members").stat().st_size == 16 * 10**4
    assert 0 in history.members(1) and 0 not in history.members(2)


def test_without_a_file_nobody_is_known_and_the_digest_says_so(tmp_path):
    history = MemberHistory(tmp_path / "members")
    digest = history.record(1, marks(1, 2))
    (tmp_path / "members").unlink()
    assert digest_of_members(history.members(1)) != digest
    history.record(2, marks(1, 2, 3))
    assert digest_of_members(history.members(1)) != digest
    assert digest_of_members(history.members(2)) == digest_of_members(marks(1, 2, 3))


@pytest.mark.parametrize(
    "other", [(b"x" * 32, "ward", "id"), (bytes(32), "icu", "id"), (bytes(32), "ward", "mrn")], ids=str
)
def test_marks_change_with_secret_data_set_and_column_and_their_scheme_tells(other):
    own, foreign = PatientMarks.under(bytes(32), "ward", "id"), PatientMarks.under(*other)
    assert own.of("p1") != foreign.of("p1") and own.scheme != foreign.scheme
    assert own.of("p1") == PatientMarks.under(bytes(32), "ward", "id").of("p1") != own.of("p2")


def test_without_a_patient_all_rows_of_the_patient_are_gone_and_no_other(tmp_path):
    rows = ((2, ("a", "1")), (3, ("b", "2")), (4, ("a", "3")), (5, ("", "4")))
    table, own = Table(tmp_path, ("id", "x"), rows), PatientMarks.under(bytes(32), "ward", "id")
    rest, members = without_patients(table, own, {own.of("a")})
    assert rest.rows == (rows[1], rows[3])
    assert members.tolist() == [short_mark(own.of("b"))], "a row without a patient is nobody's"
    same, members = without_patients(table, own, frozenset())
    assert same.rows == rows and set(members.tolist()) == {short_mark(own.of(name)) for name in "ab"}
