"""Counts at the gate: charged to everybody once, answered alike to all for a quarter, and silent about one patient."""

import json
from collections import Counter
from math import exp

import pytest
from counted_ward import (
    ASKING_KEY,
    BUDGET,
    NOVEMBER_2026,
    REPLY_AFTER_SECONDS,
    CountedWard,
    patients,
    query,
    search_study,
    signed_query,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.link.frames import Answer, Witnessed, pack
from fedhealth.privacy.entries import Withdrawn
from fedhealth.privacy.journal import ConsentNote
from fedhealth.records.marks import PatientMarks
from fedhealth.search.coded_patients import CodedPatients, PatientFacts
from fedhealth.search.counting import CountStep, read_count
from fedhealth.signing import public_key_hex
from fedhealth.study.search_study import SearchStudy

ANOTHER = Ed25519PrivateKey.from_private_bytes(b"another".ljust(32))
FEBRUARY_2027 = NOVEMBER_2026 + 90 * 24 * 3600 * 1000
PARKINSON = query("icd10:G20")


@pytest.fixture
def ward():
    return CountedWard(patients())


def test_a_count_is_near_the_truth_leaves_at_its_time_and_is_charged_to_both_sides_once(ward):
    header, body, seconds = ward.ask(signed_query(ward.study, PARKINSON))
    assert (header.kind, len(body)) == ("release", 8)
    assert seconds == pytest.approx(REPLY_AFTER_SECONDS)
    assert abs(int.from_bytes(body, "little", signed=True) - 30) < 40  # beyond that with probability e**-20
    price = BUDGET.cost_of(CountStep(ward.study).event)
    spent = [ward.ledger.account.spent(ward.study.digest, side) for side in ("training", "held-out")]
    assert spent == [price, price]


def test_the_same_question_has_the_same_answer_whoever_asks_and_however_often_and_costs_nothing_more(ward):
    first = ward.ask(signed_query(ward.study, PARKINSON))[1]
    assert ward.ask(signed_query(ward.study, PARKINSON))[1] == first
    assert ward.ask(signed_query(ward.study, PARKINSON, key=ANOTHER))[1] == first
    assert ward.ask(signed_query(ward.study, query("icd10:G20", "icd10:G20")))[1] == first
    assert ward.charged == 1
    ward.facts = patients(200)  # the index grew
    ward.serve()
    assert ward.ask(signed_query(ward.study, PARKINSON))[1] == first
    ward.at = FEBRUARY_2027  # and the quarter ended
    assert ward.ask(signed_query(ward.study, PARKINSON))[1] == first
    assert ward.charged == 1


def test_another_quarter_is_another_count(ward):
    ward.count(PARKINSON)
    ward.at = FEBRUARY_2027
    ward.count(query("icd10:G20", quarter="2027-Q1"), until="2027-Q1")
    assert ward.charged == 2


@pytest.mark.parametrize(("days", "quarter"), [(-180, "2026-Q2"), (240, "2027-Q3")])
def test_before_the_first_and_after_the_last_quarter_of_a_study_nothing_is_counted(ward, days, quarter):
    ward.at += days * 24 * 3600 * 1000
    asked = signed_query(ward.study, query("icd10:G20", quarter=quarter), until="2028-Q1")
    assert ward.ask(asked)[0].code.value == "bad-request"
    assert ward.charged == 0


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (PARKINSON, 30),
        (query("icd10:G20", "atc:N04BA"), 10),  # multiples of 6 below 60
        (query("icd10:G20", "atc:N04"), 10),
        (query("icd10:G20", none_of=("icd10:F03",)), 24),  # even, no multiple of 10
        (query("icd10:G20", ages=(60, 65)), 3),  # 60 to 64 in 2026: born 1962 to 1966, of whom 22, 24 and 26 are even
        (query("icd10:G20", sex="male"), 15),  # multiples of 4
        (query("icd10:G2Z"), 0),
    ],
)
def test_it_counts_who_has_the_codes_the_age_and_the_sex(asked, wanted):
    assert CodedPatients.of(patients(), 100).count(asked) == wanted


def test_a_patient_of_unknown_age_or_sex_is_of_no_age_and_no_sex():
    unknown = CodedPatients.of([PatientFacts("p", frozenset({"icd10:G20"}), None, None)], 100)
    assert unknown.count(PARKINSON) == 1
    assert unknown.count(query("icd10:G20", ages=(0, 120))) == 0
    assert unknown.count(query("icd10:G20", sex="female")) == 0


def test_of_each_patient_so_many_codes_are_looked_at_and_no_more():
    facts = [PatientFacts("p", frozenset({"icd10:A00", "icd10:B00", "icd10:C00"}), None, None)]
    assert [CodedPatients.of(facts, 2).count(query(f"icd10:{letter}00")) for letter in "ABC"] == [1, 1, 0]


def test_a_small_noisy_count_is_answered_as_fewer_and_the_noise_is_two_sided_geometric():
    # One count of nobody under each of 400 secrets: fewer exactly where the noise is below 5, with probability
    # 1 - p**5 / (1 + p), p = e**-0.5: 0.949. The chance of less than 0.90 is below 1e-5.
    fewer = Counter(CountedWard([], noise=secret).count(PARKINSON) is None for secret in range(400))
    assert 0.90 < fewer[True] / 400 < 0.985
    assert 1 - exp(-2.5) / (1 + exp(-0.5)) == pytest.approx(0.949, abs=1e-3)


def test_an_asker_who_has_spent_a_quarter_is_told_so_and_others_go_on():
    ward = CountedWard(patients(), search_study(most_of_an_asker=2))
    codes = [query(f"icd10:A{number:02}") for number in range(4)]
    for asked in codes[:2]:
        ward.count(asked)
    assert ward.ask(signed_query(ward.study, codes[2]))[0].code.value == "budget-spent"
    ward.count(codes[0])  # what was counted is still answered
    ward.count(codes[2], key=ANOTHER)
    ward.count(codes[2])  # and now to the first, for nothing
    assert ward.charged == 3


def test_a_hospital_that_vouches_for_several_keys_has_one_share_of_them_and_other_hospitals_their_own():
    elsewhere = Ed25519PrivateKey.from_private_bytes(b"elsewhere".ljust(32))
    sites = [("far-away", ASKING_KEY), ("elsewhere", elsewhere)]
    asking = [{"site": site, "key": public_key_hex(key.public_key())} for site, key in sites]
    limited = search_study(most_of_an_asker=2, most_of_a_hospital=3)
    ward = CountedWard(patients(), SearchStudy.model_validate(limited.model_dump() | {"asking_sites": asking}))
    codes = [query(f"icd10:A{number:02}") for number in range(5)]
    ward.count(codes[0])
    ward.count(codes[1])
    ward.count(codes[2], key=ANOTHER)
    assert ward.ask(signed_query(ward.study, codes[3], key=ANOTHER))[0].code.value == "budget-spent"
    ward.count(codes[0], key=ANOTHER)  # what was counted is still answered
    other = {"site": "elsewhere", "asking_key": elsewhere}
    ward.count(codes[3], key=ANOTHER, **other)  # the other hospital's, of the same person: the key's share is 2
    assert ward.ask(signed_query(ward.study, codes[4], key=ANOTHER, **other))[0].code.value == "budget-spent"
    asked = ward.ledger.account.asked.of(ward.study.digest)
    assert sorted((each.site, each.counts) for each in asked) == [("elsewhere", 1), ("far-away", 1), ("far-away", 2)]


@pytest.mark.parametrize(
    ("most", "words"), [(9, "wanted at least most_of_an_asker"), (0, "greater than or equal to 1")]
)
def test_a_hospitals_share_holds_that_of_an_asker_and_is_in_no_digest_where_it_is_not_said(most, words):
    with pytest.raises(ValidationError, match=words):
        search_study(most_of_a_hospital=most)
    assert "hospital" not in search_study().model_dump_json()


def test_with_its_last_count_a_study_is_spent():
    ward = CountedWard(patients(), search_study(most=3))
    for number in range(3):
        ward.count(query(f"icd10:A{number:02}"))
    assert ward.ask(signed_query(ward.study, PARKINSON))[0].code.value == "budget-spent"
    assert ward.charged == 3


def _changed(data, **parts):
    return canonical_bytes(json.loads(data) | parts)


STUDY = search_study()
GOOD = signed_query(STUDY, PARKINSON)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff" * 64,
        GOOD + b" ",
        GOOD[:-1],
        b"x" * 9000,
        _changed(GOOD, purpose="public-health"),
        _changed(GOOD, study="0" * 64),
        _changed(GOOD, text="free text"),
        signed_query(STUDY, PARKINSON, role="researcher"),
        signed_query(STUDY, PARKINSON, site="nobody"),
        signed_query(STUDY, PARKINSON, asking_key=ANOTHER),
        signed_query(STUDY, PARKINSON, until="2026-Q3"),
        signed_query(STUDY, query("icd10:G20", quarter="2026-Q3"), until="2027-Q4"),
        signed_query(STUDY, query("icd10:G20", quarter="2027-Q1"), until="2027-Q4"),
        signed_query(STUDY, query("icd10:G20", quarter="2028-Q1"), until="2029-Q4"),
        signed_query(search_study(most=21), PARKINSON),
    ],
    ids=[
        *("nothing", "no query", "no text", "a byte more", "a byte less", "too long", "a purpose that nobody signed"),
        *("a study that nobody signed", "free text", "another role", "a hospital that nobody knows"),
        *("a key that is not the hospital's", "an asker whose time is over", "a quarter that is over"),
        *("a quarter to come", "a quarter after the study", "another study"),
    ],
)
def test_whoever_may_not_ask_gets_one_word_and_costs_nothing(ward, data):
    header, body, seconds = ward.ask(data)
    assert (header.kind, header.code.value, body, seconds) == ("refused", "bad-request", b"", 0)
    assert ward.charged == 0
    assert ward.count(PARKINSON) is not None  # and the gate goes on


def test_a_search_study_takes_no_weights_and_a_training_study_no_queries(ward):
    for step in ("train", "evaluate"):
        header = ward.send(pack(Answer(study=ward.study.digest, step=step, round=1), bytes(24)))[0]
        assert header.code.value == "bad-request"
    assert ward.send(pack(Answer(study=ward.study.digest, step="count", round=2), GOOD))[0].code.value == "bad-request"


def test_a_policy_without_search_refuses(ward):
    assert ward.put()[0].kind == "accepted"
    ward.gate.inputs.policy.__dict__["tasks"] = ("diagnosis",)
    assert ward.put()[0].code.value == "policy"


def test_a_count_that_fails_after_its_charge_stops_the_study_here_and_is_busy_to_others(ward, monkeypatch):
    def dies(*_):
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr("fedhealth.site.gate.count", dies)
        assert ward.ask(GOOD)[0].code.value == "busy"
    assert ward.charged == 1
    assert ward.ask(GOOD)[0].code.value == "busy"  # its administrator decides


CODES = ("icd10:G20", "icd10:F03", "icd10:I50.1", "icd10:I50", "atc:N04BA02", "atc:N04", "icd10:Z99")
QUERIES = st.builds(
    lambda all_of, none_of, band, sex: query(
        *all_of,
        none_of=tuple(code for code in none_of if not any(code.split(".")[0] in each for each in all_of)),
        ages=None if band is None else (5 * band, 5 * band + 20),
        sex=sex,
    ),
    st.lists(st.sampled_from(CODES), min_size=1, max_size=2),
    st.lists(st.sampled_from(("icd10:F03", "icd10:Z99")), max_size=2),
    st.none() | st.integers(0, 19),
    st.sampled_from((None, "female", "male")),
)
PEOPLE = st.lists(
    st.tuples(st.sets(st.sampled_from(CODES)), st.none() | st.integers(1900, 2026), st.sampled_from((None, "female"))),
    min_size=1,
    max_size=8,
)


REFUSED = st.sampled_from(
    [
        lambda study: b"",
        lambda study: _changed(signed_query(study, PARKINSON), text="free text"),
        lambda study: signed_query(study, PARKINSON, role="researcher"),
        lambda study: signed_query(study, query("icd10:G20", quarter="2026-Q3")),
        lambda study: signed_query(study, PARKINSON, asking_key=ANOTHER),
    ]
)
ASKED = st.lists(REFUSED | QUERIES.map(lambda asked: lambda study: signed_query(study, asked)), min_size=1, max_size=6)


def _withdraw_consent(ward, *patients):
    marks = PatientMarks.under(bytes(32), "ward", "id")
    for patient in patients:
        mark = {"scheme": marks.scheme, "mark": marks.of(patient)}
        ward.ledger.note(ConsentNote(kind="consent-withdrawn", data_set="ward", by="test", at=1, **mark))
    ward.serve()


def _told(facts, asked, *withdrawn):
    """Return all that the other side sees of a gate that is asked these, but for the noised numbers."""
    ward, said = CountedWard(facts, search_study(most=4, most_of_an_asker=3)), []
    _withdraw_consent(ward, *withdrawn)
    for each in asked:
        header, body, seconds = ward.ask(each(ward.study))
        said.append((header.kind, getattr(header, "code", None), len(body), seconds, ward.ledger.size))
    return said, ward.charged, ward.put()[0].kind


@settings(max_examples=25, deadline=None)
@given(people=PEOPLE, left_out=st.integers(0, 7), asked=ASKED)
def test_a_gate_says_the_same_with_and_without_one_patient_but_for_the_noised_numbers(people, left_out, asked):
    facts = [PatientFacts(f"p{n}", frozenset(codes), year, sex) for n, (codes, year, sex) in enumerate(people)]
    one = facts[left_out % len(facts)]
    without = [each for each in facts if each is not one]  # of one patient alone an empty index is left
    assert _told(facts, asked) == _told(without, asked) == _told(facts, asked, one.patient)


def test_the_transcripts_compared_hold_counts_fewer_refusals_and_the_end_of_the_budget():
    asked = [query(f"icd10:A{number:02}") for number in range(4)]
    said, charged, _ = _told(patients(), [*(lambda study, each=each: signed_query(study, each) for each in asked)])
    assert [(kind, size) for kind, _, size, _, _ in said] == [("release", 8)] * 3 + [("refused", 0)]
    assert (said[3][1].value, charged) == ("budget-spent", 3)
    assert _told([], [lambda study: b""])[0][0][1].value == "bad-request"
    nobody, somebody = CountedWard([], noise=1), CountedWard(patients(), noise=1)
    assert (nobody.count(PARKINSON), somebody.count(PARKINSON) is None) == (None, False)
    assert _told([], [lambda study: signed_query(study, PARKINSON)]) == _told(
        patients(), [lambda study: signed_query(study, PARKINSON)]
    )


def test_a_patient_who_withdrew_the_consent_is_not_counted_and_counts_again_once_it_is_given_again(ward):
    marks = PatientMarks.under(bytes(32), "ward", "id")

    def note(kind):
        mark = {"scheme": marks.scheme, "mark": marks.of("p0")}
        ward.ledger.note(ConsentNote(kind=kind, data_set="ward", by="test", at=1, **mark))
        ward.serve()

    note("consent-withdrawn")
    # Noise comes from what is counted: a gate that never had the patient says the very same.
    assert ward.count(PARKINSON) == CountedWard(patients()[1:]).count(PARKINSON)
    note("consent-renewed")
    assert ward.count(query("atc:N04BA")) == CountedWard(patients()).count(query("atc:N04BA"))


def _begin(ward, asked):
    data = signed_query(ward.study, asked)
    return ward.send(pack(Answer(study=ward.study.digest, step="count", round=1), data))[0].kind


def _countersign(ward):
    return ward.send(pack(Witnessed(study=ward.study.digest, receipt=ward.receipt())))


def test_two_questions_whose_frames_are_mixed_are_each_charged_and_counted_once(ward):
    apart = CountedWard(patients())
    wanted = {asked: apart.count(asked) for asked in (PARKINSON, query("icd10:F03"))}
    assert [_begin(ward, asked) for asked in wanted] == ["need-witness"] * 2
    header, body, _ = _countersign(ward)  # for both charges; it lets the later one go
    assert (header.kind, read_count(body, ward.study)) == ("release", wanted[query("icd10:F03")])
    assert _countersign(ward)[0].code.value == "bad-request"
    assert {asked: ward.count(asked) for asked in wanted} == wanted
    assert ward.charged == 2


def test_a_gate_that_ends_between_charge_and_count_counts_once_on_what_it_finds_then(ward):
    assert _begin(ward, PARKINSON) == "need-witness"
    ward.facts = patients(200)
    ward.serve()
    said = ward.count(PARKINSON)
    assert said == CountedWard(patients(200)).count(PARKINSON)
    ward.facts = patients()
    ward.serve()
    assert (ward.count(PARKINSON), ward.charged) == (said, 1)


def test_a_study_that_was_withdrawn_answers_nothing_not_even_what_was_counted(ward):
    ward.count(PARKINSON)
    assert _begin(ward, query("icd10:F03")) == "need-witness"
    ward.ledger.append(Withdrawn(study=ward.study.digest, by="test", at=1))
    for reply in (_countersign(ward), ward.ask(GOOD), ward.ask(signed_query(ward.study, query("icd10:F03")))):
        assert reply[0].code.value == "not-approved"


def test_one_patient_moves_a_count_by_one_at_most_and_the_noise_is_another(ward):
    # The noise of the two wards comes from different keys, since their patients differ: equal noise would show the one.
    fewer = CountedWard(patients()[:-2])
    differences = {ward.count(asked) - fewer.count(asked) for asked in (query(f"icd10:{c}") for c in ("G20", "F03"))}
    assert differences - {-1, 0, 1}
