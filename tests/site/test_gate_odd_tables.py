"""Tables that are odd and legal: one patient, a patient with thousands of records; the gate answers with noise."""

import numpy as np
import pytest

from fedhealth.link.frames import ReleaseReply

HEADER = "id,age,dose,ill\n"


def seen_by(site):
    """Return the records that a step of the gate gets, by step, from a fresh start on the table as it stands."""
    seen = {}

    def look(step, weights, records, streams):
        seen[step.name] = records
        return site.noise(step, weights, records, streams)

    site.reopen(look)
    replies = [site.ask("train"), site.ask("evaluate")]
    assert all(isinstance(reply[0], ReleaseReply) for reply in replies)
    return seen, replies


@pytest.fixture
def odd(hospital, steps):
    site = hospital()
    site.noise = steps["noise_only"]
    return site


@pytest.mark.parametrize("rows", ["p1,50,5,1\n", "p1,50,5,1\n" * 3, ""], ids=["one record", "three records", "nobody"])
def test_one_patient_or_none_gets_releases_like_any_other_table(odd, rows):
    _, full = seen_by(odd)
    spent, size = odd.charges(), odd.entries
    odd.csv.write_text(HEADER + rows)
    # Rounds 2 and 3: the first is stored already, with the bytes it had.
    odd.reopen(odd.noise)
    replies = [odd.ask("train", 2), odd.ask("train", 3)]
    assert all(isinstance(reply, ReleaseReply) for reply, _, _ in replies)
    assert [(len(body), wait) for _, body, wait in replies] == [(len(full[0][1]), full[0][2])] * 2
    assert (odd.charges(), odd.entries) == (spent + 2, size + 4)


def test_a_side_with_one_patient_or_none_is_computed_on_what_there_is(odd):
    odd.csv.write_text(HEADER + "p1,50,5,1\n")
    seen, replies = seen_by(odd)
    # One patient is on one side, so that the other has nobody.
    assert sorted(records.patient_count for records in seen.values()) == [0, 1]
    assert all(body for _, body, _ in replies)


def test_of_ten_thousand_records_of_a_patient_only_as_many_count_as_the_study_allows(odd):
    others = "".join(f"p{patient},{20 + patient},{patient % 10},{patient % 2}\n" for patient in range(1, 24))
    many = [f"p0,{20 + row % 60},{row % 10},{row % 2}\n" for row in range(10_000)]
    odd.csv.write_text(HEADER + others + "".join(many))
    crowded, _ = seen_by(odd)
    assert max(np.bincount(crowded["train"].patients).max(), np.bincount(crowded["evaluate"].patients).max()) == 4
    assert sum(len(records.labels) for records in crowded.values()) == 23 + 4
    odd.csv.write_text(HEADER + others + "".join(many[:4]))
    for number, records in enumerate(prepared(odd)):
        for field in ("features", "labels", "patients"):
            wanted = getattr(crowded[("train", "evaluate")[number]], field)
            np.testing.assert_array_equal(getattr(records, field), wanted)


def prepared(site):
    """Return the two sides as the gate holds them after a restart."""
    site.reopen(site.noise)
    sides = site.gate._prepared.records[site.study.digest]
    return sides["training"], sides["held-out"]
