"""Counts from hospital to hospital: what a site is told of the others, and what each of them heard."""

import asyncio
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from study_scene import study_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "site"))
from counted_ward import ASKER, LEDGER_KEYS, WITNESS, CountedWard, patients, query, search_study, signed_query

from fedhealth.canonical import canonical_bytes
from fedhealth.coordinator.asking import Asker, NoRelease
from fedhealth.coordinator.count_desk import CountDesk, offer_search, signed_searches
from fedhealth.coordinator.service import Coordinator
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.errors import IdentityInvalid, LinkUnavailable, RefusalCode
from fedhealth.link.counts import read_answer
from fedhealth.link.frames import Answer, AskHead, Refused, pack, unpack_request
from fedhealth.privacy.release import ReleaseIdentity, input_digest
from fedhealth.signing import public_key_hex
from fedhealth.study.signature import sign_study

STUDY = search_study()
PARKINSON = query("icd10:G20")


class Federation:
    """Two hospitals that count, one that asks, and the coordinator's desk between them."""

    def __init__(self, folder, wards):
        self.wards, self.away, self.heard = wards, set(), []
        pinned = {site: PinnedSite(ledger_key=public_key_hex(LEDGER_KEYS[site].public_key())) for site in wards}
        (folder / "witnessed").mkdir()
        self.asker = Asker(self.carry, Witness(folder / "witnessed", pinned, WITNESS))
        offer_search(folder / "searches", sign_study(STUDY, ASKER))
        self.desk = CountDesk(folder / "searches", self.asker, lambda: (*wards, "far-away"))

    async def carry(self, site, frame):
        if site in self.away:
            raise LinkUnavailable("away")
        self.heard.append(bytes(frame))
        return self.wards[site].gate.handle(frame).frame

    def ask(self, data, asking="far-away"):
        return read_answer(asyncio.run(self.desk._answer(asking, data)))


@pytest.fixture
def federation(tmp_path):
    return Federation(tmp_path, {site: CountedWard(patients(), STUDY, site=site) for site in ("ward-a", "ward-b")})


def test_every_other_hospital_counts_once_and_the_same_again_costs_nothing(federation):
    first = federation.ask(signed_query(STUDY, PARKINSON))
    assert set(first.counts) == {"ward-a", "ward-b"} and not first.absent and not first.refused
    assert all(abs(count - 30) < 40 for count in first.counts.values())
    assert federation.ask(signed_query(STUDY, PARKINSON)) == first
    assert [ward.charged for ward in federation.wards.values()] == [1, 1]


def test_a_count_is_kept_by_its_gate_whatever_else_is_acknowledged(federation):
    first = federation.ask(signed_query(STUDY, PARKINSON))
    federation.asker.checkpointed()
    asyncio.run(federation.asker.head("ward-a"))
    assert federation.ask(signed_query(STUDY, PARKINSON)) == first
    assert federation.asker.received() == {}


def test_who_is_away_or_has_spent_is_named_and_the_others_counts_are_there(federation):
    federation.away.add("ward-a")
    found = federation.ask(signed_query(STUDY, PARKINSON))
    assert found.absent == {"ward-a": "away"} and set(found.counts) == {"ward-b"}
    federation.away.clear()
    for number in range(STUDY.counts.most_of_an_asker):
        found = federation.ask(signed_query(STUDY, query(f"icd10:A{number:02}")))
    assert found.absent == {"ward-b": "budget-spent"} and set(found.counts) == {"ward-a"}


def test_a_count_comes_between_two_rounds_and_a_site_that_works_for_too_long_is_busy_and_not_away(
    federation, monkeypatch
):
    monkeypatch.setattr("fedhealth.coordinator.count_desk.SITE_SECONDS", 0.5)
    ward, order = federation.wards["ward-a"], []
    goes_on = asyncio.Event()

    async def carry(site, frame):
        request = unpack_request(frame)[0]
        if isinstance(request, Answer) and request.step == "train":
            order.append(f"round {request.round}")
            await goes_on.wait()
            return pack(Refused(code=RefusalCode.BUSY))
        if site == "ward-a" and isinstance(request, Answer):
            order.append("count")
        return federation.wards[site].gate.handle(frame).frame

    monkeypatch.setattr(federation.asker, "_carry", carry)

    async def train(number):
        weights = bytes(8)
        release = ReleaseIdentity(
            site="ward-a", study="1" * 64, step="train", round=number, input_digest=input_digest(weights)
        )
        with pytest.raises(NoRelease, match="busy"):
            await federation.asker.ask(release, weights)

    async def ask():
        return read_answer(await federation.desk._answer("far-away", signed_query(STUDY, PARKINSON)))

    async def day():
        first = asyncio.create_task(train(1))
        await asyncio.sleep(0)
        busy = await ask()
        monkeypatch.setattr("fedhealth.coordinator.count_desk.SITE_SECONDS", 10)
        again = asyncio.create_task(ask())
        await asyncio.sleep(0.01)
        second = asyncio.create_task(train(2))  # asked for later, so it waits for the count
        await asyncio.sleep(0.01)
        goes_on.set()
        await asyncio.gather(first, second)
        return busy, await again

    busy, again = asyncio.run(day())
    assert busy.absent == {"ward-a": "busy"} and set(busy.counts) == {"ward-b"}
    assert set(again.counts) == {"ward-a", "ward-b"} and not again.absent
    assert order == ["round 1", "count", "round 2"]
    assert ward.charged == 1


def test_a_small_count_is_no_number(federation):
    nobody = federation.ask(signed_query(STUDY, query("icd10:Z99")))
    assert set(nobody.counts) == {"ward-a", "ward-b"}
    assert all(count is None or count >= STUDY.counts.least_shown for count in nobody.counts.values())


def test_a_hospital_that_answers_with_an_impossible_count_spoils_nobody_elses(federation, monkeypatch):
    def lies(step, *rest):
        return (2**53).to_bytes(8, "little")

    with monkeypatch.context() as lying:
        lying.setattr("fedhealth.site.gate.count", lies)
        federation.away.add("ward-b")
        federation.ask(signed_query(STUDY, PARKINSON))
    federation.away.clear()
    found = federation.ask(signed_query(STUDY, PARKINSON))
    assert found.absent == {"ward-a": "away"} and set(found.counts) == {"ward-b"}


def test_a_damaged_offer_spoils_no_other(federation, tmp_path):
    (tmp_path / "searches" / f"{'0' * 64}.signed").write_bytes(b"{")
    assert set(federation.ask(signed_query(STUDY, PARKINSON)).counts) == {"ward-a", "ward-b"}
    (tmp_path / "searches" / f"{STUDY.digest}.signed").write_bytes(b"{")
    assert "offers no such search study" in federation.ask(signed_query(STUDY, PARKINSON)).refused


@pytest.mark.parametrize(
    ("data", "asking", "said"),
    [
        (b"douleur thoracique de Madame X", "far-away", "malformed"),
        (signed_query(STUDY, PARKINSON), "ward-a", "in the name of another site"),
        (signed_query(search_study(most=19), PARKINSON), "far-away", "offers no such search study"),
    ],
)
def test_what_nobody_is_asked_reaches_no_hospital(federation, data, asking, said):
    found = federation.ask(data, asking)
    assert said in found.refused and not found.counts and not found.absent
    assert federation.heard == []


def test_a_study_that_is_run_is_not_offered_as_a_search(tmp_path):
    with pytest.raises(IdentityInvalid, match="is no search study"):
        offer_search(tmp_path / "searches", sign_study(study_of(), ASKER))
    assert not signed_searches(tmp_path / "searches")


def test_during_a_run_over_a_superlink_counts_go_over_the_link_and_the_runs_frames_do_not():
    async def over(way, *_):
        return way

    run = SimpleNamespace(study=study_of(), approved={})
    coordinator = SimpleNamespace(
        _running=run,
        _superlink=SimpleNamespace(carry=partial(over, "superlink")),
        link=SimpleNamespace(ask=partial(over, "link")),
    )

    def way_of(request, body=b""):
        return asyncio.run(Coordinator._carry(coordinator, "ward-a", pack(request, body)))

    assert way_of(Answer(study=STUDY.digest, step="count", round=1), signed_query(STUDY, PARKINSON)) == "link"
    assert way_of(Answer(study=run.study.digest, step="train", round=1), bytes(8)) == "superlink"
    assert way_of(AskHead(since=0)) == "superlink"
    coordinator._running = None
    assert way_of(AskHead(since=0)) == "link"


def test_the_answer_is_named_by_the_query_alone():
    data = signed_query(STUDY, PARKINSON)
    assert input_digest(PARKINSON.input_bytes) != input_digest(data)
    assert b"far-away" not in canonical_bytes(PARKINSON)
